"""P(token | weak frequencies, shared noise): what a receiver who knows the noise still has to be told.

The strong side drew argmax(log2 P + g). The receiver has W and the same g, so its best guess is the token with the
highest log2 W + g, and the cost comes from where P and W disagree, not from the entropy of P.

Rules:
1. The guess is exact: the argmax of integer scores, log2 of integer frequencies by the table of noise.py plus the
   noise, in units of 2**-24 bits. Weights, counts and mixtures are int64; the one float operation is the division of
   two integers below 2**53, which IEEE 754 rounds the same everywhere. Equal inputs give equal states at both ends.
2. A token costs a flag "it is the guess", and on a miss its place among the rest, under a mixture of softmax(score /
   tau). There the score is on a grid of 1/64 bit and good to 1/16 bit: it is a model, not the guess.
3. What is learnt is a function of what was coded: flag counts by context (how far the runner-up is behind, how sure
   the weak model is), and the weights of the taus by how far it is behind. `snapshot` copies the state, `restore`
   puts a copy back.
4. Without noise (temperature 0) the same code runs on log2 W alone, with a state of its own.

The sampler is the Poisson functional representation (Li and El Gamal, IEEE Trans. Inf. Theory 64(11), 2018), of which
Gumbel-max is the finite case.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

from bitweir_compression import noise
from bitweir_compression.coder import ALPHABET_MAX, WEIGHT_SUM_LIMIT, SymbolCoder, Weights
from bitweir_compression.errors import CoderError

# Borders of the runner-up's distance, and of -log2 of the weak model's top probability, in 64ths of a bit.
GAP_BORDERS = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SURPRISE_BORDERS = (1, 4, 12, 32, 64, 112, 192)
# Temperatures of the escape in sixteenths: how sharp the rest is differs between models and contexts.
TAU_SIXTEENTHS = (4, 7, 11, 16, 24)
# Scores of the escape are on a grid of 1/64 bit, its weights 24-bit integers, at least 1.
GRID_BITS = 6
WEIGHT_BITS = 24
# Bits of a significand, and of a uniform, that the tables of the escape's scores look at.
TABLE_BITS = 8
# Shares of one tau are in units of 2**-30 when weights of taus are learnt.
SHARE_BITS = 30
# Mixture weights of a context add up to about this; none falls below the floor, so none is ever out of the race.
MIXTURE_TOTAL_BITS = 16
MIXTURE_FLOOR = 1 << 8
# A context's flag counts are halved here: what was learnt long ago counts less.
COUNT_LIMIT = 1 << 11
# Cells of the arrays worked on at once: half a megabyte each, below what the allocator maps anew each time.
CHUNK_CELLS = 1 << 16

# With r = frequency / x, where the token's uniform is 1 - x: its score lies between log2 r - 1 and log2 r - .53 where
# x < 1/2, and between log2 r - 5.75 and log2 r - 1 elsewhere. A token below these shares of the second largest r is
# below both the largest, whatever the rest of its bits.
_ABLE_SHARE = 0.71
_ABLE_SHARE_LARGE = 0.025
_HALF = 1 << noise.UNIFORM_BITS

Frequencies = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Guess:
    """What the receiver expects before it is told anything.

    Attributes:
        token: argmax of the scores, lowest id on a tie.
        gap: context of the runner-up's distance, 0 to len(GAP_BORDERS).
        surprise: context of -log2 of the weak model's top probability, 0 to len(SURPRISE_BORDERS).
        frequencies: int64 [V], of the weak model.
        words: uint64 [V], the position's noise; None at temperature 0.
    """

    token: int
    gap: int
    surprise: int
    frequencies: Frequencies
    words: noise.Words | None


@dataclass(frozen=True)
class Snapshot:
    """A copy of a posterior's state, to go back to."""

    flags: bytes
    mixtures: bytes


