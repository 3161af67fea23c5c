"""Laws of the posterior code: both ends learn the same, nothing is lost, probabilities add up, and it does pay."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression import noise
from bitweir_compression.coder import Reader, Writer
from bitweir_compression.errors import CoderError
from bitweir_compression.noise import NoiseStream
from bitweir_compression.posterior import Guess, Posterior, _escape, guesses

VOCABULARY = 24


def guess(frequencies: np.ndarray, words: np.ndarray | None) -> Guess:
    """One row of `guesses`."""
    return guesses(frequencies[None], None if words is None else [words])[0]


def stream(seed: int, count: int, *, disagreement: float, is_greedy: bool = False) -> list[tuple[Guess, int]]:
    """Tokens of a strong model whose logits are the weak model's plus Gaussian disagreement, with shared noise."""
    random = np.random.default_rng(seed)
    result = []
    for position in range(count):
        weak = random.normal(0, 2, VOCABULARY)
        strong = weak + disagreement * random.normal(0, 1, VOCABULARY)
        frequencies = np.maximum(1, np.rint(2**24 * np.exp(weak - weak.max()))).astype(np.int64)
        words = noise.words((seed, position), VOCABULARY)
        scores = np.rint(strong / math.log(2) * 2**noise.FRACTION_BITS).astype(np.int64)
        token = int(scores.argmax()) if is_greedy else noise.choose([scores], [words])[0]
        result.append((guess(frequencies, None if is_greedy else words), token))
    return result


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    disagreement=st.sampled_from([0, 0.3, 2, 8]),
    greedy=st.booleans(),
)
def test_both_ends_decode_and_learn_the_same(seed: int, count: int, disagreement: float, greedy: bool) -> None:
    tokens = stream(seed, count, disagreement=disagreement, is_greedy=greedy)
    sender, receiver, encoder = Posterior(), Posterior(), Writer()
    for expected, token in tokens:
        sender.code(encoder, expected, token)
    decoder = Reader(encoder.finish())
    assert [receiver.code(decoder, expected, None) for expected, _ in tokens] == [token for _, token in tokens]
    assert sender.snapshot() == receiver.snapshot()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), learnt=st.integers(0, 40))
def test_probabilities_add_up_to_one_and_are_what_is_paid(seed: int, learnt: int) -> None:
    posterior, encoder = Posterior(), Writer()
    tokens = stream(seed, learnt + 1, disagreement=1.5)
    for expected, token in tokens[:-1]:
        posterior.code(encoder, expected, token)
    expected, _ = tokens[-1]
    mass = [posterior.probability(expected, token) for token in range(VOCABULARY)]
    assert sum(mass) == pytest.approx(1, abs=1e-6)
    assert min(mass) > 0


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), before=st.integers(0, 20), after=st.integers(1, 20))
def test_restoring_a_snapshot_forgets_what_came_after(seed: int, before: int, after: int) -> None:
    tokens = stream(seed, before + after, disagreement=2)
    posterior = Posterior()
    for expected, token in tokens[:before]:
        posterior.code(Writer(), expected, token)
    snapshot = posterior.snapshot()

    def code() -> tuple:
        encoder = Writer()
        for expected, token in tokens[before:]:
            posterior.code(encoder, expected, token)
        return encoder.finish(), posterior.snapshot()

    first = code()
    posterior.restore(snapshot)
    assert posterior.snapshot() == snapshot
    assert code() == first


def cost_bits(tokens: list[tuple[Guess, int]]) -> tuple[float, float]:
    """Bits a token as coded, and by the probabilities stated."""
    posterior, writer = Posterior(), Writer()
    for expected, token in tokens:
        posterior.code(writer, expected, token)
    return writer.finish().count / len(tokens), sum(writer.ideal_bits.values()) / len(tokens)


def test_the_coder_pays_what_the_posterior_says() -> None:
    # One message may end luckily on a short bit string; eight together pay what they should, within a bit each.
    costs = [cost_bits(stream(seed, 400, disagreement=0.7)) for seed in range(8)]
    coded, ideal = (sum(column) * 400 for column in zip(*costs, strict=True))
    assert coded == pytest.approx(ideal, rel=0.002, abs=8)


def test_stated_probabilities_are_the_ones_paid() -> None:
    posterior, writer, ideal = Posterior(), Writer(), 0.0
    for expected, token in stream(1, 200, disagreement=1):
        ideal -= math.log2(posterior.probability(expected, token))
        posterior.code(writer, expected, token)
    assert sum(writer.ideal_bits.values()) == pytest.approx(ideal)


def test_agreement_is_nearly_free_and_disagreement_costs_less_than_the_entropy() -> None:
    same, _ = cost_bits(stream(2, 1500, disagreement=0))
    near, _ = cost_bits(stream(2, 1500, disagreement=0.3))
    far, _ = cost_bits(stream(2, 1500, disagreement=1.5))
    assert same < 0.02
    assert same < near < far
    # The entropy of these distributions is 2.6 bits; without the noise even perfect knowledge of W would pay that.
    assert near < 0.9


def test_learning_pays() -> None:
    tokens = stream(3, 3000, disagreement=0.5)
    first, _ = cost_bits(tokens[:300])
    posterior = Posterior()
    for expected, token in tokens[:2700]:
        posterior.code(Writer(), expected, token)
    encoder = Writer()
    for expected, token in tokens[2700:]:
        posterior.code(encoder, expected, token)
    assert encoder.finish().count / 300 < first


def test_a_miss_that_names_the_guess_is_refused() -> None:
    expected, _ = stream(4, 1, disagreement=0)[0]
    posterior, forger = Posterior(), Writer()
    forger.symbol(np.array(posterior._flags[expected.gap][expected.surprise]), 1)
    forger.symbol(posterior._mixed(expected, *_escape(expected)), expected.token)
    with pytest.raises(CoderError, match="names the guess"):
        posterior.code(Reader(forger.finish()), expected, None)


@pytest.mark.parametrize(
    "call",
    [
        lambda: guess(np.array([1]), None),
        lambda: guess(np.array([1.0, 2.0]), None),
        lambda: guess(np.array([0, 2]), None),
        lambda: guess(np.array([1, (1 << 24) + 1]), None),
        lambda: guess(np.array([1, 2]), noise.words((0, 0), 3)),
        lambda: Posterior().code(Writer(), guess(np.array([1, 2]), None), 2),
        lambda: Posterior().code(Writer(), guess(np.array([1, 2]), None), -1),
    ],
)
def test_bad_input_is_refused(call) -> None:
    with pytest.raises(CoderError) as caught:
        call()
    assert caught.value.remedy


def test_the_guess_is_what_the_strong_model_would_draw_if_it_were_the_weak_one() -> None:
    key = noise.position_key(bytes(32), 0, NoiseStream.VISIBLE, 0)
    frequencies = np.array([5, 1 << 24, 77, 1 << 22], dtype=np.int64)
    words = noise.words(key, 4)
    assert guess(frequencies, words).token == noise.choose([noise.log2_units(frequencies)], [words])[0]
    assert guess(frequencies, None).token == 1
