"""The inner end of a lane: tokens in, frames out, and what to do when outer could not decode one. Sans-I/O.

Rules:
1. Streams get slots in the order of their grants among those that have text to send. The exception is paid for: the
   index among the waiting is coded.
2. Frames may be sent ahead of their acknowledgement. A refusal takes back everything from the refused frame on; its
   tokens are sent again, in escape mode first. Every refusal in a row doubles the number of escapes, up to a limit, so
   that a machine that never agrees costs few wasted frames.
3. Escapes of an epoch are counted and capped. Beyond the cap, and when an acknowledged state is not ours, the sender
   sends one reset frame and nothing more, but the same again if that is refused, until outer begins a new epoch.
4. `frame` either returns a frame and moves on, or changes nothing.
5. Frames arrive in order. A refusal says how many came after the one it refuses, so the sender knows whether its answer
   came, and failed too, or is still under way.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bitweir_compression.coder import Bits, Writer
from bitweir_compression.exact.errors import ExactRangeError
from bitweir_compression.exact.predictor import Predictor
from bitweir_compression.session.errors import EventError, SessionError
from bitweir_compression.session.events import Acknowledgement, Cancel, Event, EventLog, Grant, Refusal, Restart
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
    """A frame in flight: the lane before it, the state after it, and the streams that ended in it.

    Attributes:
        place: its number among all frames sent in the epoch, from 1.
        is_predicted: whether it took the weak model to code it.
    """

    before: LaneSnapshot
    place: int
    is_predicted: bool
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
        self._events = EventLog()
        self._offers: dict[int, _Offer] = {}
        # Streams with text.
        self._begun: set[int] = set()
        self._dropped: set[int] = set()
        self._in_flight: deque[_Sent] = deque()
        self._is_fresh = True
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.escape_count = self.refusal_count = 0
        self._escapes_due = self._escape_run = 0
        # Good frames before the frame refused last.
        self._refused_count = -1
        # Places: of the last frame sent, the one refused last, and the last one whose failure is nothing new.
        self._sent_place = self._refused_place = self._answered_place = 0
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
        # A restart makes all events before it void, so a new sender may begin with the latest.
        is_ahead = isinstance(event, Restart) and number > self._events.next
        if number != self._events.next and not is_ahead:
            raise EventError(f"event {number} instead of {self._events.next}", remedy="deliver events in order")
        if isinstance(event, Restart):
            self._restart(number, event)
            return
        if isinstance(event, Grant):
            self._lane.check(event)
            # Those that ended in a frame outer has not acknowledged are open no more, as far as it may know.
            open_count = len(self._offers) - sum(len(sent.ended) for sent in self._in_flight)
            if open_count >= self._lane.spec.waiting_max + self._lane.spec.slot_count:
                raise EventError("too many open grants", remedy="grant more slowly")
        self._events.append(event)
        if isinstance(event, Grant):
            self._offers[number] = _Offer(event)
        else:
            self._forget(event.stream)

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
            if not 0 <= stream < self._events.next or isinstance(self._events.get(stream), Cancel):
                raise EventError(f"stream {stream} was never granted", remedy="offer tokens of granted streams")
            return False
        size = self._lane.predictor.vocabulary_size
        if not tokens or not all(type(token) is int and 0 <= token < size for token in tokens):
            raise EventError(f"stream {stream}: no tokens, or unknown ones", remedy=f"offer ids below {size}")
        is_other = bool(offer.tokens) and candidate != offer.candidate
        if is_other or not 0 <= candidate < offer.grant.candidate_count:
            raise EventError(f"stream {stream}: candidate {candidate}", remedy="offer one candidate of those granted")
        count, is_complete = len(offer.tokens), offer.is_complete
        try:
            for token in tokens:
                if is_complete:
                    raise EventError(f"stream {stream}: tokens after its end", remedy="stop at the end token")
                offer.tokens.append(token)
                is_complete = self._lane.ending(offer.grant, offer.tokens) is not None
        except BaseException:
            del offer.tokens[count:]
            raise
        offer.candidate, offer.is_complete = candidate, is_complete
        self._begun.add(stream)
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
                break
            self._in_flight.popleft()
            for number in sent.ended:
                self._forget(number)
            if sent.before.frame_count + 1 == message.frame_count and sent.state_after != message.state:
                self._must_reset = True
            if sent.is_predicted:
                self._escape_run = 0
        oldest = self._in_flight[0].before if self._in_flight else lane
        self._events.forget(oldest.consumed_count)

    def refuse(self, message: Refusal) -> None:
        """Outer could not decode a frame: take back it and all after it, and send its tokens again."""
        sent = next((one for one in self._in_flight if one.before.frame_count == message.frame_count), None)
        if message.epoch != self._lane.epoch or not self._is_news(message, sent):
            return
        self._answered_place = self._sent_place
        self.refusal_count += 1
        if self._is_closed or sent is None:
            self._must_reset, self._is_closed = True, False
            return
        while self._in_flight.pop() is not sent:
            pass
        self._lane.restore(sent.before)
        self._escape_run = min(max(1, 2 * self._escape_run), ESCAPE_RUN_MAX)
        self._escapes_due = self._escape_run

    def _is_news(self, message: Refusal, refused: _Sent | None) -> bool:
        """Whether a frame failed that was sent after the last refusal was answered."""
        if message.frame_count < self._refused_count:
            return False
        if message.frame_count > self._refused_count:
            self._refused_count = message.frame_count
            self._refused_place = refused.place if refused else self._sent_place
        return self._refused_place + message.dropped_count > self._answered_place

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
        is_full = len(self._in_flight) >= IN_FLIGHT_MAX and not self._must_reset
        if self._is_closed or is_full:
            return None
        before = self._lane.snapshot()
        counts = (self.escape_count, self._escapes_due, self._sent_place, self._answered_place, self._is_closed)
        try:
            return self._next(steps, before, is_urgent=is_urgent)
        except BaseException:
            self._lane.restore(before)
            self.escape_count, self._escapes_due, self._sent_place, self._answered_place, self._is_closed = counts
            if self._in_flight and self._in_flight[-1].before is before:
                self._in_flight.pop()
            raise

    def _next(self, steps: int, before: LaneSnapshot, *, is_urgent: bool) -> Frame | None:
        if self._escapes_due == 0 and not self._must_reset:
            try:
                return self._fitting(_Choice(self, steps, is_urgent=is_urgent, is_raw=False), before)
            except ExactRangeError:
                # The weak model cannot read this text; outer's could not either.
                self._lane.restore(before)
        if self._must_reset or self.escape_count >= self._escapes_max:
            return self._reset(steps)
        return self._fitting(_Choice(self, steps, is_urgent=is_urgent, is_raw=True), before)

    def _reset(self, steps: int) -> Frame:
        choice = _Choice(self, steps, is_urgent=False, is_raw=True)
        choice.mode = Mode.RESET
        writer = Writer()
        frame = self._framed(writer, self._coded(writer, choice))
        self._sent_place += 1
        # Only the failure of this very frame is news from now on.
        self._answered_place = self._sent_place - 1
        self._is_closed = True
        return frame

    def _fitting(self, choice: "_Choice", before: LaneSnapshot) -> Frame | None:
        """Code as much of what is wanted as fits a frame."""
        if not choice.is_ready() or not choice.has_content():
            return None
        bits_max = self._lane.spec.frame_bits_max
        while True:
            writer = Writer()
            content = self._coded(writer, choice)
            # Far too many bits are not even written: the coder has a limit of its own.
            if sum(writer.ideal_bits.values()) <= 1.5 * bits_max:
                frame = self._framed(writer, content)
                if frame.bits.count <= bits_max:
                    break
            self._lane.restore(before)
            choice.want_less(content)
        self._sent_place += 1
        if content.mode.escapes:
            self.escape_count += 1
            self._escapes_due = max(0, self._escapes_due - 1)
        is_predicted = content.token_count > 0 and not content.mode.escapes
        sent = _Sent(before, self._sent_place, is_predicted, self._lane.state, frozenset(content.ended))
        self._in_flight.append(sent)
        return frame

    def _coded(self, writer: Writer, choice: "_Choice") -> Content:
        events = self._events.since(self._lane.consumed_count)
        return code_frame(self._lane, writer, events, accepts=tuple(Mode), source=choice)

    def _framed(self, writer: Writer, content: Content) -> Frame:
        counts = (content.token_count, content.step_count)
        return Frame(writer.finish(), content.mode, *counts, dict(writer.ideal_bits), dict(writer.symbol_counts))

    def _forget(self, stream: int) -> None:
        """Nobody wants text of this stream any more."""
        self._offers.pop(stream, None)
        self._begun.discard(stream)
        self._dropped.discard(stream)

    def _restart(self, number: int, event: Restart) -> None:
        """Begin an epoch; go on from outer's state if it is one we know, else from nothing."""
        if event.epoch <= self._lane.epoch:
            raise EventError(f"epoch {event.epoch} after {self._lane.epoch}", remedy="deliver events in order")
        known = [(sent.before.is_open, sent.before.state, sent.before.learnt) for sent in self._in_flight]
        known.append((self._lane.is_open, self._lane.state, self._lane.learnt()))
        # Before its first frame a fresh epoch has outer's state, but what we learnt is not what outer did.
        of_outer = (one for was_open, state, one in known if state == event.state and (was_open or not self._is_fresh))
        learnt = next(of_outer, None)
        self._is_fresh = learnt is None
        if learnt is not None:
            self._lane.learn_again(learnt)
        self._events.forget(number + 1)
        self._lane.restart(event.epoch, number + 1)
        self._lane.state = event.state
        self._in_flight.clear()
        self._offers.clear()
        self._begun.clear()
        self._dropped.clear()
        self._begin_epoch()


