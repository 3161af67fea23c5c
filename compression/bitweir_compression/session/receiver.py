"""The outer end of a lane: frames in, tokens out, and what to say when one cannot be decoded. Sans-I/O.

Rules:
1. Text is shown only from frames that decoded whole, whose check holds and which are written as the sender must write
   them. A frame that fails leaves no trace but a refusal to send down.
2. After a refusal, and until an epoch is open, frames of the old course are dropped in silence (`StaleFrameError`).
3. Nothing from the sender is trusted: every number is checked against what is possible before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bitweir_compression.coder import Bits, Reader
from bitweir_compression.errors import CompressionError
from bitweir_compression.exact.predictor import Predictor
from bitweir_compression.session.errors import EventError, FrameError, StaleFrameError
from bitweir_compression.session.events import Acknowledgement, Cancel, Event, Grant, Refusal, Restart
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
        self._events: list[Event] = []
        self._is_recovering = False
        self._is_reset = False
        self._failure_count = 0
        self._open: set[int] = set()

    @property
    def open_streams(self) -> frozenset[int]:
        """Streams granted and not ended."""
        return frozenset(self._open)

    @property
    def state(self) -> bytes:
        """Hash of the lane after the last good frame, 8 bytes."""
        return self._lane.state

    def grant(self, grant: Grant) -> int:
        """Number a grant and return the number, which is the event's and the stream's; send both down.

        Raises:
            EventError: the lane cannot serve it, or too many streams are open.
        """
        self._lane.check(grant)
        if len(self._open) >= self._lane.spec.waiting_max:
            raise EventError(f"{len(self._open)} streams are open", remedy="grant more slowly")
        number = self._issue(grant)
        self._open.add(number)
        return number

    def cancel(self, stream: int) -> int:
        """Cancel a stream and return the event's number. Text of it may still come until the sender has taken it.

        Raises:
            EventError: the stream is not open.
        """
        if stream not in self._open:
            raise EventError(f"stream {stream} is not open", remedy="cancel a stream that has not ended")
        return self._issue(Cancel(stream))

    def event(self, number: int) -> Event:
        """Return an event issued before, to send it (again)."""
        return self._events[number]

    def restart(self) -> tuple[int, Restart, list[int]]:
        """Begin an epoch: returns the event's number, the event, and the streams that were lost with the old one."""
        number = self._issue(Restart(self._lane.epoch + 1, self._lane.state))
        event = self._events[number]
        self._lane.restart(self._lane.epoch + 1, len(self._events))
        lost, self._open = sorted(self._open), set()
        self._is_recovering = self._is_reset = False
        self._failure_count = 0
        if not isinstance(event, Restart):
            raise EventError("the event issued is no restart", remedy="report this as a defect")
        return number, event, lost

    def decode(self, bits: Bits) -> Decoded:
        """Decode the next frame.

        Raises:
            StaleFrameError: a frame of a course that was given up; drop it.
            FrameError: it cannot be decoded; `refusal` is what to send down.
        """
        if self._is_reset:
            raise StaleFrameError("the sender has given this epoch up", remedy="restart the lane")
        before = self._lane.snapshot()
        reader = Reader(bits)
        try:
            events = self._events[self._lane.consumed_count :]
            content = code_frame(self._lane, reader, events, accepts=self._accepted())
            reader.finish()
        except CompressionError as error:
            self._lane.restore(before)
            if isinstance(error, StaleFrameError) and (self._is_recovering or not before.is_open):
                raise
            raise FrameError(str(error), remedy=error.remedy, refusal=self._refuse()) from error
        except BaseException:
            self._lane.restore(before)
            raise
        self._is_recovering = False
        self._is_reset = content.mode is Mode.RESET
        self._open -= content.ended.keys()
        lane = self._lane
        acknowledgement = Acknowledgement(lane.epoch, lane.frame_count, lane.state)
        return Decoded(content.mode, content.joined, content.texts, content.ended, acknowledgement)

    def _accepted(self) -> tuple[Mode, ...]:
        if not self._lane.is_open:
            return (Mode.OPENING_ESCAPE,) if self._is_recovering else (Mode.OPENING, Mode.OPENING_ESCAPE, Mode.RESET)
        return (Mode.ESCAPE, Mode.RESET) if self._is_recovering else (Mode.NORMAL, Mode.ESCAPE, Mode.RESET)

    def _refuse(self) -> Refusal:
        self._is_recovering = True
        self._failure_count += 1
        return Refusal(self._lane.epoch, self._lane.frame_count, self._failure_count)

    def _issue(self, event: Event) -> int:
        self._events.append(event)
        return len(self._events) - 1
