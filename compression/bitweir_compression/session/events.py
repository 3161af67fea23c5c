"""What goes down, from outer to inner, where bits are free. Plain frozen data.

Rules:
1. Grants, cancels and restarts are numbered densely by outer. Inner takes them in that order, and each takes effect at
   the frame that says so, at both ends: a late event delays, it cannot desynchronise.
2. The number of a stream is the number of its grant. It is never sent up.
3. Acknowledgements and refusals are cumulative: a lost or repeated one changes nothing.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from bitweir_compression.exact.temperature import UNIT, Temperature
from bitweir_compression.noise import KEY_BYTES
from bitweir_compression.session.errors import EventError

# Tokens of one prompt or answer: a bound on damage; the weak model's context is the tighter one.
TOKENS_MAX = 1 << 24
STATE_BYTES = 8
# Streams are counted from 0 over a lane's life.
STREAMS_MAX = 1 << 63
# Events that have not taken effect, for each stream that may be open: its grant, its cancel, and some repeated.
EVENTS_PER_STREAM_MAX = 4
# More candidates than anybody samples; the choice among them is coded as one symbol.
CANDIDATES_MAX = 1 << 16
STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256


class CodecName(StrEnum):
    """How a stream's tokens are coded; see codecs.py. The order is the order within a step."""

    ARITHMETIC = "arithmetic"
    GUMBEL = "gumbel"
    GREEDY = "greedy"


@dataclass(frozen=True)
class Grant:
    """Permission to send one answer, and all that both ends know about it.

    Attributes:
        prompt: token ids the weak model sees before the answer, at least one.
        codec: how the answer is coded.
        key: 32-byte noise key of the request.
        temperature: of the weak model's frequencies: the one served; 1 for `greedy`.
        tokens_max: the answer ends after so many tokens, if not before.
        candidate_count: candidates the strong model may choose among; the choice costs log2 of this.
        stop: texts that end the answer, for a lane whose `finished` looks at them; up to 16 of up to 256 characters.

    Raises:
        EventError: a value is out of range.
    """

    prompt: tuple[int, ...]
    codec: CodecName
    key: bytes
    temperature: Temperature = UNIT
    tokens_max: int = 1024
    candidate_count: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.stop) > STOPS_MAX or not all(0 < len(text) <= STOP_CHARACTERS_MAX for text in self.stop):
            raise EventError(f"{len(self.stop)} stop texts, or one too long", remedy=f"up to {STOPS_MAX} short ones")
        if not 0 < len(self.prompt) <= TOKENS_MAX or any(type(token) is not int or token < 0 for token in self.prompt):
            raise EventError("the prompt is empty, too long or holds what is no token id", remedy="send token ids")
        if len(self.key) != KEY_BYTES:
            raise EventError(f"noise key of {len(self.key)} bytes", remedy=f"use {KEY_BYTES} random bytes")
        if not 0 < self.tokens_max <= TOKENS_MAX:
            raise EventError(f"an answer of {self.tokens_max} tokens", remedy=f"allow 1 to {TOKENS_MAX}")
        if not 0 < self.candidate_count <= CANDIDATES_MAX:
            raise EventError(f"{self.candidate_count} candidates", remedy=f"allow 1 to {CANDIDATES_MAX}")

    def digest(self) -> bytes:
        """Return 16 bytes that differ where two grants do."""
        tokens = b"".join(token.to_bytes(4, "little") for token in self.prompt)
        numbers = (self.temperature.numerator, self.temperature.denominator, self.tokens_max, self.candidate_count)
        text = f"{self.codec.value} {' '.join(map(str, numbers))} {len(self.prompt)} ".encode()
        stops = [text.encode("utf-8", "surrogatepass") for text in self.stop]
        ends = b"".join(len(one).to_bytes(4, "little") + one for one in stops)
        return _digest(b"grant", text + tokens + self.key + ends)


@dataclass(frozen=True)
class Cancel:
    """Outer no longer wants a stream; without effect where it has ended already."""

    stream: int

    def __post_init__(self) -> None:
        if not 0 <= self.stream < STREAMS_MAX:
            raise EventError(f"stream {self.stream}", remedy="name a stream by its grant's number")

    def digest(self) -> bytes:
        """Return 16 bytes that differ where two cancels do."""
        return _digest(b"cancel", self.stream.to_bytes(8, "little"))


@dataclass(frozen=True)
class Restart:
    """A new epoch: all streams are lost; what was learnt goes on from a state outer has, if inner has it too.

    Attributes:
        epoch: number of the new epoch, dense from 0.
        state: hash of what outer has learnt from, 8 bytes.
    """

    epoch: int
    state: bytes

    def __post_init__(self) -> None:
        if self.epoch < 1 or len(self.state) != STATE_BYTES:
            raise EventError(f"epoch {self.epoch} from a state of {len(self.state)} bytes", remedy="ask the receiver")

    def digest(self) -> bytes:
        """Return 16 bytes that differ where two restarts do."""
        return _digest(b"restart", self.epoch.to_bytes(8, "little") + self.state)


Event = Grant | Cancel | Restart


def _digest(kind: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, person=b"bitweir " + kind).digest()


@dataclass(frozen=True)
class Acknowledgement:
    """Outer has decoded the first `frame_count` frames of the epoch.

    Attributes:
        epoch: the epoch.
        frame_count: good frames.
        state: hash of the lane after them, 8 bytes.
    """

    epoch: int
    frame_count: int
    state: bytes


@dataclass(frozen=True)
class Refusal:
    """Outer could not decode the frame after the first `frame_count` of the epoch, and drops frames until it is resent.

    Attributes:
        epoch: the epoch.
        frame_count: good frames.
        failure_count: failures of the epoch so far, this one included.
        dropped_count: frames that came after it, none of them good; so the sender knows whether its answer was one.
    """

    epoch: int
    frame_count: int
    failure_count: int
    dropped_count: int = 0


class EventLog:
    """Events by number, without those that nobody asks for any more.

    Attributes:
        first: number of the oldest event kept.
    """

    def __init__(self) -> None:
        """Start at number 0."""
        self.first = 0
        self._events: list[Event] = []

    @property
    def next(self) -> int:
        """Number of the next event."""
        return self.first + len(self._events)

    def append(self, event: Event) -> int:
        """Keep an event and return its number."""
        self._events.append(event)
        return self.next - 1

    def get(self, number: int) -> Event | None:
        """Return an event; None where it is not kept."""
        return self._events[number - self.first] if self.first <= number < self.next else None

    def since(self, number: int) -> list[Event]:
        """Return the events from a number on that are kept."""
        return self._events[number - self.first :]

    def forget(self, number: int) -> None:
        """Keep only events from a number on; where it is beyond the next one, that becomes the next."""
        number = max(number, self.first)
        del self._events[: number - self.first]
        self.first = number
