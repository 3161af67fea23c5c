"""What the API answers, in process: whole and streamed, of both kinds, and what it asks for it."""

import asyncio
import json

import httpx2
import pytest

from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.lane import Ending
from bitweir_services.api_requests import Message, joined
from bitweir_services.questions import Done, Piece, Question
from tests.unit.services.running_api import CHAT, COMPLETION, HI, ONCE, events, post, with_client
from tests.unit.services.scripted_answering import HELLO, MODEL, ScriptedAnswering

TEXT = "Hello \u2028\u00e9\n"
OPTIONS = {"clock": lambda: 5.0, "wall_clock": lambda: 1234.5, "new_id": lambda: "x1"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
COST = {"wire_bits": 10.5, "bits_per_token": 2.625}


def test_a_chat_is_answered_whole() -> None:
    response = post(ScriptedAnswering(), **OPTIONS)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["bitweir-wire-bits"] == "10.500"
    assert response.json() == {
        "id": "chatcmpl-x1",
        "object": "chat.completion",
        "created": 1234,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "bitweir": COST,
    }


def test_a_text_is_completed() -> None:
    response = post(ScriptedAnswering(), COMPLETION, ONCE, **OPTIONS)
    document = response.json()
    assert (document["id"], document["object"], document["bitweir"]) == ("cmpl-x1", "text_completion", COST)
    assert document["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]


def test_a_chat_is_streamed() -> None:
    response = post(ScriptedAnswering(), body={**HI, "stream": True}, **OPTIONS)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last, done = events(response)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "Hel"},
        {"content": "lo "},
        {"content": "\u2028\u00e9\n"},
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert last["bitweir"] == COST
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in [*chunks, last]} == {
        ("chatcmpl-x1", "chat.completion.chunk", 1234)
    }
    assert not any("usage" in chunk or "bitweir" in chunk for chunk in chunks)


@pytest.mark.parametrize(("path", "body"), [(CHAT, HI), (COMPLETION, ONCE)])
def test_usage_comes_last_where_it_is_wanted(path: str, body: dict[str, object]) -> None:
    wanted = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False}
    *chunks, last, done = events(post(ScriptedAnswering(), path, {**body, "stream": True, "stream_options": wanted}))
    assert done == "[DONE]"
    assert (last["choices"], last["usage"], last["bitweir"]) == ([], USAGE, COST)
    assert all(chunk["usage"] is None and "bitweir" not in chunk for chunk in chunks)


def test_an_empty_answer_has_a_role_and_an_end() -> None:
    nothing = ScriptedAnswering([Done(Ending.END, 3, 0, 0.0)])
    chunk, done = events(post(nothing, body={**HI, "stream": True}))
    assert (chunk["choices"][0]["delta"], done) == ({"role": "assistant", "content": ""}, "[DONE]")
    assert chunk["choices"][0]["finish_reason"] == "stop"
    assert chunk["bitweir"] == {"wire_bits": 0.0, "bits_per_token": None}


