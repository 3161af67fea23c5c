"""The state both ends of a lane share, one copy each: who waits, who is in which slot, what was learnt.

Rules:
1. Every change is a function of the frames and of the events they consume, so two lanes fed the same are equal;
   `state`, a hash over all that was coded, says so.
2. Streams join the lowest free slot. A stream that ends leaves its slot at the end of the frame.
3. `restore` goes back to a snapshot, whatever happened in between: the predictor is told the sequences again.
4. Nothing here knows the direction of the channel.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from bitweir_compression.coder import MESSAGE_BITS_MAX
from bitweir_compression.exact.errors import PredictorError
from bitweir_compression.exact.predictor import Frequencies, Predictor
from bitweir_compression.posterior import Snapshot
from bitweir_compression.session.codecs import Place, new_codecs
from bitweir_compression.session.errors import EventError
from bitweir_compression.session.events import STATE_BYTES, Cancel, CodecName, Event, Grant
from bitweir_compression.session.numbers import AdaptiveNumber, NumberState

# Kinds of numbers a frame holds, each with a code of its own.
NUMBERS = ("events", "drops", "joins", "join_index", "steps")
# One step of a full lane must fit a frame whatever is coded: for each slot a flag of at most 12 bits and a miss at
# 2**-24, rounded up, and the frame's own parts.
SLOT_BITS_MAX = 40
FRAME_BITS_MIN = 256
# A message that turns out too long for a frame must not be too long for the coder.
FRAME_BITS_LIMIT = MESSAGE_BITS_MAX // 2
# Numbers of events, and places among open streams, stay far inside what can be coded.
WAITING_LIMIT = 1 << 20

# Whether an answer is complete besides its end token and its limit: a stop string, for example. Same at both ends.
Finished = Callable[[Grant, Sequence[int]], bool]


class Ending(StrEnum):
    """Why a stream ended."""

    END = "end"
    """It wrote the end token."""
    LENGTH = "length"
    """It reached `tokens_max`."""
    STOP = "stop"
    """The lane's `finished` said so."""
    DROPPED = "dropped"
    """The sender gave it up."""
    CANCELLED = "cancelled"
    """Outer cancelled it."""
    LOST = "lost"
    """Its epoch ended."""


@dataclass(frozen=True)
class LaneSpec:
    """What both ends are configured with.

    Attributes:
        slot_count: streams coded in lock step; at most the predictor's.
        end: the token that ends an answer.
        waiting_max: streams that may be open, in slots or waiting; at most 2**20.
        steps_max: steps of one frame.
        frame_bits_max: payload bits of one frame; at least 40 a slot and 256, at most 2**19. The default is the gate's
            largest size.

    Raises:
        EventError: a limit is out of range.
    """

    slot_count: int
    end: int
    waiting_max: int = 100_000
    steps_max: int = 4096
    frame_bits_max: int = 8 * 1024 - 1

    def __post_init__(self) -> None:
        if self.slot_count < 1 or not 0 < self.steps_max < 1 << 20 or not 0 < self.waiting_max <= WAITING_LIMIT:
            raise EventError("slots, steps or waiting streams out of range", remedy="use at least one of each")
        least = self.slot_count * SLOT_BITS_MAX + FRAME_BITS_MIN
        if not least <= self.frame_bits_max <= FRAME_BITS_LIMIT:
            raise EventError(
                f"frames of {self.frame_bits_max} bits, steps of {self.slot_count} slots",
                remedy=f"allow {least} to {FRAME_BITS_LIMIT} bits, or use fewer slots",
            )


@dataclass
class Stream:
    """One answer on its way: the grant's number, the grant, the chosen candidate and the tokens coded so far."""

    number: int
    grant: Grant
    candidate: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Learnt:
    """What the adaptive codes know."""

    codecs: Mapping[CodecName, Snapshot]
    numbers: Mapping[str, NumberState]


