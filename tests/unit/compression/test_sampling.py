"""Sampling follows the softmax it claims to, and a bad specification is refused in one line."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from bitweir_compression import noise, sampling
from bitweir_compression.errors import SamplingError
from bitweir_compression.noise import NoiseStream
from bitweir_compression.sampling import SamplingSpec

KEY = bytes(range(32))
DRAWS = 40_000
VOCABULARY = 48
# One false alarm in ten thousand per case; the seeds are fixed, so a pass today is a pass for ever.
P_VALUE_MIN = 1e-4
LOGITS = np.random.default_rng(5).normal(0, 2.5, VOCABULARY)

SPECS = [
    SamplingSpec(temperature=0.3),
    SamplingSpec(temperature=0.7, top_p=0.9),
    SamplingSpec(),
    SamplingSpec(top_k=5),
    SamplingSpec(top_p=0.8),
    SamplingSpec(min_p=0.05),
    SamplingSpec(temperature=1.3, top_k=30, top_p=0.95, min_p=0.01),
    SamplingSpec(temperature=2.0),
    SamplingSpec(logit_bias=((3, 2.0), (4, -math.inf))),
    SamplingSpec(forbidden=(0, 7), logit_bias=((7, 50.0),), top_k=20),
]


def draw_counts(spec: SamplingSpec, scale: float = 1.0) -> np.ndarray:
    """Draw DRAWS tokens at consecutive positions; `scale` plants an error into the scores."""
    scores = sampling.scores(LOGITS, spec)
    scores = np.where(scores == noise.NEVER, scores, (scores * scale).astype(np.int64))
    tokens = draw(scores, 0, NoiseStream.VISIBLE, DRAWS)
    return np.bincount(tokens, minlength=VOCABULARY)


def draw(scores: np.ndarray, candidate: int, stream: NoiseStream, count: int) -> list[int]:
    """Draw at positions 0..count-1 of one text."""
    keys = [noise.position_key(KEY, candidate, stream, position) for position in range(count)]
    return noise.choose([scores] * count, [noise.words(key, len(scores)) for key in keys])


def sample(logits: list, spec: SamplingSpec) -> int:
    return sampling.sample([logits], [spec], [(0, 0)])[0]


def p_value(counts: np.ndarray, spec: SamplingSpec) -> float:
    """Chi-square of the counts against the exact distribution, rare tokens pooled."""
    expected = sampling.probabilities(LOGITS, spec) * DRAWS
    common = expected >= 8
    observed = [*counts[common], counts[~common].sum()]
    predicted = [*expected[common], expected[~common].sum()]
    if predicted[-1] < 1e-9:
        assert observed[-1] == 0, "a truncated token was drawn"
        observed.pop()
        predicted.pop()
    return float(stats.chisquare(observed, predicted, sum_check=False).pvalue)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_draws_follow_the_distribution(spec: SamplingSpec) -> None:
    assert p_value(draw_counts(spec), spec) > P_VALUE_MIN


def test_the_chi_square_would_notice_the_wrong_base() -> None:
    # Forgetting the 1 / ln 2 of noise.py's rule 5 is the classical mistake: scores too small by ln 2.
    assert p_value(draw_counts(SamplingSpec(), scale=math.log(2)), SamplingSpec()) < 1e-12


def test_rare_tokens_are_drawn_as_often_as_they_should_be() -> None:
    # 4096 tokens share 1 % of the mass; a generator with a short tail would starve them.
    logits = np.full(4097, -math.log(4096 * 99))
    logits[0] = 0.0
    scores = sampling.scores(logits, SamplingSpec())
    rare = sum(token > 0 for token in draw(scores, 1, NoiseStream.HIDDEN, 8000))
    assert stats.binomtest(rare, 8000, 0.01).pvalue > P_VALUE_MIN


def test_positions_are_independent() -> None:
    scores = sampling.scores(np.zeros(4), SamplingSpec())
    tokens = draw(scores, 2, NoiseStream.VISIBLE, 8000)
    pairs = np.bincount([4 * a + b for a, b in pairwise(tokens)], minlength=16)
    assert stats.chisquare(pairs).pvalue > P_VALUE_MIN


def test_greedy_takes_the_lowest_of_the_highest_and_ignores_noise() -> None:
    assert sample([1.0, 3.0, 3.0], SamplingSpec(temperature=0)) == 1
    assert sample([1.0, 3.0, 3.0], SamplingSpec(temperature=0, logit_bias=((2, 1.0),))) == 2
    assert sampling.probabilities([1.0, 3.0, 3.0], SamplingSpec(temperature=0)).tolist() == [0, 1, 0]


def test_ties_at_a_border_go_to_the_lower_id() -> None:
    kept = sampling.probabilities([1.0, 2.0, 1.0, 1.0], SamplingSpec(top_k=2))
    assert (kept > 0).tolist() == [True, True, False, False]
    kept = sampling.probabilities([0.0, 0.0, 0.0, 0.0], SamplingSpec(top_p=0.5))
    assert (kept > 0).tolist() == [True, True, False, False]


def test_top_p_is_taken_of_what_top_k_left() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    kept = sampling.probabilities(logits, SamplingSpec(top_k=2, top_p=0.6))
    assert (kept > 0).tolist() == [True, True, False, False]
    kept = sampling.probabilities(logits, SamplingSpec(top_k=2, top_p=0.57))
    assert (kept > 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": 0.005},
        {"temperature": math.nan},
        {"temperature": 101},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"forbidden": (-1,)},
        {"logit_bias": ((1, 101.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, math.nan),)},
        {"logit_bias": tuple((i, 0.0) for i in range(1025))},
    ],
    ids=str,
)
def test_bad_specifications_are_refused(arguments: dict) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingSpec(**arguments)
    assert caught.value.remedy


@pytest.mark.parametrize("logits", [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]], ids=str)
def test_bad_logits_are_refused(logits: list) -> None:
    for spec in (SamplingSpec(), SamplingSpec(temperature=0)):
        with pytest.raises(SamplingError):
            sample(logits, spec)


def test_rows_specifications_and_keys_come_in_equal_numbers() -> None:
    with pytest.raises(SamplingError, match="1 rows, 2 specifications"):
        sampling.sample([[0.0, 1.0]], [SamplingSpec(), SamplingSpec()], [(0, 0)])


def test_forbidden_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(SamplingError, match="forbidden token"):
        sample([0.0, 1.0], SamplingSpec(forbidden=(2,)))


def test_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(SamplingError, match="token 9 of 2"):
        sample([0.0, 1.0], SamplingSpec(logit_bias=((9, 1.0),)))
