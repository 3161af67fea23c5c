"""How the tokens of one step are coded, given the weak model's frequencies. One object per codec, lane and end.

    arithmetic   under the frequencies as they are: H(P) + KL(P||W) bits a token
    gumbel       given the shared noise as well: what W does not know of P, and no more randomness
    greedy       as gumbel, without noise, for temperature 0

A codec sees all rows of a step that are its own, so that one which codes a step as a whole fits here too. A row's
frequencies do not depend on the other rows' tokens of the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bitweir_compression import noise
from bitweir_compression.coder import SymbolCoder
from bitweir_compression.exact.predictor import Frequencies
from bitweir_compression.noise import NoiseStream
from bitweir_compression.posterior import Posterior, Snapshot, guesses
from bitweir_compression.session.events import CodecName


@dataclass(frozen=True)
class Place:
    """Where in which stream a token stands: what its noise is derived from."""

    key: bytes
    candidate: int
    index: int

    def noise_key(self) -> noise.PositionKey:
        """Return the key of this place's noise."""
        return noise.position_key(self.key, self.candidate, NoiseStream.VISIBLE, self.index)


class Codec(Protocol):
    """Codes tokens in either direction, and learns the same at both ends."""

    def code(
        self, coder: SymbolCoder, frequencies: Frequencies, places: Sequence[Place], tokens: Sequence[int | None]
    ) -> list[int]:
        """Code one token a row.

        Args:
            coder: writes or reads.
            frequencies: int64 [n, V], from a Predictor.
            places: n places.
            tokens: n tokens to write, or n times None to read.

        Raises:
            CoderError: a token is not of the vocabulary, or no encoder makes the message.
        """

    def snapshot(self) -> Snapshot:
        """Return what was learnt."""

    def restore(self, state: Snapshot) -> None:
        """Go back to what `snapshot` returned."""


class Arithmetic:
    """Implements `Codec` without noise and without learning: the baseline."""

    def code(
        self, coder: SymbolCoder, frequencies: Frequencies, places: Sequence[Place], tokens: Sequence[int | None]
    ) -> list[int]:
        """See `Codec`."""
        coder.part = "tokens"
        return [coder.symbol(row, value) for row, value in zip(frequencies, tokens, strict=True)]

    def snapshot(self) -> Snapshot:
        """See `Codec`."""
        return Snapshot(b"", b"")

    def restore(self, state: Snapshot) -> None:
        """See `Codec`."""


class NoisePosterior:
    """Implements `Codec` by posterior.py, with the shared noise or, for temperature 0, without."""

    def __init__(self, *, is_greedy: bool) -> None:
        """Start knowing nothing."""
        self._is_greedy = is_greedy
        self._posterior = Posterior()

    def code(
        self, coder: SymbolCoder, frequencies: Frequencies, places: Sequence[Place], tokens: Sequence[int | None]
    ) -> list[int]:
        """See `Codec`."""
        keys = [place.noise_key() for place in places]
        words = None if self._is_greedy else noise.word_rows(keys, frequencies.shape[1])
        expected = guesses(frequencies, words)
        return [self._posterior.code(coder, guess, value) for guess, value in zip(expected, tokens, strict=True)]

    def snapshot(self) -> Snapshot:
        """See `Codec`."""
        return self._posterior.snapshot()

    def restore(self, state: Snapshot) -> None:
        """See `Codec`."""
        self._posterior.restore(state)


def new_codecs() -> dict[CodecName, Codec]:
    """Return one of each, in the order they are coded within a step."""
    return {
        CodecName.ARITHMETIC: Arithmetic(),
        CodecName.GUMBEL: NoisePosterior(is_greedy=False),
        CodecName.GREEDY: NoisePosterior(is_greedy=True),
    }
