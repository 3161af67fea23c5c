"""The inner end of the operator tunnel: streams come down, their answers go up as few payloads. Sans-I/O.

Whoever runs it (tunnel_ends.py, the tests) passes datagrams, what the service says, and the time; carries out the
events; and hands `offer` to the gate, calling `taken` when the gate took it.

Rules:
1. Bytes wait `linger_ns` for more of them, and one payload is offered every `pace_ns` at most: small writes pile up.
2. An ack travels with bytes; alone only when half the window is taken, after `ack_ns`, or when it ends the stream.
3. At most `allowance` bytes of a stream are given to the gate: what is more stays in the service.
4. What fails ends all streams and the epoch: `fail`. Only a newer epoch of outer begins again.
"""

from dataclasses import dataclass, field
from typing import Final

from bitweir_metering import tunnel
from bitweir_metering.errors import TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.tunnel import SLOTS, WINDOW_BYTES, Close, Connect, Down, Event, Item, Message, Start, Times, Up

# Bytes of one stream that wait for the gate; the service is not read while they do.
UP_BYTES_MAX: Final = 16 * 1024


@dataclass
class _Stream:
    """One stream. Positions count what comes down, bytes what goes up."""

    number: int
    next_position: int = 0
    unwritten_bytes: int = 0
    acked: int = 0
    ack_since_ns: int = 0
    allowance: int = 0
    ahead: dict[int, Message] = field(default_factory=dict)
    is_ended_down: bool = False
    up: bytearray = field(default_factory=bytearray)
    up_since_ns: int = 0
    up_bytes: int = 0
    is_ended_up: bool = False
    is_end_told: bool = False
    is_gone: bool = False

    @property
    def taken(self) -> int:
        """Positions that were written to the service."""
        return self.next_position - self.unwritten_bytes

    @property
    def is_all_taken(self) -> bool:
        """Whether everything that will ever come down was."""
        return self.is_ended_down and not self.unwritten_bytes

    @property
    def sendable_bytes(self) -> int:
        """Bytes that may go up now."""
        return min(len(self.up), self.allowance - self.up_bytes)

    @property
    def is_last(self) -> bool:
        """Whether the end goes up together with the bytes that may."""
        return self.is_ended_up and not self.is_end_told and self.sendable_bytes == len(self.up)

    def due_ns(self, times: Times) -> int | None:
        """Return when it has something to say: a time that may be past, or None."""
        due = []
        ack = self.taken - self.acked
        if self.is_gone or (self.is_end_told and self.is_all_taken and ack):
            due.append(0)
        if self.is_last or self.sendable_bytes:
            is_full = self.sendable_bytes >= tunnel.content_bytes_max(ack)
            due.append(0 if is_full else self.up_since_ns + times.linger_ns)
        if ack:
            due.append(0 if ack >= WINDOW_BYTES // 2 else self.ack_since_ns + times.ack_ns)
        return min(due, default=None)


class InnerEnd:
    """See the rules of this file.

    Args:
        key: the tunnel's shared key.
        realtime_ns: CLOCK_REALTIME at the start; older epochs are refused.
        now_ns: the time on the clock of all later calls.
        times: how long things wait.
    """

    def __init__(self, key: bytes, *, realtime_ns: int, now_ns: int, times: Times | None = None) -> None:
        self._key = key
        self._times = times or Times()
        self._epoch = realtime_ns
        self._is_alive = False
        self._answered_try = 0
        self._is_start_due = False
        self._streams: dict[int, _Stream] = {}
        self._latest = [0] * SLOTS
        self._heard_ns = now_ns
        self._offer_at_ns = now_ns
        self._turn = 0
        self._offered: Start | tuple[_Stream, Item] | None = None
        self._events: list[Event] = []

    @property
    def streams(self) -> list[int]:
        """The streams that are open."""
        return [stream.number for stream in self._streams.values()]

    @property
    def is_starting(self) -> bool:
        """Whether what is offered next begins an epoch: nothing is lost if it takes another connection to the gate."""
        return self._is_start_due

    def events(self) -> list[Event]:
        """Return what is to be done, once."""
        events, self._events = self._events, []
        return events

    def receive(self, datagram: bytes, now_ns: int) -> None:
        """Take what came down; what is old or repeated does nothing.

        Raises:
            TunnelError: damaged, forged, or not what outer says; nothing happened.
        """
        message = tunnel.decode_down(datagram, self._key)
        if message.kind is Down.HELLO:
            self._hello(message)
        elif not self._is_alive or message.epoch != self._epoch:
            return
        elif message.kind is Down.BYE:
            self.fail("the outer end said good-bye")
        else:
            self._receive_in_stream(message, now_ns)
        self._heard_ns = now_ns

    def _hello(self, message: Message) -> None:
        if message.epoch < self._epoch:
            raise TunnelError("an epoch that is over, or older than this end", remedy="the clocks of both must agree")
        if message.epoch > self._epoch:
            self.fail("the outer end begins again")
            self._epoch, self._is_alive, self._answered_try = message.epoch, True, 0
            self._latest = [0] * SLOTS
        if self._is_alive and message.epoch == self._epoch and message.position > self._answered_try:
            self._answered_try = message.position
            self._is_start_due = True

    def _receive_in_stream(self, message: Message, now_ns: int) -> None:
        slot = message.stream % SLOTS
        stream = self._streams.get(slot)
        if stream is None or stream.number != message.stream:
            # Outer opens a stream only where it knows that the last one of the slot is over.
            is_news = message.kind in (Down.OPEN, Down.ABORT) and message.stream > self._latest[slot]
            if not is_news or stream is not None:
                return
            self._latest[slot] = message.stream
            stream = self._streams[slot] = _Stream(message.stream)
            # Its OPEN was lost or comes later; outer waits for the word that it is over.
            stream.is_gone = message.kind is Down.ABORT
        if stream.is_gone:
            return
        stream.allowance = max(stream.allowance, message.allowance)
        if message.kind is Down.ABORT:
            self._gone(stream)
            self._events.append(Close(stream.number, "the outer end broke it off"))
        elif message.kind is not Down.CREDIT and message.position >= stream.next_position:
            self._place(stream, message, now_ns)

    def _place(self, stream: _Stream, message: Message, now_ns: int) -> None:
        if message.position + message.length > stream.taken + WINDOW_BYTES + tunnel.MARKS_MAX:
            raise TunnelError("more came down than the window holds", remedy="run the same version at both ends")
        if len(stream.ahead) >= tunnel.MESSAGES_MAX:
            return
        stream.ahead.setdefault(message.position, message)
        while stream.next_position in stream.ahead:
            one = stream.ahead.pop(stream.next_position)
            if stream.is_ended_down:
                raise TunnelError("something came after the end", remedy="run the same version at both ends")
            if stream.taken == stream.acked:
                stream.ack_since_ns = now_ns
            stream.next_position += one.length
            if one.kind is Down.OPEN:
                self._events.append(Connect(stream.number))
            elif one.kind is Down.BYTES:
                stream.unwritten_bytes += one.length
                self._events.append(tunnel.Write(stream.number, one.content))
            elif one.kind is Down.END:
                stream.is_ended_down = True
                self._events.append(tunnel.WriteEnd(stream.number))

    def written(self, number: int, count: int, now_ns: int) -> None:
        """The service took so many bytes of a stream."""
        stream = self._stream(number)
        if stream is not None:
            if stream.taken == stream.acked:
                stream.ack_since_ns = now_ns
            stream.unwritten_bytes -= count

    def room_bytes(self, number: int) -> int:
        """Return how many bytes of the service may be read now for a stream."""
        stream = self._stream(number)
        if stream is None or stream.is_ended_up:
            return 0
        return min(UP_BYTES_MAX, stream.allowance - stream.up_bytes) - len(stream.up)

    def say(self, number: int, content: bytes, now_ns: int) -> None:
        """The service said this on a stream; at most `room_bytes` of it.

        Raises:
            TunnelError: more than that.
        """
        stream = self._stream(number)
        if stream is None:
            return
        if len(content) > self.room_bytes(number):
            raise TunnelError("more bytes than there is room for", remedy="read at most room_bytes")
        if not stream.up:
            stream.up_since_ns = now_ns
        stream.up += content

    def end(self, number: int, now_ns: int) -> None:
        """The service says nothing more on a stream."""
        stream = self._stream(number)
        if stream is not None and not stream.is_ended_up:
            stream.is_ended_up = True
            if not stream.up:
                stream.up_since_ns = now_ns

    def broken(self, number: int) -> None:
        """The service broke a stream off; what it said and was not offered yet is dropped."""
        stream = self._stream(number)
        if stream is not None:
            self._gone(stream)

    def fail(self, reason: str) -> None:
        """End all streams and the epoch without a word: nothing can be said any more."""
        self._events += [Close(stream.number, reason) for stream in self._streams.values() if not stream.is_gone]
        self._streams.clear()
        self._is_alive, self._is_start_due, self._offered = False, False, None

    def step(self, now_ns: int) -> None:
        """Let time go by."""
        if self._streams and now_ns - self._heard_ns >= self._times.silence_ns:
            self.fail("the outer end is silent")

    def due_ns(self) -> int | None:
        """Return when `offer` has something, None while there is nothing to say."""
        if self._is_start_due:
            return self._offer_at_ns
        due = [at for stream in self._streams.values() if (at := stream.due_ns(self._times)) is not None]
        return max(min(due), self._offer_at_ns) if due else None

    def offer(self, now_ns: int) -> Payload | None:
        """Return a payload for the gate, or None if it is not time for one; tell `taken` when the gate took it."""
        due_ns = self.due_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        if self._is_start_due:
            self._offered = Start(self._epoch)
            return tunnel.encode_up(self._offered)
        slots = sorted(self._streams, key=lambda slot: (slot - self._turn) % SLOTS)
        for slot in slots:
            stream = self._streams[slot]
            at_ns = stream.due_ns(self._times)
            if at_ns is not None and at_ns <= now_ns:
                self._offered = stream, self._item(stream)
                return tunnel.encode_up(self._offered[1])
        return None

    def _item(self, stream: _Stream) -> Item:
        slot = stream.number % SLOTS
        if stream.is_gone:
            return Item(slot, Up.GONE)
        ack = stream.taken - stream.acked
        size = min(stream.sendable_bytes, tunnel.content_bytes_max(ack))
        content = bytes(stream.up[:size])
        if stream.is_last and size == len(stream.up):
            return Item(slot, Up.LAST, ack, content)
        return Item(slot, Up.BYTES if content else Up.ACK, ack, content)

    def put_off(self, until_ns: int) -> None:
        """The gate does not take it now; offer again at a time."""
        self._offered = None
        self._offer_at_ns = until_ns

    def taken(self, now_ns: int) -> None:
        """The gate took what was offered."""
        offered, self._offered = self._offered, None
        self._offer_at_ns = now_ns + self._times.pace_ns
        if offered is None:
            raise TunnelError("nothing was offered", remedy="report this as a defect")
        if isinstance(offered, Start):
            self._is_start_due = False
            return
        stream, item = offered
        self._turn = (item.slot + 1) % SLOTS
        stream.acked += item.ack
        stream.up_bytes += len(item.content)
        del stream.up[: len(item.content)]
        stream.up_since_ns = stream.ack_since_ns = now_ns
        stream.is_end_told |= item.what is Up.LAST
        if item.what is Up.GONE:
            del self._streams[item.slot]
        elif stream.is_end_told and stream.is_all_taken and stream.acked == stream.next_position:
            del self._streams[item.slot]
            self._events.append(Close(stream.number))

    def _stream(self, number: int) -> _Stream | None:
        stream = self._streams.get(number % SLOTS)
        return stream if stream is not None and stream.number == number and not stream.is_gone else None

    def _gone(self, stream: _Stream) -> None:
        stream.is_gone = True
        stream.up.clear()
        stream.ahead.clear()
