"""The outer end of the operator tunnel: connections of people go down, frames come up. Sans-I/O.

Whoever runs it (tunnel_ends.py, the tests, a link that carries other classes too) passes connections, the gate's frames
of all classes in the order they came in, and the time; and carries out the events.

Rules:
1. An epoch begins with the first connection: HELLO down until START is heard. No stream is opened before. It ends with
   the last one, so that whatever was restarted in between does not matter.
2. Frames are read in the order of their sequence (frame_order.py). A frame that stays missing, a payload that is none,
   an item that cannot be meant: all streams are closed with a reset, and the next connection begins a new epoch.
3. What goes down is repeated until acknowledged; after `give_up_ns` without an ack the epoch ends.
4. A stream's slot is used again only when inner has said that it is over.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from bitweir_metering import tunnel
from bitweir_metering.errors import FullError, TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.frame_order import FrameOrder
from bitweir_metering.tunnel import (
    SLOTS,
    WINDOW_BYTES,
    Ask,
    Close,
    Down,
    Event,
    Item,
    Message,
    Send,
    Start,
    Times,
    Up,
    Write,
    WriteEnd,
)
from bitweir_metering.units import NS_PER_S

REPEAT_GROWTH: Final = 16
PROBE_GROWTH: Final = 8
CHECK_NS_MAX: Final = 3600 * NS_PER_S
BYE_COPIES: Final = 3


@dataclass
class _Stream:
    """One connection. Positions count what goes down, bytes what comes up."""

    number: int
    next_position: int = 0
    acked: int = 0
    waiting: deque[Message] = field(default_factory=deque)
    """Not acknowledged; the first `sent_count` were sent."""
    sent_count: int = 0
    repeat_at_ns: int = 0
    repeat_pause_ns: int = 0
    unacked_since_ns: int = 0
    is_ended_down: bool = False
    is_ended_up: bool = False
    is_aborted: bool = False
    up_bytes: int = 0
    written_bytes: int = 0
    told_allowance: int = 0

    @property
    def is_over(self) -> bool:
        """Whether both sides have said everything and inner knows it."""
        return self.is_ended_up and self.is_ended_down and self.acked == self.next_position


class OuterEnd:
    """See the rules of this file.

    Args:
        key: the tunnel's shared key.
        times: how long things wait.
    """

    def __init__(self, key: bytes, *, times: Times | None = None) -> None:
        self._key = key
        self._times = times or Times()
        self._epoch = 0
        self._is_greeting = False
        self._hello_try = 0
        self._hello_at_ns = 0
        self._hello_since_ns = 0
        self._order: FrameOrder[Payload | None] | None = None
        self._streams: dict[int, _Stream] = {}
        self._number = 0
        self._heard_ns = 0
        self._probe_at_ns = 0
        self._probe_pause_ns = 0
        self._check_at_ns = 0
        self._check_pause_ns = 0
        self._events: list[Event] = []

    @property
    def streams(self) -> list[int]:
        """The streams whose slots are in use."""
        return [stream.number for stream in self._streams.values()]

    def open(self, now_ns: int, realtime_ns: int) -> int:
        """Open a stream and return its number.

        Args:
            now_ns: the time on the clock of all other calls.
            realtime_ns: CLOCK_REALTIME, for the name of an epoch.

        Raises:
            FullError: SLOTS streams are open.
        """
        if all(stream.is_aborted for stream in self._streams.values()):
            # Nobody waits for what is left: a new epoch ends it inside, whether the gate still lives or not.
            self._streams.clear()
            self._is_greeting, self._order = False, None
        if len(self._streams) == SLOTS:
            raise FullError(f"{SLOTS} streams are open", remedy="close one")
        self._number += 1
        while self._number % SLOTS in self._streams:
            self._number += 1
        stream = self._streams[self._number % SLOTS] = _Stream(self._number)
        self._append(stream, Down.OPEN)
        if not self._is_greeting and self._order is None:
            self._epoch = max(realtime_ns, self._epoch + 1)
            self._is_greeting, self._hello_try = True, 0
            self._hello_at_ns = self._hello_since_ns = now_ns
        return self._number

    def room_bytes(self, number: int) -> int:
        """Return how many bytes of a connection may be read now."""
        stream = self._stream(number)
        if stream is None or stream.is_ended_down or len(stream.waiting) >= tunnel.MESSAGES_MAX // 2:
            return 0
        return max(0, WINDOW_BYTES - (stream.next_position - stream.acked))

    def say(self, number: int, content: bytes) -> None:
        """The connection said this; at most `room_bytes` of it.

        Raises:
            TunnelError: more than that.
        """
        stream = self._stream(number)
        if stream is None:
            return
        if len(content) > self.room_bytes(number):
            raise TunnelError("more bytes than there is room for", remedy="read at most room_bytes")
        for start in range(0, len(content), tunnel.CHUNK_BYTES):
            self._append(stream, Down.BYTES, content[start : start + tunnel.CHUNK_BYTES])
        self._check_pause_ns = 0

    def end(self, number: int) -> None:
        """The connection says nothing more."""
        stream = self._stream(number)
        if stream is not None and not stream.is_ended_down:
            self._append(stream, Down.END)
            stream.is_ended_down = True
            self._finish(stream)

    def broken(self, number: int) -> None:
        """The connection broke; inner is told, and what still comes up is dropped."""
        stream = self._stream(number)
        if stream is not None:
            stream.is_aborted = True
            stream.repeat_at_ns = stream.repeat_pause_ns = 0
            if not stream.acked and not stream.sent_count:
                self._forget(stream)

    def written(self, number: int, count: int) -> None:
        """The connection took so many bytes: as many more may come up."""
        stream = self._stream(number)
        if stream is not None:
            stream.written_bytes += count

    def frame(self, sequence: int, payload: Payload | None, now_ns: int) -> None:
        """Take a frame of the gate: the payload of class TUNNEL, None for any other class."""
        try:
            if self._order is not None:
                for one in self._order.take(sequence, payload, now_ns):
                    if one is not None and self._streams:
                        self._read(one, now_ns)
                    self._heard(now_ns)
            elif self._is_greeting and payload is not None and _is_start(payload, self._epoch):
                self._is_greeting = False
                times = self._times
                self._order = FrameOrder(sequence + 1, ask_ns=times.ask_ns, give_up_ns=times.give_up_ns)
                self._heard(now_ns)
        except TunnelError as error:
            self.fail(str(error))

    def step(self, now_ns: int) -> list[Event]:
        """Let time go by; return what is to be done."""
        if self._is_greeting:
            self._greet(now_ns)
        elif self._order is not None and self._streams:
            try:
                self._events += [Ask(sequence) for sequence in self._order.asks(now_ns)]
                for stream in list(self._streams.values()):
                    self._send(stream, now_ns)
                self._probe(self._order, now_ns)
            except TunnelError as error:
                self.fail(str(error))
        events, self._events = self._events, []
        return events

    def fail(self, reason: str) -> None:
        """End all streams and the epoch; inner is told, but no answer is waited for."""
        self._events += [Close(one.number, reason) for one in self._streams.values() if not one.is_aborted]
        self._streams.clear()
        if self._is_greeting or self._order is not None:
            self._events += [self._down(Message(Down.BYE, self._epoch))] * BYE_COPIES
        self._is_greeting, self._order = False, None

    def _down(self, message: Message) -> Send:
        return Send(tunnel.encode_down(message, self._key))

    def _append(self, stream: _Stream, kind: Down, content: bytes = b"") -> None:
        # Epoch and allowance are filled in when it is sent.
        message = Message(kind, 0, stream.number, stream.next_position, 0, content)
        stream.waiting.append(message)
        stream.next_position += message.length

    def _heard(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._probe_pause_ns = self._times.probe_ns
        self._probe_at_ns = now_ns + self._probe_pause_ns
        self._check_pause_ns = self._check_pause_ns or self._times.check_ns
        self._check_at_ns = now_ns + self._check_pause_ns

    def _greet(self, now_ns: int) -> None:
        if now_ns - self._hello_since_ns >= self._times.give_up_ns:
            self.fail("the inner end does not answer")
        elif now_ns >= self._hello_at_ns:
            self._hello_try += 1
            # Each try that is heard costs a frame.
            self._hello_at_ns = now_ns + self._hello_try * NS_PER_S
            self._events.append(self._down(Message(Down.HELLO, self._epoch, position=self._hello_try)))

    def _send(self, stream: _Stream, now_ns: int) -> None:
        """Send what was not sent, and repeat what is not acknowledged."""
        times = self._times
        if not stream.repeat_pause_ns or not (stream.sent_count or stream.is_aborted):
            stream.unacked_since_ns = now_ns
        if now_ns - stream.unacked_since_ns >= times.give_up_ns:
            raise TunnelError("the inner end does not answer", remedy="look at the gate: link down, or budget used up")
        if stream.is_aborted:
            if now_ns >= stream.repeat_at_ns:
                self._events.append(self._down(Message(Down.ABORT, self._epoch, stream.number)))
                self._repeat_later(stream, now_ns)
            return
        if stream.sent_count and now_ns >= stream.repeat_at_ns:
            stream.sent_count = 0
            self._repeat_later(stream, now_ns)
        elif not stream.sent_count:
            stream.repeat_pause_ns = times.repeat_ns
            stream.repeat_at_ns = now_ns + times.repeat_ns
        allowance = stream.written_bytes + WINDOW_BYTES
        if len(stream.waiting) > stream.sent_count:
            for index in range(stream.sent_count, len(stream.waiting)):
                one = stream.waiting[index]
                message = Message(one.kind, self._epoch, one.stream, one.position, allowance, one.content)
                self._events.append(self._down(message))
            stream.sent_count = len(stream.waiting)
            stream.told_allowance = allowance
        elif allowance - stream.told_allowance >= WINDOW_BYTES // 4:
            self._credit(stream)

    def _repeat_later(self, stream: _Stream, now_ns: int) -> None:
        times = self._times
        stream.repeat_pause_ns = min(2 * stream.repeat_pause_ns or times.repeat_ns, REPEAT_GROWTH * times.repeat_ns)
        stream.repeat_at_ns = now_ns + stream.repeat_pause_ns

    def _credit(self, stream: _Stream) -> None:
        stream.told_allowance = stream.written_bytes + WINDOW_BYTES
        self._events.append(self._down(Message(Down.CREDIT, self._epoch, stream.number, 0, stream.told_allowance)))

    def _probe(self, order: FrameOrder[Payload | None], now_ns: int) -> None:
        """Nothing came for a while: the last frame may be lost, or an allowance, or all of the other end."""
        if now_ns >= self._probe_at_ns:
            self._probe_pause_ns = min(2 * self._probe_pause_ns, PROBE_GROWTH * self._times.probe_ns)
            self._probe_at_ns = now_ns + self._probe_pause_ns
            if not order.is_missing:
                self._events.append(Ask(order.next_sequence))
            for stream in self._streams.values():
                if not stream.is_aborted:
                    self._credit(stream)
        if now_ns >= self._check_at_ns:
            self._check_pause_ns = min(2 * (self._check_pause_ns or self._times.check_ns), CHECK_NS_MAX)
            self._check_at_ns = now_ns + self._check_pause_ns
            for stream in self._streams.values():
                if not stream.waiting and not stream.is_ended_down and not stream.is_aborted:
                    self._append(stream, Down.CHECK)
                    break

    def _read(self, payload: Payload, now_ns: int) -> None:
        item = tunnel.decode_up(payload)
        if isinstance(item, Start):
            # Inner heard several tries of one HELLO.
            if item.epoch != self._epoch:
                raise TunnelError("the inner end began another epoch", remedy="run one outer end")
            return
        stream = self._streams.get(item.slot)
        if stream is None or not (stream.acked or stream.sent_count):
            raise TunnelError(f"something in slot {item.slot}, which is free", remedy="report this as a defect")
        if item.what is Up.GONE:
            self._forget(stream)
            if not stream.is_aborted:
                self._events.append(Close(stream.number, "the service broke it off"))
            return
        self._acknowledge(stream, item, now_ns)
        self._take(stream, item)
        self._finish(stream)

    def _acknowledge(self, stream: _Stream, item: Item, now_ns: int) -> None:
        stream.acked += item.ack
        sent = stream.waiting[stream.sent_count - 1] if stream.sent_count else None
        if item.ack and (sent is None or stream.acked > sent.position + sent.length):
            raise TunnelError("an ack of what was not sent", remedy="report this as a defect")
        while stream.waiting and stream.waiting[0].position + stream.waiting[0].length <= stream.acked:
            stream.waiting.popleft()
            stream.sent_count -= 1
        if item.ack:
            stream.unacked_since_ns = now_ns
            stream.repeat_pause_ns = self._times.repeat_ns
            stream.repeat_at_ns = now_ns + stream.repeat_pause_ns

    def _take(self, stream: _Stream, item: Item) -> None:
        if not item.content and item.what is not Up.LAST:
            return
        stream.up_bytes += len(item.content)
        if stream.is_ended_up or stream.up_bytes > stream.told_allowance:
            raise TunnelError("bytes after the end or beyond the allowance", remedy="report this as a defect")
        stream.is_ended_up = item.what is Up.LAST
        self._check_pause_ns = 0
        if stream.is_aborted:
            stream.written_bytes += len(item.content)
            return
        if item.content:
            self._events.append(Write(stream.number, item.content))
        if stream.is_ended_up:
            self._events.append(WriteEnd(stream.number))

    def _finish(self, stream: _Stream) -> None:
        if stream.is_over:
            self._forget(stream)
            if not stream.is_aborted:
                self._events.append(Close(stream.number))

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.number % SLOTS]
        if not self._streams:
            self._is_greeting, self._order = False, None

    def _stream(self, number: int) -> _Stream | None:
        stream = self._streams.get(number % SLOTS)
        return stream if stream is not None and stream.number == number and not stream.is_aborted else None


def _is_start(payload: Payload, epoch: int) -> bool:
    """Whether a frame begins this epoch; what came before it was not meant for this one."""
    try:
        return tunnel.decode_up(payload) == Start(epoch)
    except TunnelError:
        return False