def guesses(frequencies: Frequencies, words: Sequence[noise.Words] | None) -> list[Guess]:
    """Return the receiver's expectation of each row.

    Args:
        frequencies: int64 [n, V], 2 <= V <= 2**23, each 1 to 2**24: the weak model at the served temperature.
        words: n times uint64 [V], each position's noise; None at temperature 0.

    Raises:
        CoderError: shapes or ranges are off.
    """
    if frequencies.ndim != 2 or frequencies.dtype != np.int64 or not 2 <= frequencies.shape[1] <= ALPHABET_MAX:
        raise CoderError(f"frequencies of shape {frequencies.shape}", remedy="use int64 [n, V] with 2 <= V <= 2**23")
    if words is not None and (len(words) != len(frequencies) or any(w.shape != frequencies.shape[1:] for w in words)):
        raise CoderError(f"{len(words)} rows of noise for {len(frequencies)}", remedy="use one vocabulary")
    if len(frequencies) == 0:
        return []
    highest = frequencies.max(axis=1)
    if int(frequencies.min()) < 1 or int(highest.max()) > 1 << WEIGHT_BITS:
        raise CoderError("a frequency is not in 1..2**24", remedy="take them from a Predictor")
    tops = noise.log2_units(np.stack([frequencies.sum(axis=1), highest]))
    surprises = np.searchsorted(SURPRISE_BORDERS, (tops[0] - tops[1]) >> (noise.FRACTION_BITS - GRID_BITS))
    ids = _able(frequencies, words)
    row_of = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    tokens = np.concatenate(ids)
    scores = noise.log2_units(frequencies[row_of, tokens])
    if words is not None:
        scores += noise.gumbel(np.concatenate([row[some] for row, some in zip(words, ids, strict=True)]))
    starts = np.searchsorted(row_of, np.arange(len(ids)))
    top = np.maximum.reduceat(scores, starts)
    # Where each row's highest score comes first: the lowest id.
    winners = np.flatnonzero(scores == top[row_of])
    winners = winners[np.searchsorted(row_of[winners], np.arange(len(ids)))]
    scores[winners] = noise.NEVER
    behind = (top - np.maximum.reduceat(scores, starts)) >> (noise.FRACTION_BITS - GRID_BITS)
    gaps = np.searchsorted(GAP_BORDERS, behind)
    contexts = zip(tokens[winners].tolist(), gaps.tolist(), surprises.tolist(), strict=True)
    return [
        Guess(*context, frequencies[row], None if words is None else words[row]) for row, context in enumerate(contexts)
    ]


