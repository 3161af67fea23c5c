"""An engine that follows a script: deterministic, instant, no model. A product: demos, tests and load runs use it.

Rules:
1. After a prompt it writes the scripted tokens in order, then token `end` for ever.
2. An unscripted prompt gets a text that is a function of the prompt alone (BLAKE2b), without special ids, so any prompt
   works.
3. At `sharpness` nats above the rest, the scripted token wins against noise except about V * exp(-sharpness) of the
   time; `inf` makes the rest impossible.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitweir_services.engines.protocol import Logits
from bitweir_services.engines.slots import SlotTable

# Length of the text an unscripted prompt gets.
UNSCRIPTED_TOKENS = 16


@dataclass
class _Text:
    scripted: Sequence[int]
    written_count: int = 0


class ScriptedEngine:
    """Implements `protocol.Engine` from a mapping of prompts to continuations."""

    def __init__(
        self,
        scripts: Mapping[tuple[int, ...], Sequence[int]],
        *,
        vocabulary_size: int,
        slot_count: int = 128,
        context_tokens: int = 4096,
        end: int = 2,
        special_ids: frozenset[int] = frozenset(),
        sharpness: float = math.inf,
    ) -> None:
        """Take the scripts; see the rules of this file for the rest."""
        self.vocabulary_size = vocabulary_size
        self.context_tokens = context_tokens
        self.slot_count = slot_count
        self._scripts = {tuple(prompt): tuple(text) for prompt, text in scripts.items()}
        self._end = end
        self._special_ids = special_ids | {end}
        self._sharpness = sharpness
        self._slots: SlotTable[_Text] = SlotTable(slot_count, context_tokens, vocabulary_size)

    def admit(self, slot: int, prompt: Sequence[int]) -> None:
        """See `protocol.Engine`."""
        script = self._scripts.get(tuple(prompt))
        self._slots.admit(slot, prompt, _Text(self._improvise(prompt) if script is None else script))

    def step(self, slots: Sequence[int]) -> Logits:
        """See `protocol.Engine`."""
        texts = self._slots.step(slots)
        rest = -math.inf if math.isinf(self._sharpness) else -self._sharpness
        logits = np.full((len(texts), self.vocabulary_size), rest, dtype=np.float32)
        for row, text in enumerate(texts):
            token = text.scripted[text.written_count] if text.written_count < len(text.scripted) else self._end
            logits[row, token] = 0.0
        return logits

    def commit(self, tokens: Mapping[int, int]) -> None:
        """See `protocol.Engine`."""
        for text in self._slots.commit(tokens):
            text.written_count += 1

    def release(self, slot: int) -> None:
        """See `protocol.Engine`."""
        self._slots.release(slot)

    def _improvise(self, prompt: Sequence[int]) -> tuple[int, ...]:
        seed = hashlib.blake2b(repr(tuple(prompt)).encode(), digest_size=2 * UNSCRIPTED_TOKENS).digest()
        tokens = (
            int.from_bytes(seed[i : i + 2], "little") % self.vocabulary_size for i in range(0, 2 * UNSCRIPTED_TOKENS, 2)
        )
        return (*(token for token in tokens if token not in self._special_ids), self._end)
