"""The outer end of a lane: requests down, frames in, tokens out, and nobody forgotten. Sans-I/O, times as arguments.

Rules:
1. Every stream ends with exactly one `Ended`, whatever is lost: if the lane cannot go on, with `Ending.LOST`.
2. Events that inner has not taken yet, and the newest answer to its frames, are said again every `repeat_ns`.
3. A frame that cannot be decoded shows nothing; the refusal asks for it again. After a reset, a gap that stays, a
   refusal that nobody answers, or silence while streams are open, the lane begins a new epoch.
"""

from dataclasses import dataclass
from typing import Final

from bitweir_compression.coder import Bits
from bitweir_compression.session.errors import EventError, FrameError
from bitweir_compression.session.events import Acknowledgement, Cancel, Grant, Refusal
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import Ending
from bitweir_compression.session.receiver import Receiver
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.errors import RequestError
from bitweir_services.messages import Ask, Message, Numbered

NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True)
class Tokens:
    """A stream got tokens."""

    stream: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Ended:
    """A stream ended; nothing of it follows."""

    stream: int
    ending: Ending


@dataclass
class _Issued:
    message: Numbered
    said_ns: int


class OuterLane:
    """See the rules of this file.

    Args:
        receiver: of the session, made with `stops.stop_rule`, as inner's sender.
        repeat_ns: after which an event that was not taken is said again.
        patience_ns: how long a refusal may go without an answer before the lane restarts.
        silence_ns: how long nothing may come while streams are open; long enough for the longest hidden reasoning.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        repeat_ns: int = NS_PER_S // 2,
        patience_ns: int = 10 * NS_PER_S,
        silence_ns: int = 120 * NS_PER_S,
    ) -> None:
        self._receiver = receiver
        self._repeat_ns = repeat_ns
        self._patience_ns = patience_ns
        self._silence_ns = silence_ns
        self._silent_since_ns: int | None = None
        self._issued: dict[int, _Issued] = {}
        self._open: set[int] = set()
        self._new: list[Numbered] = []
        self._answer: Acknowledgement | Refusal | None = None
        self._answered_ns = 0
        self._refused_since_ns: int | None = None
        self.failure_count = 0
        """Frames that could not be decoded."""
        self.restart_count = 0
        """Epochs after the first."""

    @property
    def open_count(self) -> int:
        """Streams that have not ended."""
        return len(self._open)

    def submit(self, grant: Grant, request: GenerationRequest) -> int:
        """Ask for an answer; return the number of its stream. `messages` returns what has to be sent for it.

        Raises:
            RequestError: the lane cannot serve it, or too many streams are open.
        """
        of_grant = (grant.key, grant.tokens_max, grant.stop)
        if of_grant != (request.key, request.visible_tokens_max, request.stop):
            raise RequestError("grant and request are of two streams", remedy="give both one key, limit and stop")
        try:
            number = self._receiver.grant(grant)
        except EventError as error:
            raise RequestError(str(error), remedy=error.remedy) from error
        self._open.add(number)
        self._new.append(Numbered(number, Ask(grant, request)))
        return number

    def cancel(self, stream: int) -> bool:
        """Give a stream up; False where it has ended, or was given up before.

        Tokens of it may still come, and its `Ended`, until inner has taken the cancel.
        """
        if stream not in self._open or any(
            isinstance(one.message.event, Cancel) and one.message.event.stream == stream
            for one in self._issued.values()
        ):
            return False
        try:
            number = self._receiver.cancel(stream)
        except EventError:
            return False
        self._new.append(Numbered(number, Cancel(stream)))
        return True

    def take(self, bits: Bits, now_ns: int) -> list[Tokens | Ended]:
        """Decode the payload of the next frame of this lane."""
        try:
            decoded = self._receiver.decode(bits)
        except FrameError as error:
            self.failure_count += 1
            if error.refusal is not None:
                self._say(error.refusal)
                self._refused_since_ns = now_ns if self._refused_since_ns is None else self._refused_since_ns
            return []
        self._refused_since_ns = self._silent_since_ns = None
        self._say(decoded.acknowledgement)
        self._forget_taken()
        events: list[Tokens | Ended] = [Tokens(stream, tuple(tokens)) for stream, tokens in decoded.texts.items()]
        events += [self._ended(stream, ending) for stream, ending in decoded.ended.items()]
        return [*events, *self.restart()] if decoded.mode is Mode.RESET else events

    def restart(self) -> list[Tokens | Ended]:
        """Begin a new epoch; every open stream is lost."""
        number, event, lost = self._receiver.restart()
        self.restart_count += 1
        self._issued.clear()
        self._new = [Numbered(number, event)]
        self._answer = self._refused_since_ns = self._silent_since_ns = None
        return [self._ended(stream, Ending.LOST) for stream in lost]

    def check(self, now_ns: int) -> list[Tokens | Ended]:
        """Restart where an answer of inner has been missing for too long; call it now and then."""
        if not self._open:
            self._silent_since_ns = None
        elif self._silent_since_ns is None:
            self._silent_since_ns = now_ns
        waits = ((self._refused_since_ns, self._patience_ns), (self._silent_since_ns, self._silence_ns))
        is_late = any(since_ns is not None and now_ns - since_ns >= limit_ns for since_ns, limit_ns in waits)
        return self.restart() if is_late else []

    def messages(self, now_ns: int) -> list[Message]:
        """Return what has to be sent down now: what is new, and what has to be said again."""
        out: list[Message] = []
        for issued in self._issued.values():
            if now_ns - issued.said_ns >= self._repeat_ns:
                issued.said_ns = now_ns
                out.append(issued.message)
        for message in self._new:
            self._issued[message.number] = _Issued(message, now_ns)
            out.append(message)
        self._new.clear()
        if self._answer is not None and now_ns >= self._answered_ns:
            out.append(self._answer)
            self._answered_ns = now_ns + self._repeat_ns
        return out

    def _say(self, answer: Acknowledgement | Refusal) -> None:
        self._answer, self._answered_ns = answer, 0

    def _forget_taken(self) -> None:
        """Forget events that have taken effect: no sender needs them."""
        for number in [number for number in self._issued if self._is_taken(number)]:
            del self._issued[number]

    def _is_taken(self, number: int) -> bool:
        try:
            self._receiver.event(number)
        except EventError:
            return True
        return False

    def _ended(self, stream: int, ending: Ending) -> Ended:
        self._open.remove(stream)
        return Ended(stream, ending)
