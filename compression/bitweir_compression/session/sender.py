"""The inner end of a lane: tokens in, frames out, and what to do when outer could not decode one. Sans-I/O.

Rules:
1. Streams get slots in the order of their grants among those that have text to send. The exception is paid for: the
   index among the waiting is coded.
2. Frames may be sent ahead of their acknowledgement. A refusal takes back everything from the refused frame on; its
   tokens are sent again, in escape mode first. Every refusal in a row doubles the number of escapes, up to a limit, so
   that a machine that never agrees costs few wasted frames.
3. Escapes of an epoch are counted and capped. Beyond the cap, and when an acknowledged state is not ours, the sender
   sends one reset frame and nothing more until outer begins a new epoch.
4. `frame` either returns a frame and moves on, or changes nothing.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bitweir_compression.coder import Bits, Writer
from bitweir_compression.exact.errors import ExactRangeError
from bitweir_compression.exact.predictor import Predictor
from bitweir_compression.session.errors import EventError, SessionError
from bitweir_compression.session.events import Acknowledgement, Cancel, Event, Grant, Refusal, Restart
from bitweir_compression.session.frame import Content, Mode, code_frame
from bitweir_compression.session.lane import Finished, Lane, LaneSnapshot, LaneSpec, Stream

# Frames sent and not acknowledged; each holds a snapshot of what was learnt, a few kilobytes.
IN_FLIGHT_MAX = 64
# Escape frames of one epoch. A frame holds thousands of tokens: more of them mean a broken machine.
ESCAPES_MAX = 1000
# Escapes after one refusal grow up to this many.
ESCAPE_RUN_MAX = 64


@dataclass(frozen=True)
class Frame:
    """A frame to send.

    Attributes:
        bits: the payload.
        mode: its kind; everything but `NORMAL` is worth an alarm.
        token_count: tokens in it.
        step_count: steps in it.
        ideal_bits: -log2 of the stated probabilities, by part: mode, changes, steps, check, and of the tokens: tokens
            (arithmetic), flags and misses (gumbel, greedy), escapes.
        symbol_counts: symbols coded, by part: a token is a flag, and a miss where the guess was wrong.
    """

    bits: Bits
    mode: Mode
    token_count: int
    step_count: int
    ideal_bits: Mapping[str, float]
    symbol_counts: Mapping[str, int]


@dataclass
class _Offer:
    """What the engine has written for a stream."""

    grant: Grant
    tokens: list[int] = field(default_factory=list)
    candidate: int = 0
    is_complete: bool = False


@dataclass(frozen=True)
class _Sent:
    """A frame in flight: the lane before it, the state after it, and the streams that ended in it."""

    before: LaneSnapshot
    mode: Mode
    state_after: bytes
    ended: frozenset[int]


class Sender:
    """One lane's inner end; see the rules of this file.

    Attributes:
        escape_count, refusal_count: of the present epoch.
    """

    def __init__(
        self,
        predictor: Predictor,
        spec: LaneSpec,
        *,
        finished: Finished | None = None,
        escapes_max: int = ESCAPES_MAX,
    ) -> None:
        """Start with nothing granted.

        Args:
            predictor: the weak model, of the same fingerprint as the receiver's (`check_fingerprints`).
            spec: the same as the receiver's.
            finished: the same as the receiver's.
            escapes_max: escape frames of one epoch.
        """
        self._lane = Lane(predictor, spec, finished)
        self._escapes_max = escapes_max
        self._events: list[Event] = []
        self._offers: dict[int, _Offer] = {}
        self._dropped: set[int] = set()
        self._in_flight: deque[_Sent] = deque()
        self._is_fresh = True
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.escape_count = self.refusal_count = 0
        self._escapes_due = self._escape_run = self._failures_seen = 0
        self._must_reset = self._is_closed = False

    @property
    def in_flight_count(self) -> int:
        """Frames sent and not acknowledged."""
        return len(self._in_flight)

    @property
    def state(self) -> bytes:
        """Hash of the lane after the last frame made, 8 bytes."""
        return self._lane.state

    def receive(self, number: int, event: Event) -> None:
        """Take the next event from outer.

        Raises:
            EventError: it is not the next one, or does not fit the lane; outer must not have sent it.
        """
        if number != len(self._events):
            raise EventError(f"event {number} instead of {len(self._events)}", remedy="deliver events in order")
        if isinstance(event, Grant):
            self._lane.check(event)
            if len(self._offers) >= self._lane.spec.waiting_max + self._lane.spec.slot_count:
                raise EventError("too many open grants", remedy="grant more slowly")
        self._events.append(event)
        if isinstance(event, Grant):
            self._offers[number] = _Offer(event)
        elif isinstance(event, Cancel):
            self._offers.pop(event.stream, None)
        else:
            self._restart(event)

    def offer(self, stream: int, tokens: Sequence[int], candidate: int = 0) -> bool:
        """Append tokens an engine has written, at least one; False where nobody wants them any more.

        Args:
            stream: number of its grant.
            tokens: token ids; the end token ends the answer.
            candidate: which candidate they are of; the first call decides.

        Raises:
            EventError: no such grant, an unknown token, another candidate, or tokens after the end.
        """
        offer = None if stream in self._dropped else self._offers.get(stream)
        if offer is None:
            if not 0 <= stream < len(self._events) or not isinstance(self._events[stream], Grant):
                raise EventError(f"stream {stream} was never granted", remedy="offer tokens of granted streams")
            return False
        if not offer.tokens:
            offer.candidate = candidate
        size = self._lane.predictor.vocabulary_size
        if not tokens or not all(0 <= token < size for token in tokens):
            raise EventError(f"stream {stream}: no tokens, or unknown ones", remedy=f"offer ids below {size}")
        if candidate != offer.candidate or not 0 <= candidate < offer.grant.candidate_count:
            raise EventError(f"stream {stream}: candidate {candidate}", remedy="offer one candidate of those granted")
        grown = list(offer.tokens)
        for token in tokens:
            if grown and self._lane.ending(offer.grant, grown):
                raise EventError(f"stream {stream}: tokens after its end", remedy="stop at the end token")
            grown.append(token)
        offer.tokens = grown
        offer.is_complete = self._lane.ending(offer.grant, grown) is not None
        return True

    def drop(self, stream: int) -> None:
        """Give a stream up, because its engine failed; outer is told in the next frame."""
        if stream in self._offers:
            self._dropped.add(stream)

    def acknowledge(self, message: Acknowledgement) -> None:
        """Outer has decoded some frames; forget how to take them back."""
        lane = self._lane
        while self._in_flight and message.epoch == lane.epoch:
            sent = self._in_flight[0]
            if sent.before.frame_count >= message.frame_count:
                return
            self._in_flight.popleft()
            for number in sent.ended:
                self._offers.pop(number, None)
                self._dropped.discard(number)
            if sent.before.frame_count + 1 == message.frame_count and sent.state_after != message.state:
                self._must_reset = True
            if not sent.mode.escapes:
                self._escape_run = 0

    def refuse(self, message: Refusal) -> None:
        """Outer could not decode a frame: take back it and all after it, and send its tokens again."""
        if message.epoch != self._lane.epoch or message.failure_count <= self._failures_seen:
            return
        self._failures_seen = message.failure_count
        self.refusal_count += 1
        sent = next((one for one in self._in_flight if one.before.frame_count == message.frame_count), None)
        if sent is None:
            self._must_reset = True
            return
        while self._in_flight[-1] is not sent:
            self._in_flight.pop()
        self._in_flight.pop()
        self._lane.restore(sent.before)
        self._escape_run = min(max(1, 2 * self._escape_run), ESCAPE_RUN_MAX)
        self._escapes_due = self._escape_run

    def frame(self, steps: int, *, is_urgent: bool = False) -> Frame | None:
        """Return the next frame, or None while there is nothing to send.

        Args:
            steps: tokens of each stream to wait for, unless its answer is complete before; 1 to the lane's limit.
            is_urgent: send what there is, if there is a token of every stream in a slot.

        Raises:
            EventError: `steps` is out of range.
        """
        if not 0 < steps <= self._lane.spec.steps_max:
            raise EventError(f"{steps} steps", remedy=f"use 1 to {self._lane.spec.steps_max}")
        if self._is_closed or len(self._in_flight) >= IN_FLIGHT_MAX:
            return None
        before = self._lane.snapshot()
        try:
            return self._next(steps, before, is_urgent=is_urgent, is_raw=self._escapes_due > 0)
        except ExactRangeError:
            # The weak model cannot read this text; outer's could not either.
            self._lane.restore(before)
            return self._next(steps, before, is_urgent=is_urgent, is_raw=True)
        except BaseException:
            self._lane.restore(before)
            raise

    def _next(self, steps: int, before: LaneSnapshot, *, is_urgent: bool, is_raw: bool) -> Frame | None:
        if self._must_reset or (is_raw and self.escape_count >= self._escapes_max):
            self._is_closed = True
            return self._coded(_Choice(self, steps, is_urgent=False, mode=Mode.RESET))[0]
        return self._fitting(steps, before, is_urgent=is_urgent, is_raw=is_raw)

    def _fitting(self, steps: int, before: LaneSnapshot, *, is_urgent: bool, is_raw: bool) -> Frame | None:
        """Code as many steps as fit a frame."""
        mode = _MODES[self._lane.is_open, is_raw]
        while True:
            choice = _Choice(self, steps, is_urgent=is_urgent, mode=mode)
            if not choice.is_ready():
                return None
            frame, content = self._coded(choice)
            if content.is_empty:
                self._lane.restore(before)
                return None
            if frame.bits.count <= self._lane.spec.frame_bits_max:
                break
            self._lane.restore(before)
            if content.step_count <= 1:
                raise SessionError(
                    f"one step takes {frame.bits.count} bits", remedy="raise frame_bits_max or use fewer slots"
                )
            steps, is_urgent = content.step_count // 2, True
        self._sent(before, frame, content)
        return frame

    def _coded(self, choice: "_Choice") -> tuple[Frame, Content]:
        writer = Writer()
        events = self._events[self._lane.consumed_count :]
        content = code_frame(self._lane, writer, events, accepts=tuple(Mode), source=choice)
        counts = (content.token_count, content.step_count)
        frame = Frame(writer.finish(), content.mode, *counts, dict(writer.ideal_bits), dict(writer.symbol_counts))
        return frame, content

    def _sent(self, before: LaneSnapshot, frame: Frame, content: Content) -> None:
        self._in_flight.append(_Sent(before, frame.mode, self._lane.state, frozenset(content.ended)))
        if frame.mode.escapes:
            self.escape_count += 1
            self._escapes_due = max(0, self._escapes_due - 1)

    def _restart(self, event: Restart) -> None:
        """Begin an epoch; go on from outer's state if it is one we know, else from nothing."""
        known = [(sent.before.state, sent.before.learnt) for sent in self._in_flight]
        known.append((self._lane.state, self._lane.learnt()))
        learnt = next((learnt for state, learnt in known if state == event.state), None)
        self._is_fresh = learnt is None
        if learnt is not None:
            self._lane.learn_again(learnt)
        self._lane.restart(event.epoch, len(self._events))
        self._lane.state = event.state
        self._in_flight.clear()
        self._offers.clear()
        self._dropped.clear()
        self._begin_epoch()


