"""P(token | weak frequencies, shared noise): what a receiver who knows the noise still has to be told.

The strong side drew argmax(log2 P + g). The receiver has W and the same g, so its best guess is the token with the
highest log2 W + g, and the cost comes from where P and W disagree, not from the entropy of P.

Rules:
1. Integers only: scores are log2 of integer frequencies by the table of noise.py plus the noise, in units of 2**-24
   bits; weights, counts and mixtures are int64. Equal inputs give equal states at both ends, on any machine.
2. A token costs a flag "it is the guess", and on a miss its place among the rest, under a mixture of softmax(score /
   tau).
3. What is learnt is a function of what was coded: flag counts by context (how far the runner-up is behind, how sure
   the weak model is), and the weights of the taus by how far it is behind. `snapshot` copies the state, `restore`
   puts a copy back.
4. Without noise (temperature 0) the same code runs on log2 W alone, with a state of its own.

The sampler is the Poisson functional representation (Li and El Gamal, IEEE Trans. Inf. Theory 64(11), 2018), of which
Gumbel-max is the finite case.
"""

import functools
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

from bitweir_compression import noise
from bitweir_compression.coder import SymbolDecoder, SymbolEncoder, Weights
from bitweir_compression.errors import CoderError

_BIT = 1 << noise.FRACTION_BITS
# Borders of the runner-up's distance, and of -log2 of the weak model's top probability, in 64ths of a bit.
GAP_BORDERS = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SURPRISE_BORDERS = (1, 4, 12, 32, 64, 112, 192)
# Temperatures of the escape in sixteenths: how sharp the rest is differs between models and contexts.
TAU_SIXTEENTHS = (4, 7, 11, 16, 24)
# Escape weights: 24-bit integers on a grid of 1/64 bit, at least 1.
GRID_BITS = 6
WEIGHT_BITS = 24
# Each tau's distribution is scaled to this total before they are mixed.
SHARE_BITS = 30
# Mixture weights of a context add up to about this; none falls below the floor, so none is ever out of the race.
MIXTURE_TOTAL = 1 << 16
MIXTURE_FLOOR = 1 << 8
# A context's flag counts are halved here: what was learnt long ago counts less.
COUNT_LIMIT = 1 << 11

Frequencies = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Guess:
    """What the receiver expects before it is told anything.

    Attributes:
        token: argmax of the scores, lowest id on a tie.
        scores: int64 [V], log2 W plus noise in units of 2**-24 bits.
        gap: context of the runner-up's distance, 0 to len(GAP_BORDERS).
        surprise: context of -log2 of the weak model's top probability, 0 to len(SURPRISE_BORDERS).
    """

    token: int
    scores: noise.Scores
    gap: int
    surprise: int


@dataclass(frozen=True)
class Snapshot:
    """A copy of a posterior's state, to go back to."""

    flags: bytes
    mixtures: bytes


def guess(frequencies: Frequencies, words: noise.Words | None) -> Guess:
    """Return the receiver's expectation.

    Args:
        frequencies: int64 [V], V >= 2, each 1 to 2**24: the weak model at the served temperature.
        words: uint64 [V], the position's noise; None at temperature 0.

    Raises:
        CoderError: shapes or ranges are off.
    """
    if frequencies.ndim != 1 or frequencies.dtype != np.int64 or len(frequencies) < 2:
        raise CoderError(f"frequencies of shape {frequencies.shape}", remedy="use int64 [V] with V >= 2")
    highest = int(frequencies.max())
    if int(frequencies.min()) < 1 or highest > 1 << WEIGHT_BITS:
        raise CoderError("a frequency is not in 1..2**24", remedy="take them from a Predictor")
    scores = noise.log2_units(frequencies)
    if words is not None:
        if words.shape != frequencies.shape:
            raise CoderError(f"{len(words)} noise words for {len(frequencies)} tokens", remedy="use one vocabulary")
        scores = scores + noise.gumbel(words)
    token = int(scores.argmax())
    rest = np.partition(scores, len(scores) - 2)[-2]
    behind = (int(scores[token]) - int(rest)) >> (noise.FRACTION_BITS - GRID_BITS)
    top = noise.log2_units(np.array([int(frequencies.sum()), highest], dtype=np.int64))
    unsure = (int(top[0]) - int(top[1])) >> (noise.FRACTION_BITS - GRID_BITS)
    return Guess(
        token, scores, int(np.searchsorted(GAP_BORDERS, behind)), int(np.searchsorted(SURPRISE_BORDERS, unsure))
    )


