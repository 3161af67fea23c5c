"""Both ends of a tunnel in virtual time, with a gate, a service and people between them, and faults drawn by a seed."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bitweir_metering.errors import FullError, TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.tunnel import Ask, Close, Connect, Send, Times, Write, WriteEnd
from bitweir_metering.tunnel_inner import InnerEnd
from bitweir_metering.tunnel_outer import OuterEnd
from bitweir_metering.units import NS_PER_S

MS = NS_PER_S // 1000
KEY = bytes(range(32))
STEP_NS = 5 * MS
SLOT_NS = 20 * MS
REALTIME_NS = 10**18


@dataclass
class Faults:
    """Probabilities, and how long a datagram is on its way at most."""

    down_loss: float = 0
    down_twice: float = 0
    up_loss: float = 0
    other_classes: float = 0
    """Of a slot in which a frame of another class takes a number."""
    delay_ns: int = 10 * MS
    resends_max: int = 3


@dataclass
class Side:
    """A connection as its owner sees it: what it wants to say and what it heard."""

    says: bytes
    heard: bytearray = field(default_factory=bytearray)
    unwritten: bytearray = field(default_factory=bytearray)
    said_count: int = 0
    is_ended: bool = False
    is_end_heard: bool = False
    closed: str | None = None
    """None while open, else the reason, empty if all was said."""


class Link:
    """The simulated world."""

    def __init__(self, seed: int, faults: Faults | None = None, times: Times | None = None) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.now_ns = 0
        self.times = times or Times()
        self.inner = InnerEnd(KEY, realtime_ns=REALTIME_NS, now_ns=0, times=self.times)
        self.outer = OuterEnd(KEY, times=self.times)
        self.answers: list[bytes] = []
        """What the service says on each stream, in the order of opening."""
        self.service: dict[int, Side] = {}
        self.clients: dict[int, Side] = {}
        self.queue: list[Payload | None] = []
        self.stored: list[Payload | None] = []
        self.sent_again: dict[int, int] = {}
        self.down: list[tuple[int, int, bytes]] = []
        self.up: list[tuple[int, int, int]] = []
        self.payloads: list[Payload] = []
        self.is_gate_open = True
        self.is_service_slow = False
        self._count = 0

    def open(self, says: bytes, answer: bytes) -> int:
        """A person connects; the service will answer this."""
        number = self.outer.open(self.now_ns, REALTIME_NS + 1 + self.now_ns)
        self.clients[number] = Side(says)
        self.service[number] = Side(answer)
        return number

    def run_until(self, is_done: Callable[[], bool], seconds: float = 300) -> None:
        """Let time go by until something is so."""
        end_ns = self.now_ns + int(seconds * NS_PER_S)
        while not is_done():
            assert self.now_ns < end_ns, (self.outer.streams, self.inner.streams, self.clients)
            self.step()

    def run(self, seconds: float) -> None:
        """Let time go by."""
        end_ns = self.now_ns + int(seconds * NS_PER_S)
        self.run_until(lambda: self.now_ns >= end_ns, seconds + 1)

    def is_quiet(self) -> bool:
        """Whether no stream is open at either end."""
        return not self.outer.streams and not self.inner.streams

    def step(self) -> None:
        """A few milliseconds."""
        self.now_ns += STEP_NS
        self._arrivals()
        self._people()
        self._services()
        for event in self.outer.step(self.now_ns):
            if isinstance(event, Send):
                self._send_down(event.datagram)
            elif isinstance(event, Ask):
                self._ask(event.sequence)
            else:
                self._do(self.clients, event)
        self.inner.step(self.now_ns)
        for event in self.inner.events():
            self._do(self.service, event)
        payload = self.inner.offer(self.now_ns)
        if payload is not None:
            self.payloads.append(payload)
            self.queue.append(payload)
            self.inner.taken(self.now_ns)
        if self.now_ns % SLOT_NS == 0:
            self._slot()

    def _do(self, sides: dict[int, Side], event: object) -> None:
        if isinstance(event, Write):
            sides[event.stream].unwritten += event.content
        elif isinstance(event, WriteEnd):
            assert not sides[event.stream].is_end_heard
            sides[event.stream].is_end_heard = True
        elif isinstance(event, Close):
            assert sides[event.stream].closed is None
            sides[event.stream].closed = event.reason
        else:
            assert isinstance(event, Connect)

    def _draw(self, probability: float) -> bool:
        return self.random.random() < probability

    def _delayed_ns(self) -> int:
        self._count += 1
        return self.now_ns + self.random.randrange(self.faults.delay_ns + 1)

    def _send_down(self, datagram: bytes) -> None:
        for _ in range(2 if self._draw(self.faults.down_twice) else 1):
            if not self._draw(self.faults.down_loss):
                heapq.heappush(self.down, (self._delayed_ns(), self._count, datagram))

    def _release(self, sequence: int) -> None:
        if not self._draw(self.faults.up_loss):
            heapq.heappush(self.up, (self._delayed_ns(), self._count, sequence))

    def _slot(self) -> None:
        if not self.is_gate_open:
            return
        if self._draw(self.faults.other_classes):
            self.queue.insert(0, None)
        if self.queue:
            self.stored.append(self.queue.pop(0))
            self._release(len(self.stored) - 1)

    def _ask(self, sequence: int) -> None:
        again = self.sent_again.get(sequence, 0)
        if self.is_gate_open and sequence < len(self.stored) and again < self.faults.resends_max:
            self.sent_again[sequence] = again + 1
            self._release(sequence)

    def _arrivals(self) -> None:
        while self.down and self.down[0][0] <= self.now_ns:
            try:
                self.inner.receive(heapq.heappop(self.down)[2], self.now_ns)
            except TunnelError as error:  # a HELLO that was overtaken; its process ignores it
                assert "an epoch that is over" in str(error)
        while self.up and self.up[0][0] <= self.now_ns:
            sequence = heapq.heappop(self.up)[2]
            self.outer.frame(sequence, self.stored[sequence], self.now_ns)

    def _people(self) -> None:
        for number, side in self.clients.items():
            if side.closed is None:
                count = self._some(side.unwritten)
                self.outer.written(number, count)
                room = self.outer.room_bytes(number)
                piece = self._piece(side, room)
                if piece:
                    self.outer.say(number, piece)
                if side.said_count == len(side.says) and not side.is_ended:
                    side.is_ended = True
                    self.outer.end(number)
                self._hear(side, count)

    def _services(self) -> None:
        for number, side in self.service.items():
            if side.closed is None and number in self.inner.streams:
                count = 0 if self.is_service_slow else self._some(side.unwritten)
                self.inner.written(number, count, self.now_ns)
                self._hear(side, count)
                piece = self._piece(side, self.inner.room_bytes(number))
                if piece:
                    self.inner.say(number, piece, self.now_ns)
                if side.said_count == len(side.says) and not side.is_ended:
                    side.is_ended = True
                    self.inner.end(number, self.now_ns)

    def _some(self, unwritten: bytearray) -> int:
        return self.random.randint(0, len(unwritten)) if self._draw(0.5) else len(unwritten)

    def _hear(self, side: Side, count: int) -> None:
        side.heard += side.unwritten[:count]
        del side.unwritten[:count]

    def _piece(self, side: Side, room: int) -> bytes:
        left = len(side.says) - side.said_count
        if not left or not room or not self._draw(0.3):
            return b""
        size = min(self.random.choice((1, 36, 500, 5000)), left, room)
        side.said_count += size
        return side.says[side.said_count - size : side.said_count]


def opened(link: Link, says: bytes, answer: bytes) -> int | None:
    """Open a stream if there is a slot."""
    try:
        return link.open(says, answer)
    except FullError:
        return None
