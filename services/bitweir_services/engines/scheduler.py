"""Runs requests over an engine: admission, choice, reasoning split, stops, cancellation. Sans-I/O.

Rules:
1. Requests are admitted in the order they were submitted, at step boundaries, whenever a slot is free.
2. Every submitted request gets exactly one FinishEvent, and no event after it.
3. A token is a function of the request and the engine's logits: batch, order and neighbours do not enter.
4. Tokens that never belong in a text (special tokens) are forbidden: in visible text all but the end token, in
   reasoning all but the token that closes it.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bitweir_compression.errors import CompressionError
from bitweir_compression.noise import NoiseStream
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.engines.choosers import KeyedGumbel
from bitweir_services.engines.protocol import Chooser, Engine, Logits, Position
from bitweir_services.engines.requests import (
    STOP_STRING_CHARACTERS_MAX,
    Event,
    Finish,
    FinishEvent,
    GenerationRequest,
    TokenEvent,
)
from bitweir_services.errors import RequestError

# A token is at least a byte and a character at most four, so a stop string ends within so many last tokens.
STOP_TOKENS = 4 * (STOP_STRING_CHARACTERS_MAX + 1)
# Requests waiting for a slot; beyond it the caller is told at once instead of waiting for ever.
QUEUE_REQUESTS_MAX = 100_000


@dataclass(frozen=True)
class Vocabulary:
    """What the scheduler has to know about token ids.

    Attributes:
        end: the token that ends an answer.
        decode: token ids to text.
        special_ids: ids that never belong in a text.
        end_think: the token that closes reasoning; None for a model that does not reason.
    """

    end: int
    decode: Callable[[Sequence[int]], str]
    special_ids: frozenset[int] = frozenset()
    end_think: int | None = None


@dataclass
class _Running:
    """A request in a slot, or waiting for one."""

    number: int
    request: GenerationRequest
    hidden: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    stream: NoiseStream = NoiseStream.VISIBLE
    samplings: dict[NoiseStream, SamplingSpec] = field(default_factory=dict)

    @property
    def token_count(self) -> int:
        return len(self.request.prompt) + len(self.hidden) + len(self.visible)


class Scheduler:
    """Many requests over one engine.

    >>> from bitweir_services.engines.scripted import ScriptedEngine
    >>> engine = ScriptedEngine({(7,): [3, 4, 2]}, vocabulary_size=8, slot_count=2)
    >>> scheduler = Scheduler(engine, Vocabulary(end=2, decode=lambda ids: " ".join(map(str, ids))))
    >>> number = scheduler.submit(GenerationRequest(prompt=(7,), key=bytes(32)))
    >>> [event.finish.value for event in scheduler.run() if hasattr(event, "finish")]
    ['end']
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, chooser: Chooser | None = None) -> None:
        """Start with no requests; the chooser draws with keyed noise unless another is given."""
        self._engine = engine
        self._vocabulary = vocabulary
        self._chooser = chooser or KeyedGumbel()
        self._waiting: deque[_Running] = deque()
        self._slots: dict[int, _Running] = {}
        self._events: list[Event] = []
        self._submitted_count = 0

    @property
    def in_flight_count(self) -> int:
        """Requests whose FinishEvent `step` has not returned yet."""
        pending = sum(isinstance(event, FinishEvent) for event in self._events)
        return len(self._waiting) + len(self._slots) + pending

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request and return its number: dense, in order of submission.

        Raises:
            RequestError: the prompt does not fit the context or the vocabulary, or too many requests are waiting.
        """
        room = self._engine.context_tokens - len(request.prompt)
        if room < 1:
            raise RequestError(
                f"prompt of {len(request.prompt)} tokens; the model's context is {self._engine.context_tokens}",
                remedy="shorten the prompt",
            )
        if not all(0 <= token < self._engine.vocabulary_size for token in request.prompt):
            raise RequestError("the prompt holds unknown token ids", remedy="encode it with the model's own tokenizer")
        if any(token >= self._engine.vocabulary_size for token, _ in request.sampling.logit_bias):
            raise RequestError("logit bias for an unknown token", remedy="bias token ids of the model's vocabulary")
        if len(self._waiting) >= QUEUE_REQUESTS_MAX:
            raise RequestError(f"{QUEUE_REQUESTS_MAX} requests are waiting", remedy="send requests more slowly")
        running = _Running(self._submitted_count, request)
        running.samplings = {stream: self._restricted(request.sampling, stream) for stream in NoiseStream}
        if self._vocabulary.end_think is not None:
            running.stream = NoiseStream.HIDDEN
        self._submitted_count += 1
        self._waiting.append(running)
        return running.number

    def cancel(self, number: int) -> bool:
        """End a request now; its FinishEvent comes with the next step. Returns False when it had ended already."""
        for running in self._waiting:
            if running.number == number:
                self._waiting.remove(running)
                self._finish(running, Finish.CANCELLED)
                return True
        for slot, running in self._slots.items():
            if running.number == number:
                self._release(slot, Finish.CANCELLED)
                return True
        return False

    def step(self) -> list[Event]:
        """Admit what fits, give every running request one token, and return what happened since the last step."""
        self._admit()
        if self._slots:
            slots = sorted(self._slots)
            logits = self._engine.step(slots)
            chosen = self._choose(slots, logits)
            tokens = {slot: self._forced(self._slots[slot], token) for slot, token in chosen.items()}
            self._engine.commit({slot: token for slot, (token, _) in tokens.items()})
            for slot, (token, forced) in tokens.items():
                self._extend(slot, token, forced=forced)
        events, self._events = self._events, []
        return events

    def run(self) -> list[Event]:
        """Step until nothing is in flight and return all events."""
        events = self.step()
        while self.in_flight_count:
            events += self.step()
        return events

    def _admit(self) -> None:
        free = [slot for slot in range(self._engine.slot_count) if slot not in self._slots]
        for slot in free[: len(self._waiting)]:
            running = self._waiting.popleft()
            self._engine.admit(slot, running.request.prompt)
            self._slots[slot] = running

    def _choose(self, slots: Sequence[int], logits: Logits) -> dict[int, int]:
        """Return a token a slot; a row nobody can choose from ends its own request and no other."""
        positions = [self._position(self._slots[slot]) for slot in slots]
        try:
            return dict(zip(slots, self._chooser.choose(logits, positions), strict=True))
        except CompressionError:
            chosen: dict[int, int] = {}
        for row, slot in enumerate(slots):
            try:
                chosen[slot] = self._chooser.choose(logits[row : row + 1], positions[row : row + 1])[0]
            except CompressionError as error:
                self._release(slot, Finish.FAILED, str(error))
        return chosen

    def _position(self, running: _Running) -> Position:
        index = len(running.hidden) if running.stream is NoiseStream.HIDDEN else len(running.visible)
        request = running.request
        return Position(request.key, request.candidate, running.stream, index, running.samplings[running.stream])

    def _forced(self, running: _Running, token: int) -> tuple[int, bool]:
        """Return the token to commit: the chosen one, or the end of reasoning once its limit is reached."""
        end_think = self._vocabulary.end_think
        if running.stream is NoiseStream.HIDDEN and end_think is not None:
            # One place of the context is kept for the first visible token.
            at_limit = len(running.hidden) >= running.request.hidden_tokens_max
            if at_limit or running.token_count + 2 >= self._engine.context_tokens:
                return end_think, token != end_think
        return token, False

    def _extend(self, slot: int, token: int, *, forced: bool) -> None:
        running = self._slots[slot]
        self._events.append(TokenEvent(running.number, token, running.stream, forced))
        if running.stream is NoiseStream.HIDDEN:
            running.hidden.append(token)
            if token == self._vocabulary.end_think:
                running.stream = NoiseStream.VISIBLE
        else:
            running.visible.append(token)
        if finish := self._reached(running, token):
            self._release(slot, finish)

    def _reached(self, running: _Running, token: int) -> Finish | None:
        is_full = running.token_count >= self._engine.context_tokens
        if running.stream is NoiseStream.HIDDEN or not running.visible:
            return Finish.LENGTH if is_full else None
        if token == self._vocabulary.end:
            return Finish.END
        recent = running.visible[-STOP_TOKENS:] if running.request.stop else []
        if _stop_index(self._text(recent), running.request.stop) is not None:
            return Finish.STOP
        if is_full or len(running.visible) >= running.request.visible_tokens_max:
            return Finish.LENGTH
        return None

    def _release(self, slot: int, finish: Finish, error: str = "") -> None:
        self._engine.release(slot)
        self._finish(self._slots.pop(slot), finish, error)

    def _finish(self, running: _Running, finish: Finish, error: str = "") -> None:
        text = self._text(running.visible)
        text = text[: _stop_index(text, running.request.stop)]
        hidden, visible = tuple(running.hidden), tuple(running.visible)
        self._events.append(FinishEvent(running.number, finish, hidden, visible, text, error))

    def _text(self, visible: Sequence[int]) -> str:
        return self._vocabulary.decode([token for token in visible if token != self._vocabulary.end])

    def _restricted(self, spec: SamplingSpec, stream: NoiseStream) -> SamplingSpec:
        """Add rule 4 to what the caller asked for; a caller's bias cannot lift it."""
        allowed = self._vocabulary.end_think if stream is NoiseStream.HIDDEN else self._vocabulary.end
        forbidden = self._vocabulary.special_ids - {allowed}
        return dataclasses.replace(spec, forbidden=tuple(sorted({*spec.forbidden, *forbidden})))


def _stop_index(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first stop string begins, or None."""
    found = [index for s in stop if (index := text.find(s)) >= 0]
    return min(found, default=None)
