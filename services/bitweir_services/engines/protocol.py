"""What an engine is and what a chooser is. Nothing else in the project may assume more about either.

Rules:
1. A slot is a small integer the caller picks. `admit` gives it a prompt, `release` frees it; in between, `step` reads
   it and `commit` extends it.
2. `step(slots)` returns the logits that follow everything admitted and committed so far; it changes nothing the
   caller can see, and every stepped slot must be committed before it is stepped again.
3. Tokens come from a chooser or from anywhere else: a verifier commits the tokens it was given.
4. Admission and release happen between a commit and the next step, so a batch changes only at step boundaries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bitweir_compression.noise import NoiseStream
from bitweir_compression.sampling import SamplingSpec

# Float logits, [n, V]: rows in the order of the slots asked for, nats.
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """A model that holds several sequences at once."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids; logits have this many columns."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence, prompt included."""

    @property
    def slot_count(self) -> int:
        """How many sequences fit at once; slots are 0..slot_count-1."""

    def admit(self, slot: int, prompt: Sequence[int]) -> None:
        """Put a prompt of at least one token into a free slot.

        Raises:
            EngineError: the slot is taken or out of range, or the prompt is empty, too long or not of the vocabulary.
        """

    def step(self, slots: Sequence[int]) -> Logits:
        """Return the next-token logits of some admitted slots: float32 [len(slots), V].

        Raises:
            EngineError: a slot is free, repeated, full, or was stepped without a commit.
        """

    def commit(self, tokens: Mapping[int, int]) -> None:
        """Append one token to each slot named.

        Raises:
            EngineError: a slot was not stepped, or a token is not of the vocabulary.
        """

    def release(self, slot: int) -> None:
        """Forget a slot's sequence and free it.

        Raises:
            EngineError: the slot is free already.
        """


@dataclass(frozen=True)
class Position:
    """Where in which request a token is about to be chosen.

    Attributes:
        key: the request's 32-byte noise key.
        candidate: which candidate of best-of-N.
        stream: hidden reasoning or visible text.
        index: position within the stream, from 0.
        sampling: how to draw, forbidden tokens included.
    """

    key: bytes
    candidate: int
    stream: NoiseStream
    index: int
    sampling: SamplingSpec


class Chooser(Protocol):
    """Turns logits into tokens."""

    def choose(self, logits: Logits, positions: Sequence[Position]) -> list[int]:
        """Return one token a row.

        Args:
            logits: float32 [n, V].
            positions: n positions, in the order of the rows.
        """
