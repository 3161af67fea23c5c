"""The API in this process, and on a real socket of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2

from bitweir_services.api import create_app
from bitweir_services.api_keys import ApiKeys
from bitweir_services.api_server import server
from bitweir_services.questions import Answering
from tests.unit.services.scripted_answering import MODEL

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
HI = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
ONCE = {"model": MODEL, "prompt": "Once"}
Result = TypeVar("Result")


def with_client(answering: Answering, use: Callable[[httpx2.AsyncClient], Awaitable[Result]], **options: Any) -> Result:
    """Return what `use` returns, given a client of the application in this process."""

    async def run() -> Result:
        transport = httpx2.ASGITransport(create_app(answering, **{"keys": None, **options}))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await use(client)

    return asyncio.run(run())


def post(
    answering: Answering,
    path: str = CHAT,
    body: Mapping[str, Any] | bytes = HI,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> httpx2.Response:
    """Return the response to one request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    return with_client(answering, lambda client: client.post(path, content=content, headers=sent), **options)


def events(response: httpx2.Response) -> list[Any]:
    """Return the documents of a stream, `[DONE]` as text."""
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


@asynccontextmanager
async def listening(answering: Answering, *, keys: ApiKeys | None = None, **options: Any) -> AsyncIterator[int]:
    """Serve on a free port of this machine, in this event loop."""
    running = server(create_app(answering, keys=keys, **options), host="127.0.0.1", port=0)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.005)
        assert not task.done()
    try:
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        await task