class _Choice:
    """Implements `frame.Source`: what the sender wants in the next frame."""

    def __init__(self, sender: Sender, steps: int, *, is_urgent: bool, is_raw: bool) -> None:
        self._lane = sender._lane
        self._offers = sender._offers
        self._begun = sender._begun
        self._dropped = sender._dropped
        self._event_count = sender._events.next - self._lane.consumed_count
        self._steps = steps
        # Tokens a stream must have ready, unless its answer is complete.
        self._ready_count = 1 if is_urgent else steps
        # As many drops, and joins, at most. A drop among many takes more than 8 bits.
        self._changes = max(1, self._lane.spec.frame_bits_max // 8)
        self.mode = _MODES[self._lane.is_open, is_raw]
        self.is_fresh = sender._is_fresh

    def is_ready(self) -> bool:
        """Whether no stream that stays in its slot keeps the others waiting."""
        staying = (s for s in self._lane.slots.values() if s.number in self._offers and s.number not in self._dropped)
        return all(self._can_go(stream) for stream in staying)

    def has_content(self) -> bool:
        """Whether a frame would change anything."""
        return bool(self._event_count or self._lane.slots or self.drops() or self.joins())

    def want_less(self, content: Content) -> None:
        """Halve what makes the frame too long: steps, then drops and joins.

        Raises:
            SessionError: there is nothing to halve, which the limits of `LaneSpec` exclude.
        """
        if content.step_count > 1:
            self._steps = content.step_count // 2
        elif min(self._changes, content.change_count) > 1:
            self._changes = min(self._changes, content.change_count) // 2
        else:
            raise SessionError("one step does not fit a frame", remedy="raise frame_bits_max or use fewer slots")

    def event_count(self) -> int:
        """See `Source`: all there are."""
        return self._event_count

    def drops(self) -> list[int]:
        """See `Source`."""
        lane, dropped = self._lane, self._dropped
        in_slots = [lane.slots[slot].number for slot in sorted(lane.slots)]
        numbers = [number for number in in_slots if number in dropped]
        return (numbers + sorted(number for number in dropped if number in lane.waiting))[: self._changes]

    def joins(self) -> list[tuple[int, int]]:
        """See `Source`: in the order of the grants, those that have text."""
        lane = self._lane
        waiting = sorted(number for number in self._begun if number in lane.waiting and number not in self._dropped)
        able = (number for number in waiting if self._can_go(lane.waiting[number]))
        count = min(lane.free_count, self._changes)
        return [(number, self._offers[number].candidate) for number in islice(able, count)]

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
