"""The outer site's end of the link, on asyncio: requests down, frames in, every stream a queue. A thin shell.

Rules:
1. Frames are taken in the order of their numbers. A gap is asked for; one that stays ends the lane's epoch, and every
   open stream ends with `Ending.LOST`.
2. What the gate must know of grants is said as sums, every `TICK_S`; a lost datagram does no harm.
3. Everything that arrives is counted before it is looked at: this is one of the link's meters.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from bitweir_compression.coder import Bits
from bitweir_compression.session.events import Grant
from bitweir_metering import control, frame
from bitweir_metering.control import Control
from bitweir_metering.errors import FormError, TunnelError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.frame_order import FrameOrder
from bitweir_metering.meters.application import ApplicationMeter, listening
from bitweir_services import messages
from bitweir_services.down import DownSender
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.outer import Ended, OuterLane, Tokens

TICK_S: Final = 0.02
GRANTS_NS: Final = 200_000_000
ASK_NS: Final = 300_000_000
GIVE_UP_NS: Final = 20_000_000_000
DATAGRAM_BYTES_MAX: Final = 2048
DATAGRAMS_AT_ONCE: Final = 256


@dataclass(frozen=True)
class OuterPlace:
    """Where this site is, and its neighbours.

    Attributes:
        listen: UDP address where the gate's frames arrive.
        gate: UDP address of the gate's control messages.
        inner: UDP address of the inner site, for what goes down.
        key: the key shared with the gate, 32 bytes.
        lane: this lane's number.
    """

    listen: tuple[str, int]
    gate: tuple[str, int]
    inner: tuple[str, int]
    key: bytes
    lane: int = 0


@dataclass
class Received:
    """Bits of a stream: its share, by tokens, of the frames its tokens came in."""

    tokens: int = 0
    wire_bits: float = 0.0


class OuterSite:
    """One lane's outer end with its sockets; see the rules of this file.

    Args:
        lane: the lane.
        place: where it is.
        clock: CLOCK_MONOTONIC in nanoseconds.
        realtime: CLOCK_REALTIME in nanoseconds.

    Attributes:
        meter: counts what arrived.
        damaged_count: datagrams that were no frame of this link.
    """

    def __init__(
        self,
        lane: OuterLane,
        place: OuterPlace,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        realtime: Callable[[], int] = time.time_ns,
    ) -> None:
        self.meter = ApplicationMeter(clock=clock)
        self.damaged_count = 0
        self._lane = lane
        self._place = place
        self._clock = clock
        self._realtime = realtime
        self._order: FrameOrder[frame.Frame] | None = None
        self._down = DownSender(realtime())
        self._queues: dict[int, asyncio.Queue[Tokens | Ended]] = {}
        self._received: dict[int, Received] = {}
        self._limits: dict[int, int] = {}
        self._granted = 0
        self._granted_ns = 0
        self._control_ns = realtime()
        self._socket = listening(place.listen)
        self._socket.setblocking(False)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    @property
    def open_count(self) -> int:
        """Streams that have not ended."""
        return self._lane.open_count

    async def serve(self) -> None:
        """Serve until cancelled, then close the sockets."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read)
        try:
            while True:
                self.tick()
                await asyncio.sleep(TICK_S)
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()
            self._sender.close()

    async def stream(
        self, grant: Grant, request: GenerationRequest, received: Received | None = None
    ) -> AsyncGenerator[Tokens | Ended, None]:
        """Ask for an answer and yield what comes, the `Ended` last. Who stops reading cancels it.

        Args:
            grant: for the session.
            request: for the strong model.
            received: filled while tokens come.

        Raises:
            RequestError: the lane cannot serve it, or too many streams are open.
        """
        stream = self._lane.submit(grant, request)
        queue: asyncio.Queue[Tokens | Ended] = asyncio.Queue()
        self._queues[stream] = queue
        self._received[stream] = received or Received()
        self._limits[stream] = grant.tokens_max
        self._granted += grant.tokens_max
        self._granted_ns = 0
        is_over = False
        self.tick()
        try:
            while not is_over:
                event = await queue.get()
                is_over = isinstance(event, Ended)
                yield event
        finally:
            self._queues.pop(stream, None)
            if not is_over:
                self._lane.cancel(stream)

    def tick(self) -> None:
        """Say what has to be said by now."""
        now_ns = self._clock()
        self._show(self._lane.check(now_ns))
        self._ask_for_missing(now_ns)
        if now_ns >= self._granted_ns:
            self._granted_ns = now_ns + GRANTS_NS
            self._say(Control.GRANTS, self._granted, sum(self._limits.values()))
        for message in self._lane.messages(now_ns):
            for datagram in self._down.datagrams(messages.encode(message)):
                self._send(datagram, self._place.inner)

    def _read(self) -> None:
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            self.meter.delivered(len(datagram))
            try:
                found = frame.decode(datagram, self._place.key)
            except FormError:
                self.damaged_count += 1
                continue
            for ready in self._ordered(found):
                if ready.kind is TrafficClass.MODEL and ready.lane == self._place.lane:
                    self._take(ready)

    def _ordered(self, found: frame.Frame) -> list[frame.Frame]:
        now_ns = self._clock()
        if self._order is None:
            self._order = FrameOrder(found.sequence, ask_ns=ASK_NS, give_up_ns=GIVE_UP_NS)
        try:
            return self._order.take(found.sequence, found, now_ns)
        except TunnelError:
            # The gate was started anew, or far too much was lost: nothing goes on behind this gap.
            self._give_up(found.sequence)
            return self._order.take(found.sequence, found, now_ns)

    def _give_up(self, next_sequence: int) -> None:
        self._order = FrameOrder(next_sequence, ask_ns=ASK_NS, give_up_ns=GIVE_UP_NS)
        self._show(self._lane.restart())

    def _ask_for_missing(self, now_ns: int) -> None:
        if self._order is None:
            return
        try:
            asked = self._order.asks(now_ns)
        except TunnelError:
            self._give_up(self._order.last_sequence + 1)
            return
        for sequence in asked:
            self._say(Control.RESEND, sequence)

    def _take(self, found: frame.Frame) -> None:
        events = self._lane.take(Bits(found.payload.value, found.payload.count), self._clock())
        count = sum(len(event.tokens) for event in events if isinstance(event, Tokens))
        for event in events:
            if isinstance(event, Tokens) and event.stream in self._received:
                received = self._received[event.stream]
                received.tokens += len(event.tokens)
                received.wire_bits += found.wire_bits * len(event.tokens) / count
        self._show(events)

    def _show(self, events: list[Tokens | Ended]) -> None:
        for event in events:
            if event.stream in self._queues:
                self._queues[event.stream].put_nowait(event)
            if isinstance(event, Ended):
                self._received.pop(event.stream, None)
                self._limits.pop(event.stream, None)

    def _say(self, kind: Control, first: int, second: int = 0) -> None:
        # Times of one sender grow, whatever the clock does.
        self._control_ns = max(self._control_ns + 1, self._realtime())
        message = control.Message(kind, self._control_ns, first, second)
        self._send(control.encode(message, self._place.key), self._place.gate)

    def _send(self, content: bytes, address: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # lost: it is said again
            self._sender.sendto(content, address)