class _Choice:
    """Implements `frame.Source`: what the sender wants in the next frame."""

    def __init__(self, sender: Sender, steps: int, *, is_urgent: bool, mode: Mode) -> None:
        self._lane = sender._lane
        self._offers = sender._offers
        self._dropped = sender._dropped
        self._event_count = len(sender._events) - self._lane.consumed_count
        self._steps = steps
        # Tokens a stream must have ready, unless its answer is complete.
        self._ready_count = 1 if is_urgent else steps
        self.mode = mode
        self.is_fresh = sender._is_fresh

    def is_ready(self) -> bool:
        """Whether no stream that stays in its slot keeps the others waiting."""
        staying = (s for s in self._lane.slots.values() if s.number in self._offers and s.number not in self._dropped)
        return all(self._can_go(stream) for stream in staying)

    def event_count(self) -> int:
        """See `Source`: all there are."""
        return self._event_count

    def drops(self) -> list[int]:
        """See `Source`."""
        return [number for number in self._lane.open_streams() if number in self._dropped]

    def joins(self) -> list[tuple[int, int]]:
        """See `Source`: in the order of the grants, those that have text."""
        able = (number for number, stream in self._lane.waiting.items() if self._can_go(stream))
        return [(number, self._offers[number].candidate) for number in islice(able, self._lane.free_count)]

    def step_count(self) -> int:
        """See `Source`: no stream runs dry, and no step is without a token."""
        left = [(self._left(stream), self._offers[stream.number]) for stream in self._lane.slots.values()]
        longest = max((count for count, _ in left), default=0)
        return min([self._steps, longest, *(count for count, offer in left if not offer.is_complete)])

    def token(self, slot: int) -> int:
        """See `Source`."""
        stream = self._lane.slots[slot]
        return self._offers[stream.number].tokens[len(stream.tokens)]

    def _left(self, stream: Stream) -> int:
        return len(self._offers[stream.number].tokens) - len(stream.tokens)

    def _can_go(self, stream: Stream) -> bool:
        return self._left(stream) >= self._ready_count or self._offers[stream.number].is_complete


_MODES = {
    (True, False): Mode.NORMAL,
    (True, True): Mode.ESCAPE,
    (False, False): Mode.OPENING,
    (False, True): Mode.OPENING_ESCAPE,
}
