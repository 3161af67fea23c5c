"""Predictors: the order of calls, equal bits whatever shares the batch, and the comparison of fingerprints."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitweir_compression.exact import format, quantise
from bitweir_compression.exact.errors import ExactRangeError, FingerprintError, PredictorError
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.pinned import PinnedFloatPredictor
from bitweir_compression.exact.predictor import ExactPredictor, NGramPredictor, Predictor, check_fingerprints
from bitweir_compression.exact.temperature import Temperature
from tests.vectors.make_exact import SHAPES, source

VECTORS = Path(__file__).parents[2] / "vectors"
CONTEXT = 48


@functools.cache
def exact_model() -> ExactModel:
    return ExactModel(VECTORS / "exact_gated_int8.safetensors")


@functools.cache
def float_model() -> Any:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2, generator=generator)
    return model


def n_gram(slot_count: int) -> NGramPredictor:
    counts = {(): {1: 3, 2: 1}, (1,): {2: 5}, (1, 2): {60: 1, 3: 2}}
    return NGramPredictor(counts, 61, slot_count=slot_count, context_tokens=CONTEXT)


PREDICTORS: dict[str, Callable[[int], Predictor]] = {
    "exact": lambda slots: ExactPredictor(exact_model(), slot_count=slots),
    "pinned": lambda slots: PinnedFloatPredictor(float_model(), slot_count=slots),
    "n-gram": n_gram,
}


@pytest.fixture(params=PREDICTORS)
def make(request: pytest.FixtureRequest) -> Callable[[int], Predictor]:
    return PREDICTORS[request.param]


def alone(predictor: Predictor, slot: int, prompt: list[int], tokens: list[int]) -> list[list[int]]:
    """Return the frequencies before each token, in a slot of its own."""
    predictor.admit(slot, prompt)
    rows = []
    for token in tokens:
        rows.append(predictor.step([slot])[0].tolist())
        predictor.commit({slot: token})
    predictor.release(slot)
    return rows


def test_frequencies_are_positive_integers_that_fit_a_float(make: Callable[[int], Predictor]) -> None:
    predictor = make(3)
    predictor.admit(1, [1, 2])
    got = predictor.step([1])
    assert got.dtype == np.int64 and got.shape == (1, predictor.vocabulary_size)
    assert got.min() >= 1 and got.sum() < 1 << 53
    assert predictor.step([]).shape == (0, 61)


def test_company_changes_nothing(make: Callable[[int], Predictor]) -> None:
    prompts, tokens = {0: [1, 2, 3], 2: [4], 1: [1] * 20}, {0: [5, 6, 7], 2: [1, 2, 3], 1: [8, 9, 60]}
    expected = {slot: alone(make(3), slot, prompts[slot], tokens[slot]) for slot in prompts}
    predictor = make(3)
    # Slots that served another sequence before, and that come and go while others stay.
    predictor.admit(2, [50, 51])
    predictor.step([2])
    predictor.release(2)
    predictor.admit(0, prompts[0])
    first = predictor.step([0])
    predictor.commit({0: tokens[0][0]})
    assert first[0].tolist() == expected[0][0]
    for slot in (2, 1):
        predictor.admit(slot, prompts[slot])
    got = predictor.step([1, 0, 2])
    assert [row.tolist() for row in got] == [expected[1][0], expected[0][1], expected[2][0]]
    predictor.commit({1: tokens[1][0], 0: tokens[0][1], 2: tokens[2][0]})
    got = predictor.step([2, 1, 0])
    assert [row.tolist() for row in got] == [expected[2][1], expected[1][1], expected[0][2]]


def test_misuse_is_a_typed_error(make: Callable[[int], Predictor]) -> None:
    predictor = make(2)
    predictor.admit(0, [1])
    for slot, prompt in ((0, [1]), (2, [1]), (-1, [1]), (1, []), (1, [61]), (1, [-1]), (1, [1] * (CONTEXT + 1))):
        with pytest.raises(PredictorError):
            predictor.admit(slot, prompt)
    for work in (
        lambda: predictor.step([1]),
        lambda: predictor.step([0, 0]),
        lambda: predictor.commit({0: 1}),
        lambda: predictor.release(1),
    ):
        with pytest.raises(PredictorError):
            work()
    predictor.step([0])
    with pytest.raises(PredictorError):
        predictor.step([0])
    with pytest.raises(PredictorError):
        predictor.commit({0: 61})
    with pytest.raises(PredictorError):
        make(0)


def test_a_full_slot_is_not_stepped(make: Callable[[int], Predictor]) -> None:
    predictor = make(2)
    predictor.admit(0, [1] * (CONTEXT - 1))
    predictor.step([0])
    predictor.commit({0: 2})
    with pytest.raises(PredictorError, match="full"):
        predictor.step([0])
    predictor.admit(1, [2])
    assert predictor.step([1]).shape == (1, 61)


@pytest.mark.parametrize("name", ["exact", "pinned"])
def test_temperature_belongs_to_the_slot(name: str) -> None:
    predictor = PREDICTORS[name](3)
    predictor.admit(0, [1, 2], Temperature.of(0.7))
    predictor.admit(1, [1, 2])
    predictor.admit(2, [1, 2], Temperature.of(1.5))
    cold, one, hot = np.sort(predictor.step([0, 1, 2]), axis=1) / float(1 << 24)
    assert cold.sum() < one.sum() < hot.sum()


def test_a_slot_that_leaves_its_range_does_not_harm_the_others() -> None:
    # Token 3 alone has an embedding that the residual stream cannot hold twice.
    made = source("exact_plain_int16", SHAPES["exact_plain_int16"])
    made.matrices["layers.0.down"] = made.matrices["layers.0.down"] * 2.0**14
    made.matrices["embedding"][3] = made.matrices["embedding"][3] * 2.0**14
    made.matrices["embedding"][3, 0] = 2.0**20 - 64
    made.matrices["layers.0.down"][0] = 0
    made.biases["layers.0.down"][0] = 128.0
    predictor = ExactPredictor(format.decode(format.encode(*quantise.convert(made, "int16"))), slot_count=3)
    predictor.admit(0, [4])
    predictor.admit(1, [4, 3])
    with pytest.raises(ExactRangeError) as caught:
        predictor.step([0, 1])
    assert caught.value.rows == (1,)
    predictor.release(1)
    first = predictor.step([0])
    predictor.admit(2, [4])
    assert predictor.step([2]).tolist() == first.tolist()


def test_the_pinned_predictor_is_near_its_model() -> None:
    predictor = PinnedFloatPredictor(float_model(), slot_count=2)
    predictor.admit(1, [5, 6, 7, 8])
    row = predictor.step([1])[0]
    with torch.no_grad():
        logits = float_model()(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, -1].double()
    expected = torch.exp(logits - logits.max()).numpy() * (1 << 24)
    assert np.allclose(row, expected, rtol=0.016, atol=2)


def test_an_n_gram_counts_what_it_says() -> None:
    predictor = n_gram(1)
    predictor.admit(0, [7, 1, 2])
    row = predictor.step([0])[0]
    assert row[3] == 1 + 16 * ((2 << 16) // 3)
    assert row[60] == 1 + 16 * ((1 << 16) // 3)
    assert row[1] == 1 + 3 * (1 << 16) // 4
    assert row[2] == 1 + (1 << 16) // 4
    assert row[5] == 1
    with pytest.raises(PredictorError):
        predictor.admit(0, [1], Temperature(1, 2))
    for counts in ({(): {61: 1}}, {(): {0: 0}}, {(61,): {0: 1}}, {(1,) * 9: {0: 1}}):
        with pytest.raises(PredictorError):
            NGramPredictor(counts, 61)


def test_equal_models_have_equal_fingerprints_and_others_do_not() -> None:
    check_fingerprints(PREDICTORS["exact"](1).fingerprint, PREDICTORS["exact"](9).fingerprint)
    prints = {make(2).fingerprint for make in PREDICTORS.values()}
    prints.add(PinnedFloatPredictor(float_model(), slot_count=3).fingerprint)
    prints.add(NGramPredictor({(): {1: 3}}, 61).fingerprint)
    assert len(prints) == 5
    with pytest.raises(FingerprintError) as caught:
        check_fingerprints("a" * 64, "b" * 64)
    assert "quantise" in caught.value.remedy


def test_temperatures_are_ratios() -> None:
    assert Temperature.of(0.7) == Temperature(7, 10)
    assert Temperature.of(1.0) == Temperature()
    assert Temperature.of(10_000) == Temperature(10_000, 1)
    assert Temperature.of(1234.567).numerator <= 10_000
    for value in (0, -1, float("nan"), float("inf"), 10_001):
        with pytest.raises(PredictorError):
            Temperature.of(value)
    with pytest.raises(PredictorError):
        Temperature(0, 1)


def test_a_predictor_from_a_file_equals_one_from_a_model(tmp_path: Path) -> None:
    quantise.quantise(float_model(), tmp_path, token_ids=[[1, 2, 3]])
    predictor = ExactPredictor(tmp_path, slot_count=1)
    assert predictor.vocabulary_size == 61 and predictor.context_tokens == CONTEXT
    assert predictor.fingerprint == ExactModel(tmp_path).fingerprint


def test_the_package_is_light() -> None:
    code = "import sys, bitweir_compression.exact, bitweir_compression.exact.format; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["exact", "pinned"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_step_can_be_taken_again(kind: str, error: type, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = alone(PREDICTORS[kind](2), 0, [1, 2, 3], [4, 5])
    predictor = PREDICTORS[kind](2)
    owner, name = (predictor, "_frequencies") if kind == "pinned" else (exact_model(), "frequencies")

    def fail(*_: object) -> None:
        raise error

    predictor.admit(0, [1, 2, 3])
    for row, token in zip(expected, [4, 5], strict=True):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(owner, name, fail)
            predictor.step([0])
        assert predictor.step([0])[0].tolist() == row
        predictor.commit({0: token})


@pytest.mark.parametrize("token", [1.5, True, "a", np.float64(2), -1, 61, None])
def test_what_is_no_token_is_refused_and_changes_nothing(make: Callable[[int], Predictor], token: object) -> None:
    predictor = make(2)
    with pytest.raises(PredictorError):
        predictor.admit(0, [1, token])
    predictor.admit(0, [1])
    before = predictor.step([0])[0].tolist()
    with pytest.raises(PredictorError):
        predictor.commit({0: token})
    predictor.commit({0: 2})
    assert before == alone(predictor, 1, [1], [2])[0]


def test_temperatures_come_one_a_row_or_not_at_all() -> None:
    logits = exact_model().logits(torch.tensor([[1, 2, 3]]))[0]
    for count in (1, 2, 4):
        with pytest.raises(PredictorError, match="temperatures"):
            exact_model().frequencies(logits, [Temperature()] * count)
