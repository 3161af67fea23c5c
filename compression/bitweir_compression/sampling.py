"""From logits to the integer scores that seeded noise is added to: temperature, bias and truncation, in one place.

Rules:
1. Order: bias, forbidden tokens, temperature, top-k, top-p (of what top-k left, renormalised), min-p (relative to the
   most likely token). Ties at a border go to the lower token id, so the kept set is a function of the logits; at the
   very border of top-p it also depends on how this machine rounds `exp` and a sum.
2. Temperature 0 is greedy: the highest biased logit, lowest id on a tie; truncation cannot change it and no noise
   enters.
3. Everything here runs in float64 on whatever logits the engine gave; after `scores` there are only integers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitweir_compression import noise
from bitweir_compression.errors import SamplingError

# Below this, use 0: logits divided by less leave no room for noise.
TEMPERATURE_MIN = 0.01
TEMPERATURE_MAX = 100.0
# As in the OpenAI API.
LOGIT_BIAS_LIMIT = 100.0
# More biased tokens than this is a mistake or an attack; the OpenAI API allows 300 or so.
LOGIT_BIAS_COUNT_MAX = 1024

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SamplingSpec:
    """How a token is drawn from logits.

    Attributes:
        temperature: 0 (greedy) or .01 to 100.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens with at least this mass; 0 < top_p <= 1.
        min_p: drop tokens less likely than this share of the most likely one; 0 <= min_p <= 1.
        logit_bias: (token id, bias) pairs, biases in nats from -100 to 100; -inf forbids a token.
        forbidden: token ids that are never drawn, whatever the bias says.

    Raises:
        SamplingError: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or TEMPERATURE_MIN <= self.temperature <= TEMPERATURE_MAX):
            raise SamplingError(
                f"temperature {self.temperature} is not 0 or {TEMPERATURE_MIN} to {TEMPERATURE_MAX:g}",
                remedy="use 0 for greedy decoding",
            )
        if self.top_k < 0:
            raise SamplingError(f"top_k {self.top_k} is negative", remedy="use 0 to keep all tokens")
        if not 0 < self.top_p <= 1:
            raise SamplingError(f"top_p {self.top_p} is not in (0, 1]", remedy="use 1 to keep all tokens")
        if not 0 <= self.min_p <= 1:
            raise SamplingError(f"min_p {self.min_p} is not in [0, 1]", remedy="use 0 to keep all tokens")
        if len(self.logit_bias) > LOGIT_BIAS_COUNT_MAX:
            raise SamplingError(
                f"{len(self.logit_bias)} biased tokens", remedy=f"bias at most {LOGIT_BIAS_COUNT_MAX} tokens"
            )
        if any(token < 0 for token in self.forbidden):
            raise SamplingError("a forbidden token id is negative", remedy="token ids count from 0")
        for token, bias in self.logit_bias:
            if token < 0 or not (abs(bias) <= LOGIT_BIAS_LIMIT or bias == -math.inf):
                raise SamplingError(
                    f"logit bias {bias} for token {token}", remedy=f"use biases from -{LOGIT_BIAS_LIMIT:g} to 100"
                )


def probabilities(logits: npt.ArrayLike, spec: SamplingSpec) -> Probabilities:
    """Return the distribution a token is drawn from: float64 [V], summing to 1, 0 where truncated."""
    scaled = _scaled(logits, spec)
    if spec.temperature == 0:
        greedy: Probabilities = np.eye(1, len(scaled), int(scaled.argmax()))[0]
        return greedy
    mass: Probabilities = np.where(_kept(scaled, spec), np.exp(scaled), 0.0)
    mass /= mass.sum()
    return mass


def scores(logits: npt.ArrayLike, spec: SamplingSpec) -> noise.Scores:
    """Return what seeded noise is added to: int64 [V] in units of 2**-24 bits, `noise.NEVER` where truncated.

    Args:
        logits: float [V], nats; -inf forbids a token.
        spec: how to draw; its temperature must not be 0.

    Raises:
        SamplingError: a logit is NaN or +inf, every token is forbidden, or the temperature is 0.
    """
    if spec.temperature == 0:
        raise SamplingError("greedy decoding has no scores", remedy="take the argmax; sample() does")
    scaled = _scaled(logits, spec)
    fixed = np.rint(scaled * ((1 << noise.FRACTION_BITS) / math.log(2)))
    result = np.maximum(fixed, -float(noise.SCORE_LIMIT)).astype(np.int64)
    result[~_kept(scaled, spec)] = noise.NEVER
    return result


def sample(
    logits: Sequence[npt.ArrayLike], specs: Sequence[SamplingSpec], keys: Sequence[noise.PositionKey]
) -> list[int]:
    """Draw one token a row.

    Args:
        logits: n rows of float [V].
        specs: how to draw each row.
        keys: the noise position of each row.
    """
    if not len(logits) == len(specs) == len(keys):
        raise SamplingError(
            f"{len(logits)} rows, {len(specs)} specifications, {len(keys)} keys", remedy="give one of each a row"
        )
    greedy = {row: int(_scaled(logits[row], spec).argmax()) for row, spec in enumerate(specs) if spec.temperature == 0}
    drawn = [row for row in range(len(logits)) if row not in greedy]
    integer_scores = [scores(logits[row], specs[row]) for row in drawn]
    words = [noise.words(keys[row], len(row_scores)) for row, row_scores in zip(drawn, integer_scores, strict=True)]
    tokens = {**greedy, **dict(zip(drawn, noise.choose(integer_scores, words), strict=True))}
    return [tokens[row] for row in range(len(logits))]


def _scaled(logits: npt.ArrayLike, spec: SamplingSpec) -> Probabilities:
    """Return biased logits over temperature, shifted so that the largest is 0: float64 [V]."""
    biased = np.array(logits, dtype=np.float64)
    for token, bias in spec.logit_bias:
        if token >= len(biased):
            raise SamplingError(f"logit bias for token {token} of {len(biased)}", remedy="bias a token it has")
        biased[token] += bias
    if any(token >= len(biased) for token in spec.forbidden):
        raise SamplingError(f"a forbidden token is not one of {len(biased)}", remedy="forbid a token it has")
    biased[list(spec.forbidden)] = -math.inf
    top = biased.max()
    if not math.isfinite(top):
        what = "a logit is NaN or infinite" if math.isnan(top) or top > 0 else "every token is forbidden"
        raise SamplingError(what, remedy="check the checkpoint, the engine and the logit bias")
    biased -= top
    if spec.temperature not in (0, 1):
        biased /= spec.temperature
    return biased


def _kept(scaled: Probabilities, spec: SamplingSpec) -> npt.NDArray[np.bool_]:
    """Return which tokens truncation keeps: bool [V]. See rule 1."""
    kept = scaled > -np.inf
    if 0 < spec.top_k < len(scaled):
        border = np.partition(scaled, len(scaled) - spec.top_k)[len(scaled) - spec.top_k]
        above = scaled > border
        at_border = np.flatnonzero((scaled == border) & kept)
        kept = above
        kept[at_border[: spec.top_k - int(above.sum())]] = True
    if spec.top_p < 1:
        ids = np.flatnonzero(kept)
        ids = ids[np.argsort(-scaled[ids], kind="stable")]
        mass = np.cumsum(np.exp(scaled[ids]))
        count = int(np.searchsorted(mass, spec.top_p * mass[-1])) + 1
        kept[ids[count:]] = False
    if spec.min_p > 0:
        kept &= scaled >= math.log(spec.min_p)
    return kept
