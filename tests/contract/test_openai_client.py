"""The official client, unchanged, talks to the API on a real socket: what it reads, streams, raises and retries."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from bitweir_compression.session.lane import Ending
from bitweir_services.api_keys import ApiKeys, RateLimit
from bitweir_services.errors import BusyError, EngineError, LinkDownError, RequestError
from bitweir_services.questions import Done, Piece
from tests.unit.services.running_api import listening
from tests.unit.services.scripted_answering import HELLO, MODEL, ScriptedAnswering

KEY = "a-key-of-alice"
KEYS = ApiKeys([("alice", hashlib.sha256(KEY.encode()).digest())])
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
TEXT = "Hello \u2028\u00e9\n"
Result = TypeVar("Result")


def with_sync(answering: ScriptedAnswering, use: Callable[[openai.OpenAI], Result], **client_options: Any) -> Result:
    """Return what `use` returns, given a client in another thread that checks every type it reads."""
    options = {"api_key": KEY, "max_retries": 0, **client_options}
    rate = options.pop("rate", None)
    strict = options.pop("strict", True)

    async def run() -> Result:
        async with listening(answering, keys=KEYS, rate=rate) as port:

            def work() -> Result:
                base = f"http://127.0.0.1:{port}/v1"
                with openai.OpenAI(base_url=base, _strict_response_validation=strict, **options) as client:
                    return use(client)

            return await asyncio.to_thread(work)

    return asyncio.run(run())


def test_a_chat_whole() -> None:
    answering = ScriptedAnswering()
    answer = with_sync(
        answering,
        lambda client: client.chat.completions.create(
            model=MODEL, messages=MESSAGES, temperature=0.5, seed=3, stop="x", max_completion_tokens=5, user="u",
            logit_bias={"3": -100}, extra_body={"top_k": 5, "min_p": 0.1, "ignore_eos": True},
        ),
    )  # fmt: skip
    assert isinstance(answer, ChatCompletion)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11
    assert answer.model_extra == {"bitweir": {"wire_bits": 10.5, "bits_per_token": 2.625}}
    (question,) = answering.asked
    assert question.prompt == "System: Be brief.\n\nUser: Hi\n\nAssistant:"
    assert (question.tenant, question.seed, question.ignores_end, question.sampling.top_k) == ("alice/u", 3, True, 5)


def test_the_header_says_what_crossed() -> None:
    def use(client: openai.OpenAI) -> str | None:
        raw = client.completions.with_raw_response.create(model=MODEL, prompt="Once")
        assert isinstance(raw.parse(), Completion)
        return raw.headers.get("bitweir-wire-bits")

    assert with_sync(ScriptedAnswering(), use) == "10.500"


def test_a_chat_streamed() -> None:
    def use(client: openai.OpenAI) -> list[ChatCompletionChunk]:
        stream = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, n=2
        )
        return list(stream)

    *chunks, last = with_sync(ScriptedAnswering(HELLO, [Piece("B"), Done(Ending.LENGTH, 7, 1, 2.0)]), use)
    texts, finishes = ["", ""], ["", ""]
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        finishes[choice.index] = choice.finish_reason or ""
    assert (texts, finishes) == ([TEXT, "B"], ["stop", "length"])
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    assert last.model_extra == {"bitweir": {"wire_bits": 12.5, "bits_per_token": 2.5}}


def test_the_helper_that_gathers_a_stream() -> None:
    def use(client: openai.OpenAI) -> str | None:
        with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
            for _ in stream:
                pass
            return stream.get_final_completion().choices[0].message.content

    assert with_sync(ScriptedAnswering(), use) == TEXT


def test_a_completion_streamed() -> None:
    def use(client: openai.OpenAI) -> str:
        stream = client.completions.create(model=MODEL, prompt="Once", stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)

    # The client's types know no chunk before the last, whose finish_reason is null; OpenAI's own service sends them.
    assert with_sync(ScriptedAnswering(), use, strict=False) == TEXT


def test_models() -> None:
    def use(client: openai.OpenAI) -> tuple[list[Model], Model]:
        return list(client.models.list()), client.models.retrieve(MODEL)

    listed, retrieved = with_sync(ScriptedAnswering(), use)
    assert listed == [retrieved]
    assert retrieved.id == MODEL


def test_the_asynchronous_client() -> None:
    async def run() -> None:
        answering = ScriptedAnswering()
        async with (
            listening(answering, keys=KEYS) as port,
            openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, _strict_response_validation=True
            ) as client,
        ):
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
            assert [choice.message.content for choice in whole.choices] == [TEXT, TEXT]
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT
            # A client that stops reading gives its answer up.
            answering.scripts = ([Piece("a"), asyncio.Event()],)
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            await anext(aiter(stream))
            assert answering.open_count == 1
            await stream.close()
            await asyncio.wait_for(answering.all_closed.wait(), 20)

    asyncio.run(run())


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [
        (RequestError("too long"), openai.BadRequestError, None),
        (BusyError("full"), openai.RateLimitError, "busy"),
        (LinkDownError("down", retry_s=9), openai.InternalServerError, "link_down"),
        (EngineError("secret"), openai.InternalServerError, "internal_error"),
    ],
)
def test_errors_become_the_clients_own(
    raised: Exception, expected: type[openai.APIStatusError], code: str | None
) -> None:
    for stream in (False, True):
        with pytest.raises(expected) as caught:
            with_sync(ScriptedAnswering([raised]), lambda client, stream=stream: create(client, stream=stream))
        assert caught.value.code == code
        assert "secret" not in str(caught.value)


def test_what_is_refused_names_the_field() -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        with_sync(ScriptedAnswering(), lambda client: create(client, logprobs=True))
    assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError) as missing:
        with_sync(ScriptedAnswering(), lambda client: create(client, model="gone"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        with_sync(ScriptedAnswering(), lambda client: client.embeddings.create(model=MODEL, input="x"))
    with pytest.raises(openai.AuthenticationError):
        with_sync(ScriptedAnswering(), create, api_key="wrong")
    with pytest.raises(openai.PermissionDeniedError):
        with_sync(ScriptedAnswering(), lambda client: client.get("../metrics", cast_to=object))


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.CANCELLED])
def test_an_answer_lost_on_its_way(ending: Ending) -> None:
    script = [Piece("a"), Done(ending, 1, 1, 1.0)]
    with pytest.raises(openai.InternalServerError) as caught:
        with_sync(ScriptedAnswering(script), create)
    assert caught.value.code == f"answer_{ending.value}"
    with pytest.raises(openai.APIError, match="on its way") as in_stream:
        with_sync(ScriptedAnswering(script), lambda client: list(create(client, stream=True)))
    assert in_stream.value.code == f"answer_{ending.value}"


def test_the_client_waits_as_it_is_told_and_tries_again() -> None:
    # 120 a minute, one at once: the second request is refused, and is taken after the second it is told to wait.
    def use(client: openai.OpenAI) -> list[str]:
        return [create(client).choices[0].finish_reason for _ in range(2)]

    answering = ScriptedAnswering()
    assert with_sync(answering, use, rate=RateLimit(120, 1), max_retries=2) == ["stop", "stop"]
    assert len(answering.asked) == 2