class Posterior:
    """The adaptive code of tokens given guesses; both ends hold one and feed it the same tokens in the same order."""

    def __init__(self) -> None:
        """Start knowing nothing but that small gaps miss more often."""
        gaps, surprises = len(GAP_BORDERS) + 1, len(SURPRISE_BORDERS) + 1
        # [gap, surprise, (hit, miss)]: a priori a miss is the rarer the larger the gap.
        hits = np.repeat(1 + np.arange(gaps, dtype=np.int64), surprises).reshape(gaps, surprises)
        self._flags = np.stack([2 * hits, np.full_like(hits, 2)], axis=-1)
        self._mixtures = np.full((gaps, len(TAU_SIXTEENTHS)), MIXTURE_TOTAL // len(TAU_SIXTEENTHS), dtype=np.int64)

    def encode(self, encoder: SymbolEncoder, expected: Guess, token: int) -> None:
        """Append a token and learn from it.

        Raises:
            CoderError: the token is not of the vocabulary; nothing was appended or learnt.
        """
        if not 0 <= token < len(expected.scores):
            raise CoderError(f"token {token} of {len(expected.scores)}", remedy="use the weak model's vocabulary")
        is_miss = token != expected.token
        encoder.encode(int(is_miss), self._flags[expected.gap, expected.surprise])
        if is_miss:
            shares = self._shares(expected)
            encoder.encode(token, self._mixed(expected, shares))
            self._learn_mixture(expected, shares[:, token])
        self._learn_flag(expected, is_miss=is_miss)

    def decode(self, decoder: SymbolDecoder, expected: Guess) -> int:
        """Return the next token and learn from it.

        Raises:
            CoderError: the message is none that an encoder can have made; what was learnt is then undefined.
        """
        is_miss = bool(decoder.decode(self._flags[expected.gap, expected.surprise]))
        token = expected.token
        if is_miss:
            shares = self._shares(expected)
            token = decoder.decode(self._mixed(expected, shares))
            if token == expected.token:
                raise CoderError(
                    "a miss that names the guess", remedy="treat the frame as damaged: no encoder makes it"
                )
            self._learn_mixture(expected, shares[:, token])
        self._learn_flag(expected, is_miss=is_miss)
        return token

    def probability(self, expected: Guess, token: int) -> float:
        """Return P(token | what both sides know), for reports: the ideal cost is its -log2. Learns nothing."""
        hit, miss = (int(count) for count in self._flags[expected.gap, expected.surprise])
        if token == expected.token:
            return hit / (hit + miss)
        mixed = self._mixed(expected, self._shares(expected))
        return miss / (hit + miss) * int(mixed[token]) / int(mixed.sum())

    def snapshot(self) -> Snapshot:
        """Return a copy of what was learnt; equal snapshots mean equal states."""
        return Snapshot(self._flags.tobytes(), self._mixtures.tobytes())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        self._flags = np.frombuffer(snapshot.flags, dtype=np.int64).reshape(self._flags.shape).copy()
        self._mixtures = np.frombuffer(snapshot.mixtures, dtype=np.int64).reshape(self._mixtures.shape).copy()

    def _shares(self, expected: Guess) -> npt.NDArray[np.int64]:
        """Return each tau's distribution over the tokens that are not the guess: int64 [taus, V], rows near 2**30."""
        scores = expected.scores.copy()
        scores[expected.token] = noise.NEVER
        behind = (int(scores.max()) - scores) >> (noise.FRACTION_BITS - GRID_BITS)
        table = _exp2_table()
        # One cut for all: beyond it every tau gives weight 1.
        behind = np.minimum(behind, len(table) * max(TAU_SIXTEENTHS) // 16)
        rows = []
        for tau in TAU_SIXTEENTHS:
            weights = table[np.minimum(behind * 16 // tau, len(table) - 1)]
            weights[expected.token] = 0
            rows.append((weights << SHARE_BITS) // int(weights.sum()))
        return np.stack(rows)

    def _mixed(self, expected: Guess, shares: npt.NDArray[np.int64]) -> Weights:
        """Return the mixture over tokens: int64 [V], sum below 2**47; the guess gets 0."""
        mixed: Weights = (self._mixtures[expected.gap][:, None] * shares).sum(axis=0)
        return mixed

    def _learn_flag(self, expected: Guess, *, is_miss: bool) -> None:
        counts = self._flags[expected.gap, expected.surprise]
        counts[int(is_miss)] += 2
        if int(counts.sum()) > COUNT_LIMIT:
            counts[:] = (counts + 1) >> 1

    def _learn_mixture(self, expected: Guess, shares: npt.NDArray[np.int64]) -> None:
        """Bayes' rule with a floor: weight times what the tau gave the token that came."""
        weights = self._mixtures[expected.gap]
        updated = weights * (shares + 1)
        weights[:] = MIXTURE_FLOOR + updated * MIXTURE_TOTAL // int(updated.sum())


@functools.cache
def _exp2_table() -> npt.NDArray[np.int64]:
    """2**24 * 2**(-i / 64), at least 1, i = 0..24 * 64: int64, by 30-digit decimal arithmetic."""
    with localcontext() as context:
        context.prec = 30
        steps = 1 << GRID_BITS
        values = [Decimal(2) ** (WEIGHT_BITS - Decimal(i) / steps) for i in range(WEIGHT_BITS * steps + 1)]
        return np.array([max(1, int(value.to_integral_value())) for value in values], dtype=np.int64)
