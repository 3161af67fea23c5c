"""One frame, in either direction: the only place that says in which order what is coded. No I/O.

    mode | [epoch, fresh] or [frame number] | events | drops | joins | steps | steps x tokens | check

Rules:
1. A writer has a `Source` that says what to write; a reader has none and is told by the bits. Both run this code on
   equal lanes, and so end in equal lanes.
2. Tokens are step-major. Within a step come the codecs in the order of `CodecName`, and for each its slots in
   ascending order. A stream whose answer is complete has no token in later steps.
3. The check is 12 bits of a hash over everything the frame changed: events, drops, joins, tokens and the weak model's
   frequencies. A frame with one bit changed, or decoded with other frequencies, passes with odds of 2**-12.
4. In an escape the tokens are coded as raw ids: no frequencies, no noise, nothing learnt. Two machines that will never
   agree still understand each other.
5. Whoever calls takes a snapshot first and restores it when this raises.

docs/reference/session-format.md specifies it; the two change together.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Protocol

import numpy as np

from bitweir_compression import noise
from bitweir_compression.coder import SymbolCoder
from bitweir_compression.exact.predictor import Frequencies
from bitweir_compression.session.errors import FrameError, StaleFrameError
from bitweir_compression.session.events import STATE_BYTES, Cancel, CodecName, Event
from bitweir_compression.session.lane import Ending, Lane

CHECK_BITS = 12
# Frame numbers and epochs are coded modulo this, in the frames that say them.
_NUMBER_SIZE = 1 << 16
_PERSON = b"bitweir frame v1"


class Mode(IntEnum):
    """What kind of frame this is."""

    NORMAL = 0
    ESCAPE = 1
    OPENING = 2
    """The first frame of an epoch."""
    OPENING_ESCAPE = 3
    RESET = 4
    """The sender cannot go on: outer should begin a new epoch."""

    @property
    def opens(self) -> bool:
        """Whether it begins an epoch."""
        return self in (Mode.OPENING, Mode.OPENING_ESCAPE)

    @property
    def escapes(self) -> bool:
        """Whether its tokens are raw ids."""
        return self in (Mode.ESCAPE, Mode.OPENING_ESCAPE)


# A normal frame pays .0014 bits for its mode, the others 12.
_MODE_WEIGHTS = np.array([4092, 1, 1, 1, 1], dtype=np.int64)


class Source(Protocol):
    """What a writer wants in the frame. Each is asked once, in this order, the lane being as the decoder's will be."""

    @property
    def mode(self) -> Mode:
        """The kind of frame."""

    @property
    def is_fresh(self) -> bool:
        """For an opening: whether the sender has lost what the lane had learnt."""

    def event_count(self) -> int:
        """How many of the events take effect."""

    def drops(self) -> Sequence[int]:
        """Numbers of streams to give up, in the order of `Lane.open_streams`."""

    def joins(self) -> Sequence[tuple[int, int]]:
        """Waiting streams to take in, as (number, candidate)."""

    def step_count(self) -> int:
        """How many steps; each has at least one token."""

    def token(self, slot: int) -> int:
        """The next token of a slot."""


@dataclass
class Content:
    """What a frame held.

    Attributes:
        mode: its kind.
        events: the events that took effect.
        joined: stream numbers that got a slot, with their candidate.
        texts: stream number -> tokens.
        ended: stream number -> why.
        change_count: drops and joins.
        step_count: steps.
    """

    mode: Mode
    events: list[Event] = field(default_factory=list)
    joined: dict[int, int] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, Ending] = field(default_factory=dict)
    change_count: int = 0
    step_count: int = 0

    @property
    def token_count(self) -> int:
        """Tokens of all streams."""
        return sum(map(len, self.texts.values()))

    @property
    def is_empty(self) -> bool:
        """Whether the frame changes nothing."""
        return not (self.events or self.joined or self.texts or self.ended)


def code_frame(
    lane: Lane,
    coder: SymbolCoder,
    events: Sequence[Event],
    *,
    accepts: Sequence[Mode],
    source: Source | None = None,
) -> Content:
    """Code one frame and move the lane on.

    Args:
        lane: this end's lane.
        coder: writes or reads.
        events: the events that have not taken effect yet, in order.
        accepts: kinds of frame that may come now.
        source: what to write; None to read.

    Raises:
        StaleFrameError: a frame of a kind, epoch or number that does not come now.
        FrameError: no sender makes this frame, or its check fails.
        CompressionError: as the coder and the predictor raise them.
    """
    return _Coding(lane, coder, source).run(events, accepts)


