"""What the API refuses, what it says then, and what it must not say."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx2
import pytest

from bitweir_compression.session.lane import Ending
from bitweir_services.api_requests import CHOICES_MAX, MESSAGES_MAX, PARTS_MAX, USER_CHARACTERS_MAX, Limits
from bitweir_services.errors import BusyError, EngineError, LinkDownError, RequestError
from bitweir_services.questions import Done, Piece
from tests.unit.services.running_api import CHAT, COMPLETION, HI, ONCE, events, post, with_client
from tests.unit.services.scripted_answering import MODEL, ScriptedAnswering

WORDS = "words-of-a-user"
PART = {"type": "text", "text": "Hi"}
# Where the script's errors are raised.
RAISES = "scripted_answering.py:36"
USER = {"role": "user", "content": "Hi"}


def refused(response: httpx2.Response, status: int = 400) -> dict[str, str | None]:
    """Return the error of a response, which has this status and OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert list(document["error"]) == ["message", "type", "param", "code"]
    assert document["error"]["message"]
    return document["error"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({name: value}, name) for name, value in [
            ("logprobs", True), ("top_logprobs", 2), ("tools", [{"type": "function"}]), ("tool_choice", "auto"),
            ("response_format", {"type": "json_object"}), ("functions", [{}]), ("function_call", "auto"),
            ("audio", {}), ("modalities", ["audio"]), ("frequency_penalty", 1), ("presence_penalty", 0.5),
            ("parallel_tool_calls", True), ("reasoning_effort", "low"), ("store", True), ("metadata", {"a": "b"}),
            ("best_of", 2), ("echo", True), ("unheard_of", 1), ("\u00e9", 1), ("prompt", "x"),
            ("temperature", -1), ("temperature", 0.001), ("temperature", 101), ("temperature", "1"),
            ("temperature", True), ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("top_k", 1.5), ("top_k", 1 << 40),
            ("min_p", 2), ("n", 0), ("n", CHOICES_MAX + 1), ("n", "2"), ("seed", 1 << 63), ("seed", 0.5),
            ("max_tokens", 0), ("max_tokens", 1 << 30), ("max_completion_tokens", -1), ("user", 5),
            ("user", "u" * (USER_CHARACTERS_MAX + 1)), ("ignore_eos", 1), ("stream", "yes"), ("stop", 5),
            ("stop", list("abcde")), ("logit_bias", []), ("logit_bias", {"x": 1}), ("logit_bias", {"01": 1}),
            ("logit_bias", {str(i): 0 for i in range(1025)}), ("messages", None), ("messages", []),
            ("messages", "Hi"), ("messages", [USER] * (MESSAGES_MAX + 1)),
            ("messages", [{"role": "user", "content": ""}]),
            ("model", 5), ("model", None), ("stream_options", {"include_usage": True}),
        ]),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": "x" * 257}, "stop[0]"),
        ({"stop": "\udfff"}, "stop[0]"),
        ({"user": "\udfff"}, "user"),
        ({"model": "\udfff"}, "model"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [PART] * (PARTS_MAX + 1)}]}, "messages[0].content"),
        ({"messages": [{**USER, "name": "x"}]}, "messages[0].name"),
        ({"messages": [{**USER, "tool_calls": []}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content[0].text"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_wrong_field_is_named(fields: dict[str, object], param: str) -> None:
    answering = ScriptedAnswering()
    error = refused(post(answering, body={**HI, **fields}))
    assert error["param"] == ("\\xe9" if param == "\u00e9" else param)
    assert error["type"] == "invalid_request_error"
    assert error["code"] or param in {"max_completion_tokens", "messages", "stream_options"}
    assert not answering.asked


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": []}, "prompt"), ({"prompt": ["a", "b"]}, "prompt"), ({"prompt": [5]}, "prompt[0]"),
     ({"prompt": ""}, "prompt"), ({"messages": []}, "messages"),
     ({"max_completion_tokens": 5}, "max_completion_tokens"),
     ({"suffix": "x"}, "suffix"), ({"logprobs": 0}, "logprobs")],
)  # fmt: skip
def test_a_wrong_field_of_a_completion_is_named(fields: dict[str, object], param: str) -> None:
    assert refused(post(ScriptedAnswering(), COMPLETION, {**ONCE, **fields}))["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        b'{"n": NaN}',
        b'{"n": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"temperature": 0.' + b"1" * 5000 + b"}",
        b'{"n": 1, "n": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"\\ud800": 1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}",
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_json_with_more_than_one_meaning_is_refused(body: bytes) -> None:
    answering = ScriptedAnswering()
    refused(post(answering, body=body))
    assert not answering.asked


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (b'"n": 1, "n": 1', "'n' is there twice"),
        (b'"seed": null, "seed": 5', "'seed' is there twice"),
        (b'"logit_bias": {"5": 1, "5": 2}', "'5' is there twice"),
        (b'"seed": NaN', "NaN is not a number"),
        (b'"top_p": Infinity', "Infinity is not a number"),
        (b'"temperature": 1e999', "too long or too large"),
        (b'"seed": ' + b"1" * 41, "too long"),
        (b'"top_p": 0.' + b"1" * 40, "too long"),
        (b'"user": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_is_refused_for_the_reason_it_is_told(field: bytes, told: str) -> None:
    body = json.dumps(HI).encode()[:-1] + b", " + field + b"}"
    assert told in (refused(post(ScriptedAnswering(), body=body))["message"] or "")


def test_another_model_is_not_found() -> None:
    error = refused(post(ScriptedAnswering(), body={**HI, "model": "gone"}), 404)
    assert (error["type"], error["param"], error["code"]) == ("not_found_error", "model", "model_not_found")


def test_routes_and_methods() -> None:
    answering = ScriptedAnswering()
    assert refused(with_client(answering, lambda client: client.get("/v2")), 404)["code"] == "unknown_url"
    response = with_client(answering, lambda client: client.get(CHAT))
    assert refused(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"
    for path in ("/docs", "/redoc", "/openapi.json", "/v1/models/"):
        refused(with_client(answering, lambda client, path=path: client.get(path)), 404)


def test_only_json_is_read() -> None:
    for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
        refused(post(ScriptedAnswering(), headers=headers), 415)
    assert post(ScriptedAnswering(), headers={"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_a_page_of_a_browser_may_not_call_without_keys() -> None:
    refused(post(ScriptedAnswering(), headers={"origin": "http://127.0.0.1"}), 403)


def test_a_body_is_refused_before_it_is_read_whole() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            yield b" " * 100

    headers = {"content-type": "application/json"}
    limits = Limits(body_bytes_max=1000)
    answering = ScriptedAnswering()
    response = with_client(answering, lambda c: c.post(CHAT, content=endless(), headers=headers), limits=limits)
    assert refused(response, 413)["code"] == "body_too_large"
    assert sent <= 1200
    for length in ("1001", "9" * 30):
        response = post(answering, headers={"content-length": length}, limits=limits)
        assert refused(response, 413)["code"] == "body_too_large"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    headers = {"content-type": "application/json"}
    limits = Limits(body_s=0.02)
    response = with_client(ScriptedAnswering(), lambda c: c.post(CHAT, content=slow(), headers=headers), limits=limits)
    refused(response, 408)


def test_a_prompt_has_a_limit() -> None:
    limits = Limits(prompt_characters_max=10)
    assert post(ScriptedAnswering(), COMPLETION, {**ONCE, "prompt": "x" * 10}, limits=limits).status_code == 200
    error = refused(post(ScriptedAnswering(), COMPLETION, {**ONCE, "prompt": "x" * 11}, limits=limits))
    assert (error["param"], error["code"]) == ("prompt", "prompt_too_long")
    assert refused(post(ScriptedAnswering(), body={**HI, "messages": [USER] * 2}, limits=limits))["param"] == "messages"


@pytest.mark.parametrize(
    ("raised", "status", "code", "retry", "told"),
    [
        (RequestError("too long", remedy="shorten it"), 400, None, None, "too long; shorten it"),
        (BusyError("too many answers"), 429, "busy", "1", "too many answers"),
        (LinkDownError("the link is down", retry_s=17), 503, "link_down", "17", "the link is down"),
        (LinkDownError("the budget is spent"), 503, "link_down", None, "the budget is spent"),
        (EngineError(WORDS), 500, "internal_error", None, "the server failed"),
        (KeyError(WORDS), 500, "internal_error", None, "the server failed"),
    ],
)
def test_errors_before_the_first_piece_have_a_status(
    raised: Exception, status: int, code: str | None, retry: str | None, told: str
) -> None:
    for stream in (False, True):
        response = post(ScriptedAnswering([raised]), body={**HI, "stream": stream})
        error = refused(response, status)
        assert error["code"] == code
        assert response.headers.get("retry-after") == retry
        assert error["message"].startswith(told)
        assert WORDS not in response.text


@pytest.mark.parametrize("ending", [Ending.CANCELLED, Ending.LOST])
def test_an_answer_that_did_not_come_whole_is_an_error(ending: Ending) -> None:
    script = [Piece("a"), Done(ending, 1, 1, 1.0)]
    error = refused(post(ScriptedAnswering(script)), 503)
    assert (error["type"], error["code"]) == ("server_error", f"answer_{ending.value}")
    piece, event = events(post(ScriptedAnswering(script), body={**HI, "stream": True}))
    assert piece["choices"][0]["delta"]["content"] == "a"
    assert event == {"error": error}


@pytest.mark.parametrize("script", [[Piece("a"), KeyError(WORDS)], [Piece("a")]])
def test_an_error_in_a_stream_is_an_event_without_details(script: list[Piece | Exception]) -> None:
    answering = ScriptedAnswering(script)
    response = post(answering, body={**HI, "stream": True})
    *_, event = events(response)
    assert event["error"]["code"] == "internal_error"
    assert WORDS not in response.text
    assert "[DONE]" not in response.text


def test_one_choice_that_fails_ends_the_others() -> None:
    async def run() -> None:
        answering = ScriptedAnswering([asyncio.Event()], [BusyError("full")])
        from bitweir_services.api import create_app

        transport = httpx2.ASGITransport(create_app(answering, keys=None))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            refused(await client.post(CHAT, json={**HI, "n": 2}), 429)
        assert sorted(answering.closed) == [0, 1]
        assert answering.open_count == 0

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_a_prompt_an_answer_or_an_exception_is_logged(
    stream: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    script = [Piece(f"answer {WORDS}"), ValueError(WORDS)]
    body = {**HI, "messages": [{"role": "user", "content": f"prompt {WORDS}"}], "user": WORDS, "stream": stream}
    post(ScriptedAnswering(script), body=body)
    post(ScriptedAnswering(script), body={**body, WORDS: 1})
    post(ScriptedAnswering(script), body=json.dumps(body).encode() + WORDS.encode())
    # Which loop asyncio uses and what the client asked are others' records.
    ours = [record for record in caplog.records if record.name.startswith("bitweir")]
    assert [record.getMessage() for record in ours] == [f"a request failed: ValueError at {RAISES}"]
    assert WORDS not in caplog.text
    output = capfd.readouterr()
    assert WORDS not in output.out + output.err


def test_every_model_name_can_be_refused() -> None:
    for name in ("", "\u00e9", "a\nb", "x" * 1000, MODEL + " "):
        refused(post(ScriptedAnswering(), body={**HI, "model": name}), 404)
