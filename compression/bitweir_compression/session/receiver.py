"""The outer end of a lane: frames in, tokens out, and what to say when one cannot be decoded. Sans-I/O.

Rules:
1. Text is shown only from frames that decoded whole, whose check holds and which are written as the sender must write
   them. A frame that fails leaves no trace but a refusal to send down.
2. After a refusal frames of the old course are dropped (`StaleFrameError`). With each the refusal is to be sent again,
   with their count, so that a sender whose answer was dropped too learns so. Until an epoch is open, frames that may be
   of the epoch before are dropped without a word.
3. Nothing from the sender is trusted: every number is checked against what is possible before it is used.
4. `answer` may be sent down at any time, and should be while nothing comes: it makes up for lost ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bitweir_compression.coder import Bits, Reader
from bitweir_compression.errors import CompressionError
from bitweir_compression.exact.predictor import Predictor
from bitweir_compression.session.errors import EventError, FrameError, StaleFrameError
from bitweir_compression.session.events import (
    EVENTS_PER_STREAM_MAX,
    Acknowledgement,
    Cancel,
    Event,
    EventLog,
    Grant,
    Refusal,
    Restart,
)
from bitweir_compression.session.frame import Mode, code_frame
from bitweir_compression.session.lane import Ending, Finished, Lane, LaneSpec


@dataclass(frozen=True)
class Decoded:
    """What a good frame brought.

    Attributes:
        mode: its kind. After `RESET` nothing more comes until `restart`.
        joined: stream -> chosen candidate.
        texts: stream -> new tokens.
        ended: stream -> why.
        acknowledgement: to send down.
    """

    mode: Mode
    joined: Mapping[int, int]
    texts: Mapping[int, list[int]]
    ended: Mapping[int, Ending]
    acknowledgement: Acknowledgement


class Receiver:
    """One lane's outer end; see the rules of this file."""

    def __init__(self, predictor: Predictor, spec: LaneSpec, *, finished: Finished | None = None) -> None:
        """Start with nothing granted; see `Sender`."""
        self._lane = Lane(predictor, spec, finished)
        self._events = EventLog()
        self._is_recovering = False
        self._is_reset = False
        # Whether frames of the epoch before may still come: not in the first, nor after a reset, which is the last.
        self._may_be_old = False
        self._failure_count = self._dropped_count = 0
        self._open: set[int] = set()

    @property
    def open_streams(self) -> frozenset[int]:
        """Streams granted and not ended."""
        return frozenset(self._open)

    @property
    def state(self) -> bytes:
        """Hash of the lane after the last good frame, 8 bytes."""
        return self._lane.state

    @property
    def answer(self) -> Acknowledgement | Refusal:
        """What to send down: that all is well so far, or that a frame is to be sent again."""
        lane = self._lane
        return self._refusal() if self._is_recovering else Acknowledgement(lane.epoch, lane.frame_count, lane.state)

    def grant(self, grant: Grant) -> int:
        """Number a grant and return the number, which is the event's and the stream's; send both down.

        Raises:
            EventError: the lane cannot serve it, or too many streams are open.
        """
        self._lane.check(grant)
        if len(self._open) >= self._lane.spec.waiting_max:
            raise EventError(f"{len(self._open)} streams are open", remedy="grant more slowly")
        number = self._events.append(grant)
        self._open.add(number)
        return number

    def cancel(self, stream: int) -> int:
        """Cancel a stream and return the event's number. Text of it may still come until the sender has taken it.

        Raises:
            EventError: the stream is not open, or too many cancels have not taken effect yet.
        """
        if stream not in self._open:
            raise EventError(f"stream {stream} is not open", remedy="cancel a stream that has not ended")
        if self._events.next - self._lane.consumed_count >= EVENTS_PER_STREAM_MAX * self._lane.spec.waiting_max:
            raise EventError("too many events have not taken effect", remedy="cancel a stream once")
        return self._events.append(Cancel(stream))

    def event(self, number: int) -> Event:
        """Return an event issued before, to send it (again).

        A new sender needs those from the last restart on; one that has taken effect is needed by no sender.

        Raises:
            EventError: there is none of this number, or it was forgotten because it took effect.
        """
        event = self._events.get(number)
        if event is None:
            raise EventError(f"event {number} of {self._events.next}", remedy="send events that have not taken effect")
        return event

    def restart(self) -> tuple[int, Restart, list[int]]:
        """Begin an epoch: returns the event's number, the event, and the streams that were lost with the old one."""
        event = Restart(self._lane.epoch + 1, self._lane.state)
        number = self._events.append(event)
        self._events.forget(number)
        self._lane.restart(event.epoch, number + 1)
        lost, self._open = sorted(self._open), set()
        self._may_be_old = not self._is_reset
        self._is_recovering = self._is_reset = False
        self._failure_count = self._dropped_count = 0
        return number, event, lost

    def decode(self, bits: Bits) -> Decoded:
        """Decode the next frame.

        Raises:
            StaleFrameError: a frame of a course that was given up; drop it.
            FrameError: it cannot be decoded.
            Both hold in `refusal` what to send down, if anything.
        """
        if self._is_reset:
            raise StaleFrameError("the sender has given this epoch up", remedy="restart the lane")
        before = self._lane.snapshot()
        reader = Reader(bits)
        try:
            events = self._events.since(self._lane.consumed_count)
            content = code_frame(self._lane, reader, events, accepts=self._accepted())
            reader.finish()
        except CompressionError as error:
            self._lane.restore(before)
            raise self._failure(error) from error
        except BaseException:
            self._lane.restore(before)
            raise
        self._is_recovering = False
        self._is_reset = content.mode is Mode.RESET
        self._open -= content.ended.keys()
        lane = self._lane
        if lane.is_open:
            self._events.forget(lane.consumed_count)
        acknowledgement = Acknowledgement(lane.epoch, lane.frame_count, lane.state)
        return Decoded(content.mode, content.joined, content.texts, content.ended, acknowledgement)

    def _accepted(self) -> tuple[Mode, ...]:
        if not self._lane.is_open:
            own = (Mode.OPENING_ESCAPE, Mode.RESET)
            return own if self._is_recovering else (Mode.OPENING, *own)
        own = (Mode.ESCAPE, Mode.RESET)
        return own if self._is_recovering else (Mode.NORMAL, *own)

    def _failure(self, error: CompressionError) -> FrameError:
        """Return what to raise for a frame that cannot be decoded, and count it."""
        is_stale = isinstance(error, StaleFrameError)
        if is_stale and self._may_be_old and not (self._lane.is_open or self._is_recovering):
            return StaleFrameError(str(error), remedy=error.remedy)
        is_expected = is_stale and self._is_recovering
        self._dropped_count = self._dropped_count + 1 if self._is_recovering else 0
        self._failure_count += not is_expected
        self._is_recovering = True
        kind = StaleFrameError if is_expected else FrameError
        return kind(str(error), remedy=error.remedy, refusal=self._refusal())

    def _refusal(self) -> Refusal:
        return Refusal(self._lane.epoch, self._lane.frame_count, self._failure_count, self._dropped_count)
