"""On a real socket: clients that go away, clients that do not read, clients that are slow to ask."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from bitweir_services.api_requests import Limits
from bitweir_services.questions import Piece
from tests.unit.services.running_api import CHAT, COMPLETION, HI, ONCE, listening
from tests.unit.services.scripted_answering import HELLO, ScriptedAnswering

# Far more than anything here takes; whoever waits so long has failed.
PATIENCE_S = 20


def run(answering: ScriptedAnswering, use: Callable[[int], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with listening(answering, **options) as port:
            await asyncio.wait_for(use(port), PATIENCE_S)

    asyncio.run(main())


async def ask(
    port: int, body: dict[str, object], path: str = CHAT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and return its connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + content)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_closes_its_answers(stream: bool, choices: int) -> None:
    never = asyncio.Event()
    answering = ScriptedAnswering([Piece("a"), never])

    async def use(port: int) -> None:
        reader, writer = await ask(port, {**HI, "stream": stream, "n": choices})
        if stream:
            await reader.readuntil(b"data: ")
        while answering.yielded < choices:
            await asyncio.sleep(0.005)
        writer.transport.abort()
        await answering.all_closed.wait()
        assert sorted(answering.closed) == list(range(choices))
        assert answering.open_count == 0

    run(answering, use)


def test_generation_ends_within_a_step_of_the_client_leaving() -> None:
    step_s = 0.02
    script = [entry for _ in range(500) for entry in (step_s, Piece("a"))]
    answering = ScriptedAnswering(script)

    async def use(port: int) -> None:
        reader, writer = await ask(port, {**HI, "stream": True})
        await reader.readuntil(b"data: ")
        writer.close()
        await answering.all_closed.wait()
        assert answering.yielded < 250

    run(answering, use)


def test_a_reader_that_takes_nothing_blocks_nobody_and_is_given_up() -> None:
    long = ScriptedAnswering([Piece("x" * 100_000)] * 1000)

    async def use(port: int) -> None:
        _, stuck = await ask(port, {**ONCE, "stream": True}, COMPLETION)
        while long.yielded < 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        ahead = long.yielded
        assert ahead < 500
        long.scripts = (HELLO,)
        reader, writer = await ask(port, HI)
        assert b"200 OK" in await reader.readline()
        writer.close()
        while long.open_count:
            await asyncio.sleep(0.01)
        assert long.yielded < 1000
        stuck.transport.abort()

    run(long, use, limits=Limits(stall_s=0.5))


def test_a_server_that_stops_closes_every_answer() -> None:
    answering = ScriptedAnswering([Piece("a"), asyncio.Event()])

    async def main() -> None:
        from bitweir_services.api import create_app
        from bitweir_services.api_server import server

        running = server(create_app(answering, keys=None), host="127.0.0.1", port=0)
        running.config.timeout_graceful_shutdown = 0
        task = asyncio.create_task(running.serve())
        while not running.started:
            await asyncio.sleep(0.005)
        port = running.servers[0].sockets[0].getsockname()[1]
        reader, writer = await ask(port, {**HI, "stream": True})
        await reader.readuntil(b"data: ")
        running.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)
        await asyncio.wait_for(answering.all_closed.wait(), PATIENCE_S)
        writer.close()

    asyncio.run(main())


def test_headers_without_end_are_refused() -> None:
    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert b"400" in await reader.readline()
        writer.close()

    run(ScriptedAnswering(), use)
