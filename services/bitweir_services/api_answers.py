"""The response to a request for answers: all its choices merged, whole or streamed, until the client has gone.

Rules:
1. However it ends (whole, error, client gone, server stopping), every iterator of `ask` is closed before it returns.
2. Nothing is read ahead of the client but a few pieces a choice: a slow reader slows its own answers only.
3. An error before anything was sent has a status; one after that is an event, and no `[DONE]` follows it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bitweir_services.api_errors import body_of, json_bytes, lost
from bitweir_services.api_metrics import ApiMetrics
from bitweir_services.api_replies import FINISH_REASONS, WIRE_BITS_HEADER, Head, Shape, Tally
from bitweir_services.api_requests import Asked
from bitweir_services.errors import ApiError, EngineError
from bitweir_services.questions import Answering, Done, Piece, Question

AHEAD_PIECES: Final = 16
STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
Event = Piece | Done


class Answers:
    """The answers to some questions, event by event as they come.

    Args:
        answering: who answers.
        questions: of one request.
        count: told of every answer that ended, also of one that did not come whole: its bits crossed.
    """

    def __init__(
        self, answering: Answering, questions: Sequence[Question], count: Callable[[Done], None] = lambda _: None
    ) -> None:
        self._answering = answering
        self._count = count
        self._questions = questions
        self._open = len(questions)
        self._events: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(AHEAD_PIECES * self._open)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Answers":
        self._tasks = [asyncio.create_task(self._pump(index, each)) for index, each in enumerate(self._questions)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop(self._tasks)

    def __aiter__(self) -> "Answers":
        return self

    async def __anext__(self) -> tuple[int, Event]:
        """Return a choice's next event.

        Raises:
            StopAsyncIteration: all have ended.
            Exception: the first error of any of them.
        """
        if not self._open:
            raise StopAsyncIteration
        index, event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Done):
            self._open -= 1
            self._count(event)
            if event.ending not in FINISH_REASONS:
                raise lost(event.ending)
        return index, event

    async def _pump(self, index: int, question: Question) -> None:
        """Hand one answer's events over, and its error."""
        try:
            async with aclosing(self._answering.ask(question)) as events:
                async for event in events:
                    await self._events.put((index, event))
                    if isinstance(event, Done):
                        return
            raise EngineError("an answer had no end")
        except Exception as error:  # noqa: BLE001 - raised again by whoever reads
            await self._events.put((index, error))


class AnswerResponse(Response):
    """Ask, and send what comes.

    Args:
        asked: what.
        answering: who answers.
        shape: how the route writes it.
        head: of every document.
        metrics: where to count.
        report: told of an error that nobody expected.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        asked: Asked,
        answering: Answering,
        shape: Shape,
        head: Head,
        *,
        metrics: ApiMetrics,
        report: Callable[[Exception], ApiError],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._asked = asked
        self._answering = answering
        self._shape = shape
        self._head = head
        self._metrics = metrics
        self._report = report
        self._clock = clock
        self._tally = Tally()
        self._started_s = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or stop within an event when the client has gone."""
        answer = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            answer.result()
        finally:
            await stop((answer, leaving))
            self._metrics.request_seconds.observe(self._clock() - self._started_s)

    async def _answer(self, send: Send) -> None:
        async with Answers(self._answering, self._asked.questions, self._metrics.count_answer) as answers:
            if self._asked.streams:
                await self._stream(answers, send)
            else:
                await self._whole(answers, send)

    async def _whole(self, answers: Answers, send: Send) -> None:
        texts: list[list[str]] = [[] for _ in self._asked.questions]
        finishes = [""] * len(texts)
        async for index, event in answers:
            self._count(event, first=not any(texts))
            if isinstance(event, Piece):
                texts[index].append(event.text)
            else:
                finishes[index] = FINISH_REASONS[event.ending]
        choices = [self._shape.choice(i, "".join(texts[i]), finishes[i]) for i in range(len(texts))]
        document = self._head.document(
            self._shape.whole, choices=choices, usage=self._tally.usage(), bitweir=self._tally.extension()
        )
        headers = {WIRE_BITS_HEADER: f"{self._tally.wire_bits:.3f}"}
        content = json_bytes(document)
        await send_whole(send, 200, content, headers)

    async def _stream(self, answers: Answers, send: Send) -> None:
        # A refusal comes before the first piece, and has a status.
        first = await anext(answers)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        try:
            await self._chunks(first, answers, send)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - the client is told, and it is reported
            await _send_event(send, json_bytes(body_of(self._report(error))))
        else:
            await _send_event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, first: tuple[int, Event], answers: Answers, send: Send) -> None:
        """Send every event as a chunk, and the tally with the last."""
        silent = set(range(len(self._asked.questions)))
        ended = 0
        counts = self._asked.counts
        nulls = {"usage": None} if counts else {}
        entry: tuple[int, Event] | None = first
        while entry is not None:
            index, event = entry
            self._count(event, first=entry is first)
            opening = index in silent
            silent.discard(index)
            extra: dict[str, object] = dict(nulls)
            if isinstance(event, Piece):
                choice = self._shape.delta(index, event.text, first=opening)
            else:
                choice = self._shape.delta(index, "", first=opening, finish=FINISH_REASONS[event.ending])
                ended += 1
                if ended == len(self._asked.questions) and not counts:
                    extra["bitweir"] = self._tally.extension()
            await self._send_chunk(send, [choice], extra)
            entry = await anext(answers, None)
        if counts:
            await self._send_chunk(send, [], {"usage": self._tally.usage(), "bitweir": self._tally.extension()})

    async def _send_chunk(self, send: Send, choices: Sequence[object], extra: dict[str, object]) -> None:
        await _send_event(send, json_bytes(self._head.document(self._shape.chunk, choices=choices, **extra)))

    def _count(self, event: Event, *, first: bool) -> None:
        if first and isinstance(event, Piece):
            self._metrics.first_piece_seconds.observe(self._clock() - self._started_s)
        if isinstance(event, Done):
            self._tally.add(event)


async def send_whole(send: Send, status: int, content: bytes, headers: dict[str, str]) -> None:
    """Send a whole JSON response."""
    fields = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content, "more_body": False})


async def stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended; their errors are of no interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _send_event(send: Send, data: bytes) -> None:
    """Send one server-sent event; `data` has no newline."""
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})


async def _left(receive: Receive) -> None:
    """Return when the client has gone; what else it sends is not read."""
    while (await receive())["type"] != "http.disconnect":
        pass