@dataclass(frozen=True)
class LaneSnapshot:
    """A lane at a frame border; `slots` holds (slot, stream, tokens coded)."""

    waiting: tuple[Stream, ...]
    slots: tuple[tuple[int, Stream, int], ...]
    learnt: Learnt
    is_open: bool
    epoch: int
    frame_count: int
    state: bytes
    consumed_count: int


class Lane:
    """See the rules of this file.

    Attributes:
        waiting: grant number -> stream without a slot, in order.
        slots: slot -> stream.
        codecs, numbers: the adaptive codes.
        is_open: whether the epoch's first frame has been coded.
        epoch, frame_count: which frame comes next.
        state: hash over all frames so far, 8 bytes.
        consumed_count: events that have taken effect.
    """

    def __init__(self, predictor: Predictor, spec: LaneSpec, finished: Finished | None = None) -> None:
        """Start empty.

        Raises:
            EventError: the predictor is too small for the specification.
        """
        if predictor.slot_count < spec.slot_count or not 0 <= spec.end < predictor.vocabulary_size:
            raise EventError(
                f"a predictor of {predictor.slot_count} slots and {predictor.vocabulary_size} tokens",
                remedy=f"it needs {spec.slot_count} slots, and token {spec.end}",
            )
        self.spec = spec
        self.predictor = predictor
        self.waiting: dict[int, Stream] = {}
        self.slots: dict[int, Stream] = {}
        self.forget_learnt()
        self.is_open = False
        self.epoch = 0
        self.frame_count = 0
        self.state = bytes(STATE_BYTES)
        self.consumed_count = 0
        self._finished = finished or (lambda _grant, _tokens: False)
        # Slots whose sequence the predictor holds up to the last token.
        self._fed: set[int] = set()

    @property
    def free_count(self) -> int:
        """Slots without a stream."""
        return self.spec.slot_count - len(self.slots)

    def check(self, grant: Grant) -> None:
        """Refuse a grant this lane cannot serve.

        Raises:
            EventError: the answer may outgrow the context, or the prompt holds an unknown token.
        """
        room = self.predictor.context_tokens - len(grant.prompt)
        if grant.tokens_max > room:
            raise EventError(
                f"prompt of {len(grant.prompt)} and answer of {grant.tokens_max} tokens; the weak model's context is "
                f"{self.predictor.context_tokens}",
                remedy="shorten one of them",
            )
        if any(token >= self.predictor.vocabulary_size for token in grant.prompt):
            raise EventError("the prompt holds an unknown token", remedy="encode it with the pair's own tokenizer")

    def consume(self, event: Event) -> Ending | None:
        """Let the next event take effect; return how the stream it names ended, if one did."""
        self.consumed_count += 1
        if isinstance(event, Grant):
            number = self.consumed_count - 1
            self.waiting[number] = Stream(number, event)
            return None
        if isinstance(event, Cancel) and self.give_up(event.stream):
            return Ending.CANCELLED
        return None

    def give_up(self, number: int) -> bool:
        """End a stream, waiting or in a slot; False where it is neither."""
        if self.waiting.pop(number, None) is not None:
            return True
        slot = next((slot for slot, stream in self.slots.items() if stream.number == number), None)
        if slot is not None:
            self.leave(slot)
        return slot is not None

    def open_streams(self) -> list[int]:
        """Return the numbers of all streams: those in slots in the slots' order, then those that wait."""
        return [*(self.slots[slot].number for slot in sorted(self.slots)), *self.waiting]

    def join(self, number: int, candidate: int) -> None:
        """Move a waiting stream into the lowest free slot."""
        slot = next(slot for slot in range(self.spec.slot_count) if slot not in self.slots)
        stream = self.waiting.pop(number)
        stream.candidate = candidate
        self.slots[slot] = stream

    def leave(self, slot: int) -> None:
        """Free a slot."""
        del self.slots[slot]
        self._forget(slot)

    def frequencies(self, slots: Sequence[int]) -> Frequencies:
        """Return the weak model's frequencies of the next token of each slot: int64 [n, V]."""
        for slot in slots:
            if slot not in self._fed:
                stream = self.slots[slot]
                # Known as fed before it is: an admission that fails or is interrupted is undone by `restore`.
                self._fed.add(slot)
                self.predictor.admit(slot, (*stream.grant.prompt, *stream.tokens), stream.grant.temperature)
        return self.predictor.step(slots)

    def places(self, slots: Sequence[int]) -> list[Place]:
        """Return where the next token of each slot stands."""
        streams = [self.slots[slot] for slot in slots]
        return [Place(stream.grant.key, stream.candidate, len(stream.tokens)) for stream in streams]

    def extend(self, tokens: Mapping[int, int], *, is_predicted: bool) -> None:
        """Append a token to each slot; the predictor is told later where it was not asked."""
        if is_predicted:
            self.predictor.commit(tokens)
        for slot, token in tokens.items():
            self.slots[slot].tokens.append(token)
            if not is_predicted:
                self._forget(slot)

    def ending(self, grant: Grant, tokens: Sequence[int]) -> Ending | None:
        """Return why an answer is complete after these tokens, at least one; None while it is not."""
        if tokens[-1] == self.spec.end:
            return Ending.END
        if self._finished(grant, tokens):
            return Ending.STOP
        return Ending.LENGTH if len(tokens) >= grant.tokens_max else None

    def learnt(self) -> Learnt:
        """Return what the adaptive codes know."""
        codecs = {name: codec.snapshot() for name, codec in self.codecs.items()}
        return Learnt(codecs, {name: number.snapshot() for name, number in self.numbers.items()})

    def learn_again(self, learnt: Learnt) -> None:
        """Put knowledge back."""
        for name, codec in self.codecs.items():
            codec.restore(learnt.codecs[name])
        for kind, number in self.numbers.items():
            number.restore(learnt.numbers[kind])

    def forget_learnt(self) -> None:
        """Start knowing nothing."""
        self.codecs = new_codecs()
        self.numbers = {name: AdaptiveNumber() for name in NUMBERS}

    def snapshot(self) -> LaneSnapshot:
        """Return the lane as it is, between frames."""
        slots = tuple((slot, stream, len(stream.tokens)) for slot, stream in self.slots.items())
        return LaneSnapshot(
            tuple(self.waiting.values()),
            slots,
            self.learnt(),
            self.is_open,
            self.epoch,
            self.frame_count,
            self.state,
            self.consumed_count,
        )

    def restore(self, snapshot: LaneSnapshot) -> None:
        """Go back to a snapshot of this lane, the latest first if several."""
        for slot in list(self._fed):
            self._forget(slot)
        for _, stream, token_count in snapshot.slots:
            del stream.tokens[token_count:]
        for stream in snapshot.waiting:
            stream.tokens.clear()
        self.waiting = {stream.number: stream for stream in snapshot.waiting}
        self.slots = {slot: stream for slot, stream, _ in snapshot.slots}
        self.learn_again(snapshot.learnt)
        self.is_open = snapshot.is_open
        self.epoch, self.frame_count, self.state = snapshot.epoch, snapshot.frame_count, snapshot.state
        self.consumed_count = snapshot.consumed_count

    def restart(self, epoch: int, consumed_count: int) -> list[int]:
        """Begin an epoch without streams and return the numbers of those that were lost; knowledge stays."""
        lost = self.open_streams()
        for slot in list(self._fed):
            self._forget(slot)
        self.waiting, self.slots = {}, {}
        self.is_open = False
        self.epoch, self.frame_count, self.consumed_count = epoch, 0, consumed_count
        return lost

    def _forget(self, slot: int) -> None:
        if slot in self._fed:
            # The slot is free already where its admission failed.
            with suppress(PredictorError):
                self.predictor.release(slot)
            self._fed.discard(slot)