class _Coding:
    """One pass over a frame. Where a value is written it comes from the source, where it is read it is None."""

    def __init__(self, lane: Lane, coder: SymbolCoder, source: Source | None) -> None:
        self._lane = lane
        self._coder = coder
        self._source = source
        self._hash = hashlib.blake2b(digest_size=16, person=_PERSON)
        self._content = Content(Mode.NORMAL)

    def run(self, events: Sequence[Event], accepts: Sequence[Mode]) -> Content:
        content, source = self._content, self._source
        self._coder.part = "mode"
        content.mode = Mode(self._coder.symbol(_MODE_WEIGHTS, int(source.mode) if source else None))
        if content.mode not in accepts:
            raise StaleFrameError(f"a frame of kind {content.mode.name.lower()} does not come now", remedy="drop it")
        self._position()
        if content.mode is not Mode.RESET:
            self._coder.part = "changes"
            self._take_effect(events)
            self._give_up()
            self._join()
            self._steps()
            if content.is_empty and not source:
                raise FrameError("a frame that changes nothing", remedy="treat it as damaged: no sender makes it")
        self._check()
        return content

    def _position(self) -> None:
        """Code which frame this is: said by those frames that may meet a receiver who waits for another."""
        lane, mode = self._lane, self._content.mode
        # A sender resets because the two states differ, so that check depends on neither.
        if mode is not Mode.RESET:
            self._hash.update(lane.state)
        self._absorb(mode, lane.epoch, 0 if mode is Mode.RESET else lane.frame_count)
        if mode is Mode.NORMAL:
            return
        number = (lane.frame_count if mode is Mode.ESCAPE else lane.epoch) % _NUMBER_SIZE
        if self._coder.uniform(_NUMBER_SIZE, number if self._source else None) != number:
            raise StaleFrameError(f"not frame or epoch {number}", remedy="drop it")
        if mode.opens:
            is_fresh = self._coder.uniform(2, int(self._source.is_fresh) if self._source else None)
            self._absorb(is_fresh)
            if is_fresh:
                lane.forget_learnt()

    def _take_effect(self, events: Sequence[Event]) -> None:
        """Code how many events take effect, and let them."""
        count = self._number("events", self._source.event_count() if self._source else None)
        if count > len(events):
            raise FrameError(f"{count} events of {len(events)} take effect", remedy="treat the frame as damaged")
        for event in events[:count]:
            ending = self._lane.consume(event)
            self._hash.update(event.digest())
            self._content.events.append(event)
            if ending and isinstance(event, Cancel):
                self._content.ended[event.stream] = ending

    def _give_up(self) -> None:
        """Code which streams the sender gives up."""
        dropped = self._source.drops() if self._source else None
        count = self._number("drops", None if dropped is None else len(dropped))
        numbers = self._lane.open_streams() if count else []
        if count > len(numbers):
            raise FrameError("more streams given up than there are", remedy="treat the frame as damaged")
        self._content.change_count += count
        index = 0
        for place in range(count):
            # What comes next stands where the last one stood, or after it.
            wanted = None if dropped is None else numbers.index(dropped[place], index)
            index = self._coder.uniform(len(numbers), wanted)
            number = numbers.pop(index)
            self._absorb(number)
            self._lane.give_up(number)
            self._content.ended[number] = Ending.DROPPED

    def _join(self) -> None:
        """Code which waiting streams get a slot, and which candidate was chosen."""
        lane = self._lane
        chosen = self._source.joins() if self._source else None
        count = self._number("joins", None if chosen is None else len(chosen))
        if count > min(lane.free_count, len(lane.waiting)):
            raise FrameError(f"{count} streams join, more than wait or fit", remedy="treat the frame as damaged")
        waiting = list(lane.waiting) if count else []
        self._content.change_count += count
        for place in range(count):
            wanted, candidate = chosen[place] if chosen else (None, None)
            index = self._number("join_index", None if wanted is None else waiting.index(wanted))
            if index >= len(waiting):
                raise FrameError(f"waiting stream {index} of {len(waiting)}", remedy="treat the frame as damaged")
            number = waiting.pop(index)
            candidate = self._coder.uniform(lane.waiting[number].grant.candidate_count, candidate)
            self._absorb(number, candidate)
            lane.join(number, candidate)
            self._content.joined[number] = candidate

    def _steps(self) -> None:
        """Code the tokens; streams whose answer is complete leave their slots at the end."""
        lane, content = self._lane, self._content
        self._coder.part = "steps"
        content.step_count = self._number("steps", self._source.step_count() if self._source else None)
        if content.step_count > lane.spec.steps_max:
            raise FrameError(f"{content.step_count} steps", remedy=f"a frame has at most {lane.spec.steps_max}")
        live = sorted(lane.slots)
        complete: dict[int, Ending] = {}
        for _ in range(content.step_count):
            if not live:
                raise FrameError("a step without a stream", remedy="treat the frame as damaged: no sender makes it")
            for slot, token in self._step(live).items():
                stream = lane.slots[slot]
                content.texts.setdefault(stream.number, []).append(token)
                if ending := lane.ending(stream.grant, stream.tokens):
                    complete[slot] = ending
            live = [slot for slot in live if slot not in complete]
        for slot, ending in complete.items():
            content.ended[lane.slots[slot].number] = ending
            lane.leave(slot)

    def _step(self, live: Sequence[int]) -> dict[int, int]:
        """Code one token of each live slot."""
        lane, is_raw = self._lane, self._content.mode.escapes
        wanted = {slot: self._source.token(slot) if self._source else None for slot in live}
        if is_raw:
            size = lane.predictor.vocabulary_size
            self._coder.part = "escapes"
            tokens = {slot: self._coder.uniform(size, wanted[slot]) for slot in live}
        else:
            tokens = self._predicted(live, wanted)
        self._absorb(*(tokens[slot] for slot in live))
        lane.extend(tokens, is_predicted=not is_raw)
        return tokens

    def _predicted(self, live: Sequence[int], wanted: Mapping[int, int | None]) -> dict[int, int]:
        """Code tokens given the weak model's frequencies, codec by codec."""
        lane = self._lane
        frequencies = lane.frequencies(live)
        self._hash.update(frequency_sums(frequencies))
        tokens: dict[int, int] = {}
        for name in CodecName:
            rows = [row for row, slot in enumerate(live) if lane.slots[slot].grant.codec is name]
            if rows:
                slots = [live[row] for row in rows]
                own = frequencies if len(rows) == len(live) else frequencies[rows]
                coded = lane.codecs[name].code(self._coder, own, lane.places(slots), [wanted[slot] for slot in slots])
                tokens |= dict(zip(slots, coded, strict=True))
        return tokens

    def _check(self) -> None:
        """Code the check; where it holds, the lane moves on. A reset leaves it where both ends last agreed."""
        summary = self._hash.digest()
        check = int.from_bytes(summary[:2], "little") >> (16 - CHECK_BITS)
        self._coder.part = "check"
        if self._coder.uniform(1 << CHECK_BITS, check if self._source else None) != check:
            raise FrameError("the check of the frame fails", remedy="refuse it; the sender sends its tokens again")
        if self._content.mode is not Mode.RESET:
            self._lane.is_open = True
            self._lane.frame_count += 1
            self._lane.state = summary[-STATE_BYTES:]

    def _number(self, kind: str, value: int | None) -> int:
        number = self._lane.numbers[kind].code(self._coder, value)
        self._absorb(number)
        return number

    def _absorb(self, *numbers: int) -> None:
        self._hash.update(b"".join(number.to_bytes(8, "little") for number in numbers))


def frequency_sums(frequencies: Frequencies) -> bytes:
    """Return 8 bytes a row that change with any frequency: sum of f[t] * r[t] modulo 2**64, r fixed and odd."""
    sums = np.ascontiguousarray(frequencies).view(np.uint64) @ _factors(frequencies.shape[1])
    return bytes(sums.astype("<u8").tobytes())


@cache
def _factors(size: int) -> noise.Words:
    return noise.words((0, 0), size) | np.uint64(1)
