"""The inner end of a lane: the strong model's engine, the weak model's encoder, and what outer asked for. Sans-I/O.

Rules:
1. Events take effect in the order of their numbers; what comes early waits, what comes twice is dropped.
2. Only visible tokens are offered to the session. Hidden reasoning goes no further than this file.
3. An answer that ends for a reason that outer cannot see for itself (a full context, a failed engine) is dropped from
   the session, which says so in a frame.
"""

from collections.abc import Sequence
from typing import Final

from bitweir_compression.coder import Bits
from bitweir_compression.noise import NoiseStream
from bitweir_compression.session.errors import EventError
from bitweir_compression.session.events import Acknowledgement, Cancel, Refusal, Restart
from bitweir_compression.session.sender import Sender
from bitweir_services.engines.requests import Finish, FinishEvent, TokenEvent
from bitweir_services.engines.scheduler import Scheduler
from bitweir_services.errors import MessageError, RequestError
from bitweir_services.messages import Ask, Message, Numbered

# Events that came before their turn; outer says them again.
EARLY_MAX: Final = 4096
# Endings that follow from the tokens and the grant alone.
_SEEN_OUTSIDE: Final = frozenset({Finish.END, Finish.STOP})


class InnerLane:
    """See the rules of this file.

    Args:
        scheduler: of the strong model; this lane's alone.
        sender: of the session, made with `stops.stop_rule`, as outer's receiver.
        steps_per_frame: tokens of each stream a frame waits for.
    """

    def __init__(self, scheduler: Scheduler, sender: Sender, *, steps_per_frame: int) -> None:
        self._scheduler = scheduler
        self._sender = sender
        self._steps = steps_per_frame
        self._early: dict[int, Ask | Cancel | Restart] = {}
        self._next = 0
        self._streams: dict[int, int] = {}
        """Request of the scheduler -> stream."""
        self._requests: dict[int, int] = {}
        """Stream -> request of the scheduler."""
        self._tokens_left: dict[int, int] = {}

    @property
    def in_flight_count(self) -> int:
        """Requests that the engine works on."""
        return self._scheduler.in_flight_count

    def receive(self, message: Message) -> None:
        """Take a message of outer.

        Raises:
            MessageError: an event that does not fit this lane; outer must not have sent it.
        """
        if isinstance(message, Acknowledgement):
            self._sender.acknowledge(message)
        elif isinstance(message, Refusal):
            self._sender.refuse(message)
        else:
            self._take(message)

    def step(self) -> None:
        """Let the engine write one token for each request, and offer what is visible."""
        for event in self._scheduler.step():
            stream = self._streams.get(event.request)
            if stream is None:
                continue
            if isinstance(event, TokenEvent) and event.stream is NoiseStream.VISIBLE:
                if self._sender.offer(stream, [event.token]):
                    self._tokens_left[stream] -= 1
                else:
                    self._scheduler.cancel(event.request)
            elif isinstance(event, FinishEvent):
                if event.finish not in _SEEN_OUTSIDE and self._tokens_left[stream]:
                    self._sender.drop(stream)
                self._forget(stream)

    def frames(self, *, is_urgent: bool = False) -> list[Bits]:
        """Return the payloads that are ready to go up; with `is_urgent` also what is less than a frame's worth."""
        out: list[Bits] = []
        while (frame := self._sender.frame(self._steps, is_urgent=is_urgent)) is not None:
            out.append(frame.bits)
        return out

    def _take(self, message: Numbered) -> None:
        # A restart makes all events before it void.
        if isinstance(message.event, Restart) and message.number > self._next:
            self._early = {number: event for number, event in self._early.items() if number > message.number}
            self._next = message.number
        if message.number < self._next or len(self._early) >= EARLY_MAX:
            return
        self._early[message.number] = message.event
        while self._next in self._early:
            number, self._next = self._next, self._next + 1
            self._obey(number, self._early.pop(number))

    def _obey(self, number: int, event: Ask | Cancel | Restart) -> None:
        try:
            if isinstance(event, Ask):
                self._sender.receive(number, event.grant)
                self._begin(number, event)
                return
            self._sender.receive(number, event)
        except EventError as error:
            raise MessageError(f"event {number}: {error}", remedy=error.remedy) from error
        if isinstance(event, Cancel):
            self._cancel([event.stream])
        else:
            self._cancel(list(self._requests))

    def _begin(self, stream: int, ask: Ask) -> None:
        try:
            request = self._scheduler.submit(ask.request)
        except RequestError:
            # Outer checks prompts with the same tokenizer; one that does not fit all the same ends here, and says so.
            self._sender.drop(stream)
            return
        self._streams[request], self._requests[stream] = stream, request
        self._tokens_left[stream] = ask.grant.tokens_max

    def _cancel(self, streams: Sequence[int]) -> None:
        for stream in streams:
            request = self._requests.get(stream)
            if request is not None:
                self._scheduler.cancel(request)
                self._forget(stream)

    def _forget(self, stream: int) -> None:
        request = self._requests.pop(stream)
        del self._streams[request], self._tokens_left[stream]