def _able(frequencies: Frequencies, words: Sequence[noise.Words] | None) -> list[npt.NDArray[np.intp]]:
    """Return ids among which are the two best of each row, ascending."""
    rows = max(1, CHUNK_CELLS // frequencies.shape[1])
    result: list[npt.NDArray[np.intp]] = []
    for start in range(0, len(frequencies), rows):
        part = frequencies[start : start + rows]
        result += _able_part(part, None if words is None else words[start : start + rows])
    return result


def _able_part(frequencies: Frequencies, words: Sequence[noise.Words] | None) -> list[npt.NDArray[np.intp]]:
    numerators = None if words is None else np.stack([noise.numerator(row) for row in words])
    ratios = frequencies.astype(np.float64) if numerators is None else frequencies / numerators
    rows = np.arange(len(ratios))
    first = ratios.argmax(axis=1)
    largest = ratios[rows, first]
    ratios[rows, first] = 0.0
    second = ratios.argmax(axis=1)
    floor = ratios[rows, second]
    ratios[rows, first] = largest
    if numerators is not None:
        is_small = (numerators[rows, first] < _HALF) & (numerators[rows, second] < _HALF)
        floor *= np.where(is_small, _ABLE_SHARE, _ABLE_SHARE_LARGE)
    cells = np.flatnonzero(ratios >= floor[:, None])
    row_of, ids = np.divmod(cells, ratios.shape[1])
    return np.split(ids, np.searchsorted(row_of, rows[1:]))


class Posterior:
    """The adaptive code of tokens given guesses; both ends hold one and feed it the same tokens in the same order."""

    def __init__(self) -> None:
        """Start knowing nothing but that small gaps miss more often."""
        gaps, surprises = len(GAP_BORDERS) + 1, len(SURPRISE_BORDERS) + 1
        # [gap][surprise] -> [hits, misses]: a priori a miss is the rarer the larger the gap.
        self._flags = [[[2 * (gap + 1), 2] for _ in range(surprises)] for gap in range(gaps)]
        taus = len(TAU_SIXTEENTHS)
        self._mixtures = np.full((gaps, taus), (1 << MIXTURE_TOTAL_BITS) // taus, dtype=np.int64)

    def code(self, coder: SymbolCoder, expected: Guess, token: int | None) -> int:
        """Code a token, in the direction of the coder, and learn from it.

        Args:
            coder: writes or reads.
            expected: the guess for this position.
            token: the token to write; None to read.

        Raises:
            CoderError: the token is not of the vocabulary (nothing was coded or learnt), or no encoder makes the
                message (what was learnt is then undefined).
        """
        if token is not None and not 0 <= token < len(expected.frequencies):
            raise CoderError(f"token {token} of {len(expected.frequencies)}", remedy="use the weak model's vocabulary")
        flags = self._flags[expected.gap][expected.surprise]
        coder.part = "flags"
        is_miss = bool(coder.symbol(np.array(flags), None if token is None else int(token != expected.token)))
        if not is_miss:
            token = expected.token
        else:
            behind, sums = _escape(expected)
            coder.part = "misses"
            token = coder.symbol(self._mixed(expected, behind, sums), token)
            if token == expected.token:
                raise CoderError(
                    "a miss that names the guess", remedy="treat the frame as damaged: no encoder makes it"
                )
            self._learn_mixture(expected, (_weight_tables()[:, behind[token]] << SHARE_BITS) // sums)
        self._learn_flag(flags, is_miss=is_miss)
        return token

    def probability(self, expected: Guess, token: int) -> float:
        """Return P(token | what both sides know), for reports: the ideal cost is its -log2. Learns nothing."""
        hit, miss = self._flags[expected.gap][expected.surprise]
        if token == expected.token:
            return hit / (hit + miss)
        mixed = self._mixed(expected, *_escape(expected))
        return miss / (hit + miss) * int(mixed[token]) / int(mixed.sum())

    def snapshot(self) -> Snapshot:
        """Return a copy of what was learnt; equal snapshots mean equal states."""
        return Snapshot(np.array(self._flags).tobytes(), self._mixtures.tobytes())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        shape = (len(self._flags), len(self._flags[0]), 2)
        self._flags = np.frombuffer(snapshot.flags, dtype=np.int64).reshape(shape).tolist()
        self._mixtures = np.frombuffer(snapshot.mixtures, dtype=np.int64).reshape(self._mixtures.shape).copy()

    def _mixed(self, expected: Guess, behind: npt.NDArray[np.int64], sums: npt.NDArray[np.int64]) -> Weights:
        """Return the mixture over tokens: int64 [V], sum below 2**53; the guess gets 0."""
        # A tau's part of the sum is at most its mixture weight times 2**shift.
        shift = WEIGHT_SUM_LIMIT.bit_length() - 2 - MIXTURE_TOTAL_BITS - 1
        by_distance = ((self._mixtures[expected.gap] << shift) // sums) @ _weight_tables()
        mixed: Weights = by_distance[behind]
        mixed[expected.token] = 0
        return mixed

    def _learn_flag(self, counts: list[int], *, is_miss: bool) -> None:
        counts[is_miss] += 2
        if sum(counts) > COUNT_LIMIT:
            counts[:] = [(count + 1) >> 1 for count in counts]

    def _learn_mixture(self, expected: Guess, shares: npt.NDArray[np.int64]) -> None:
        """Bayes' rule with a floor: weight times what the tau gave the token that came."""
        weights = self._mixtures[expected.gap]
        updated = weights * (shares + 1)
        weights[:] = MIXTURE_FLOOR + (updated << MIXTURE_TOTAL_BITS) // int(updated.sum())


def _escape(expected: Guess) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how far each token is behind the best that is not the guess, and the sum of each tau's weights.

    Returns:
        int64 [V], 0 to the last column of the weight tables; int64 [taus], over all tokens but the guess.
    """
    scores = _grid_scores(expected)
    scores[expected.token] = scores.min()
    tables = _weight_tables()
    behind = np.minimum(int(scores.max()) - scores, tables.shape[1] - 1)
    counts = np.bincount(behind, minlength=tables.shape[1])
    counts[behind[expected.token]] -= 1
    return behind, tables @ counts


def _grid_scores(expected: Guess) -> npt.NDArray[np.int64]:
    """Return log2 W + g in 64ths of a bit, up to a constant: int64 [V]. See rule 2."""
    if expected.words is None:
        ratios = expected.frequencies.astype(np.float64)
    else:
        numerators = noise.numerator(expected.words)
        ratios = expected.frequencies / numerators
    bits = ratios.view(np.int64)
    scores: npt.NDArray[np.int64] = ((bits >> 52) << GRID_BITS) + _log2_grid()[
        (bits >> (52 - TABLE_BITS)) & ((1 << TABLE_BITS) - 1)
    ]
    if expected.words is not None:
        scores -= _noise_grid()[numerators >> (noise.UNIFORM_BITS + 1 - TABLE_BITS)]
    return scores


@functools.cache
def _weight_tables() -> npt.NDArray[np.int64]:
    """2**24 * 2**(-d / (64 tau)), at least 1, for each tau: int64 [taus, cut], by 30-digit decimal arithmetic.

    From the cut on the sharpest tau gives 1 and the flattest next to nothing; the cut's own entry stands for the rest.
    """
    cut = (WEIGHT_BITS << GRID_BITS) * max(TAU_SIXTEENTHS) // 16
    with localcontext() as context:
        context.prec = 30
        rows = []
        for tau in TAU_SIXTEENTHS:
            step = Decimal(2) ** (Decimal(-16) / (tau << GRID_BITS))
            values = [step**distance * (1 << WEIGHT_BITS) for distance in range(cut + 1)]
            rows.append([max(1, int(value.to_integral_value())) for value in values])
        return np.array(rows, dtype=np.int64)


@functools.cache
def _log2_grid() -> npt.NDArray[np.int64]:
    """64 log2(1 + (i + 1/2) / 256), i = 0..255: int64."""
    half = (np.arange(1 << TABLE_BITS, dtype=np.int64) * 2 + 1) + (2 << TABLE_BITS)
    units = noise.log2_units(half) - noise.log2_units(np.array(2 << TABLE_BITS, dtype=np.int64))
    return _to_grid(units)


@functools.cache
def _noise_grid() -> npt.NDArray[np.int64]:
    """64 (-log2 x - g) in the middle of each of 256 parts of x: what log2 (W / x) is above log2 W + g, int64."""
    middle = (np.arange(1 << TABLE_BITS, dtype=np.int64) * 2 + 1) << (noise.UNIFORM_BITS - TABLE_BITS)
    word = (middle >> 1).astype(np.uint64) << np.uint64(noise.WORD_SHIFT)
    one = (noise.UNIFORM_BITS + 1) << noise.FRACTION_BITS
    return _to_grid(one - noise.log2_units(middle) - noise.gumbel(word))


def _to_grid(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Round from 2**-24 bits to 64ths of a bit."""
    shift = noise.FRACTION_BITS - GRID_BITS
    return (units + (1 << (shift - 1))) >> shift