@pytest.mark.parametrize("stream", [False, True])
def test_every_choice_has_its_own_question(stream: bool) -> None:
    late = [0.02, Piece("B"), Done(Ending.LENGTH, 7, 2, 1.5)]
    answering = ScriptedAnswering(HELLO, late)
    response = post(answering, body={**HI, "n": 3, "stream": stream})
    assert [question.choice for question in answering.asked] == [0, 1, 2]
    assert len({question.prompt for question in answering.asked}) == 1
    texts, finishes = ["", "", ""], [None, None, None]
    if stream:
        *chunks, _ = events(response)
        for chunk in chunks:
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            finishes[choice["index"]] = choice["finish_reason"]
        assert [("bitweir" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["bitweir"]["wire_bits"] == 13.5
    else:
        document = response.json()
        texts = [choice["message"]["content"] for choice in document["choices"]]
        finishes = [choice["finish_reason"] for choice in document["choices"]]
        assert document["usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
        assert response.headers["bitweir-wire-bits"] == "13.500"
    assert (texts, finishes) == ([TEXT, "B", "B"], ["stop", "length", "length"])
    assert sorted(answering.closed) == [0, 1, 2]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(Ending.END, "stop"), (Ending.STOP, "stop"), (Ending.LENGTH, "length"), (Ending.DROPPED, "length")],
)
def test_endings_are_finish_reasons(ending: Ending, reason: str) -> None:
    answering = ScriptedAnswering([Piece("a"), Done(ending, 1, 1, 1.0)])
    assert post(answering).json()["choices"][0]["finish_reason"] == reason


def asked(path: str = CHAT, **fields: object) -> Question:
    """Return the question a request with these fields asks."""
    answering = ScriptedAnswering()
    response = post(answering, path, {**(HI if path == CHAT else ONCE), **fields})
    assert response.status_code == 200, response.text
    return answering.asked[0]


def test_what_is_not_said_has_a_default() -> None:
    assert asked() == Question("Hi", tenant="/")
    assert asked(COMPLETION) == Question("Once", tokens_max=16, tenant="/")


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_every_parameter_reaches_the_question(path: str) -> None:
    question = asked(
        path,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        logit_bias={"7": -100, "0": 1.5},
        max_tokens=9,
        seed=-3,
        stop=["a", "bc"],
        ignore_eos=True,
        user="u",
    )
    assert question.sampling == SamplingSpec(0.5, 40, 0.9, 0.1, ((0, 1.5), (7, -100.0)))
    assert (question.tokens_max, question.seed, question.stop) == (9, -3, ("a", "bc"))
    assert (question.ignores_end, question.tenant) == (True, "/u")


def test_short_forms() -> None:
    assert asked(stop="end").stop == ("end",)
    assert asked(max_completion_tokens=5).tokens_max == asked(max_tokens=5, max_completion_tokens=5).tokens_max == 5
    assert asked(top_k=-1).sampling.top_k == 0
    assert asked(COMPLETION, prompt=["Twice"]).prompt == "Twice"
    assert asked(temperature=0, top_p=1).sampling.temperature == 0
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert asked(messages=[{"role": "user", "content": parts, "name": None}]).prompt == "a\nb"


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": None, "seed": None, "n": None, "temperature": None, "stream": None, "stream_options": None},
        {"logprobs": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "audio": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_tokens": 0, "store": False},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, object]) -> None:
    assert asked(**fields) == asked()


def test_conversations_become_one_prompt() -> None:
    def said(*turns: tuple[str, str]) -> str:
        return joined([Message.model_validate({"role": role, "content": text}) for role, text in turns])

    assert said(("user", " as it is\n")) == " as it is\n"
    assert said(("developer", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why")) == (
        "System: Be brief.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Why\n\nAssistant:"
    )
    assert said(("system", "x")) == "System: x\n\nAssistant:"


def test_models_and_health() -> None:
    answering = ScriptedAnswering()
    listed = with_client(answering, lambda client: client.get("/v1/models"), wall_clock=lambda: 9.9).json()
    model = {"id": MODEL, "object": "model", "created": 9, "owned_by": "bitweir"}
    assert listed == {"object": "list", "data": [model]}
    assert with_client(answering, lambda client: client.get(f"/v1/models/{MODEL}")).json()["id"] == MODEL
    assert with_client(answering, lambda client: client.get("/v1/models/gone")).status_code == 404
    assert with_client(answering, lambda client: client.get("/health")).json() == {"status": "up"}
    answering.is_up = False
    assert with_client(answering, lambda client: client.get("/health")).status_code == 503


def test_metrics_count_what_was_answered_and_name_nobody() -> None:
    answering = ScriptedAnswering()

    async def use(client: httpx2.AsyncClient) -> str:
        body = {**HI, "user": "somebody", "messages": [{"role": "user", "content": "secret"}]}
        await client.post(CHAT, json=body)
        await client.post(CHAT, json={**body, "stream": True})
        await client.get("/nowhere/secret")
        return (await client.get("/metrics")).text

    text = with_client(answering, use)
    for line in (
        'bitweir_api_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'bitweir_api_requests_total{route="other",status="404"} 1.0',
        'bitweir_api_answers_total{ending="end"} 2.0',
        "bitweir_api_prompt_tokens_total 14.0",
        "bitweir_api_completion_tokens_total 8.0",
        "bitweir_api_wire_bytes_total 2.625",
        "bitweir_api_open_answers 0.0",
        "bitweir_api_up 1.0",
        "bitweir_api_first_piece_seconds_count 2.0",
        "bitweir_api_request_seconds_count 2.0",
    ):
        assert line in text.splitlines()
    assert "secret" not in text
    assert "somebody" not in text


def test_an_answer_that_did_not_come_whole_is_counted_too() -> None:
    answering = ScriptedAnswering([Piece("a"), Done(Ending.LOST, 3, 2, 16.0)])

    async def use(client: httpx2.AsyncClient) -> str:
        await client.post(CHAT, json=HI)
        return (await client.get("/metrics")).text

    lines = with_client(answering, use).splitlines()
    assert 'bitweir_api_answers_total{ending="lost"} 1.0' in lines
    assert "bitweir_api_wire_bytes_total 2.0" in lines


def test_the_choices_of_a_request_are_answered_at_the_same_time() -> None:
    async def run() -> list[str]:
        gate = asyncio.Event()

        class Second(ScriptedAnswering):
            async def ask(self, question: Question):  # type: ignore[no-untyped-def,override]
                if question.choice == 1:
                    gate.set()
                async for event in super().ask(question):
                    yield event

        answering = Second([gate, *HELLO], HELLO)
        from bitweir_services.api import create_app

        transport = httpx2.ASGITransport(create_app(answering, keys=None))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            response = await asyncio.wait_for(client.post(CHAT, json={**HI, "n": 2}), 10)
        return [choice["message"]["content"] for choice in json.loads(response.text)["choices"]]

    assert asyncio.run(run()) == [TEXT, TEXT]
