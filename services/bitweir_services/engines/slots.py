"""The bookkeeping every engine needs: which slots are taken, which may be stepped, and what misuse looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bitweir_services.errors import EngineError

State = TypeVar("State")


@dataclass
class _Slot(Generic[State]):
    state: State
    token_count: int
    is_stepped: bool = False


class SlotTable(Generic[State]):
    """Admitted slots with an engine's own state for each; enforces the order of calls of `protocol.Engine`."""

    def __init__(self, slot_count: int, context_tokens: int, vocabulary_size: int) -> None:
        """Start with all slots free."""
        if slot_count < 1:
            raise EngineError(f"{slot_count} slots", remedy="ask for at least one")
        self._slots: dict[int, _Slot[State]] = {}
        self._slot_count = slot_count
        self._context_tokens = context_tokens
        self._vocabulary_size = vocabulary_size

    def admit(self, slot: int, prompt: Sequence[int], state: State) -> None:
        """Take a free slot."""
        if slot in self._slots or not 0 <= slot < self._slot_count:
            raise EngineError(f"slot {slot} is taken or not one of {self._slot_count}", remedy="release it first")
        if not 0 < len(prompt) <= self._context_tokens:
            raise EngineError(
                f"prompt of {len(prompt)} tokens; the context is {self._context_tokens}", remedy="shorten the prompt"
            )
        self._check_tokens(prompt)
        self._slots[slot] = _Slot(state, len(prompt))

    def step(self, slots: Sequence[int]) -> list[State]:
        """Mark slots as stepped and return their states in order."""
        if len(set(slots)) != len(slots):
            raise EngineError(f"slots {list(slots)} repeat", remedy="step each slot once")
        taken = [self._taken(slot) for slot in slots]
        for slot, entry in zip(slots, taken, strict=True):
            if entry.is_stepped:
                raise EngineError(f"slot {slot} was stepped twice", remedy="commit a token in between")
            if entry.token_count >= self._context_tokens:
                raise EngineError(f"slot {slot} is full", remedy="release it")
        for entry in taken:
            entry.is_stepped = True
        return [entry.state for entry in taken]

    def commit(self, tokens: Mapping[int, int]) -> list[State]:
        """Count one token for each slot named and return their states in the mapping's order."""
        self._check_tokens(list(tokens.values()))
        taken = [self._taken(slot) for slot in tokens]
        for slot, entry in zip(tokens, taken, strict=True):
            if not entry.is_stepped:
                raise EngineError(f"slot {slot} was not stepped", remedy="step before committing")
        for entry in taken:
            entry.is_stepped = False
            entry.token_count += 1
        return [entry.state for entry in taken]

    def release(self, slot: int) -> State:
        """Free a slot and return its state."""
        state = self._taken(slot).state
        del self._slots[slot]
        return state

    def _taken(self, slot: int) -> _Slot[State]:
        try:
            return self._slots[slot]
        except KeyError:
            raise EngineError(f"slot {slot} is free", remedy="admit a prompt first") from None

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self._vocabulary_size:
                raise EngineError(f"token {token} is not of the vocabulary", remedy="use the model's own tokenizer")
