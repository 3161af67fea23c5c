"""No bytes, and no fields, make the API fail: it answers, or says what is wrong."""

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bitweir_services.api import create_app
from bitweir_services.api_requests import (
    UNSUPPORTED_CHAT,
    UNSUPPORTED_COMPLETION,
    ChatBody,
    CompletionBody,
    Limits,
    read_chat,
    read_completion,
)
from bitweir_services.errors import ApiError
from tests.unit.services.running_api import CHAT, COMPLETION, HI, ONCE
from tests.unit.services.scripted_answering import MODEL, ScriptedAnswering

NAMES = st.sampled_from(
    sorted({*UNSUPPORTED_CHAT, *UNSUPPORTED_COMPLETION, *ChatBody.model_fields, *CompletionBody.model_fields})
)
TEXTS = st.text(max_size=20) | st.sampled_from(["\ud800", "\udfff x", "\u2028", "a\x00"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([0, 1, "", "text"]))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "user", "1"]) | TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.dictionaries(NAMES | TEXTS, DOCUMENTS, max_size=4)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    FIELDS.map(lambda fields: json.dumps({**HI, **fields}).encode()),
    FIELDS.map(lambda fields: json.dumps({**ONCE, **fields}).encode()),
    FIELDS.map(lambda fields: json.dumps({**HI, **fields})[:-1].encode() + b',"model":"scripted/model"}'),
)


async def status_of(path: str, body: bytes) -> tuple[int, bytes]:
    """Return what the application, called without any client library, answers."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    forever = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not messages:
            await forever.wait()
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1), "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await create_app(ScriptedAnswering(), keys=None)(scope, receive, send)
    assert sent[-1].get("more_body", False) is False
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@given(st.sampled_from([CHAT, COMPLETION]), BODIES)
def test_no_body_makes_it_fail(path: str, body: bytes) -> None:
    status, content = asyncio.run(status_of(path, body))
    assert status in {200, 400, 404}
    if status != 200:
        error = json.loads(content)["error"]
        assert error["message"]
        assert len(content) < 2000


@given(st.sampled_from([read_chat, read_completion]), BODIES)
def test_what_is_read_is_text_and_within_limits(read: Any, body: bytes) -> None:
    limits = Limits(prompt_characters_max=30)
    try:
        asked = read(body, model=MODEL, tenant="t", limits=limits)
    except ApiError as error:
        assert error.status in {400, 404}
        return
    assert 1 <= len(asked.questions) <= 16
    for question in asked.questions:
        assert 0 < len(question.prompt) <= 30
        assert question.tenant.startswith("t/")
        "".join((question.prompt, question.tenant, *question.stop)).encode()


@given(st.sampled_from([(read_chat, HI), (read_completion, ONCE)]), NAMES | TEXTS, DOCUMENTS)
def test_the_field_that_is_wrong_is_the_one_that_is_named(kind: Any, name: str, value: Any) -> None:
    read, good = kind
    try:
        read(json.dumps({**good, name: value}).encode(), model=MODEL, tenant="", limits=Limits())
    except ApiError as error:
        named = (error.param or "").partition("[")[0].partition(".")[0]
        escaped = name.encode("ascii", "backslashreplace").decode()
        # JSON that cannot be read has no field; neither has a twin or an odd key inside the value.
        assert named in {name.partition("[")[0].partition(".")[0], escaped.partition("[")[0].partition(".")[0]} or (
            error.code in {None, "unknown_parameter"}
        )
