"""Hugging Face models of every family turned into integers: quality, exactness in every arrangement, typed refusals."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bitweir_compression.exact import format, quantise, sources
from bitweir_compression.exact.allowlist import AllowList
from bitweir_compression.exact.errors import ExactConversionError, ExactError, ExactRangeError, PredictorError
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.temperature import Temperature
from tests.vectors.make_exact import SHAPES, source

BASE = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
NEOX = {key: value for key, value in BASE.items() if key != "num_key_value_heads"} | {"num_attention_heads": 3}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS: dict[str, tuple[Any, Any]] = {
    "llama, 1040": (LlamaForCausalLM, lambda: LlamaConfig(**BASE, intermediate_size=1040)),
    "llama, biases, tied, yarn": (
        LlamaForCausalLM,
        lambda: LlamaConfig(
            **BASE,
            intermediate_size=35,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters=YARN,
        ),
    ),
    "mistral, llama3 RoPE": (
        MistralForCausalLM,
        lambda: MistralConfig(**BASE, intermediate_size=90, sliding_window=64, head_dim=10, rope_parameters=LLAMA3),
    ),
    "qwen2, 1041": (Qwen2ForCausalLM, lambda: Qwen2Config(**BASE, intermediate_size=1041)),
    "qwen3, odd heads": (
        Qwen3ForCausalLM,
        lambda: Qwen3Config(
            **{**BASE, "num_attention_heads": 5, "num_key_value_heads": 1}, intermediate_size=77, head_dim=14
        ),
    ),
    "neox": (GPTNeoXForCausalLM, lambda: GPTNeoXConfig(**NEOX, intermediate_size=1100)),
    "neox, sequential, tanh": (
        GPTNeoXForCausalLM,
        lambda: GPTNeoXConfig(
            **NEOX,
            intermediate_size=50,
            use_parallel_residual=False,
            hidden_act="gelu_new",
            tie_word_embeddings=True,
            attention_bias=False,
        ),
    ),
}
# KL of the frequencies from the float64 model, nats per token. The 1/64 grid alone costs 1.02e-5.
KL_MAX = {"int16": 1.5e-5, "int8": 1e-3}
LOGIT_ERROR_MAX = {"int16": 0.012, "int8": 0.25}


@functools.cache
def float_model(name: str) -> Any:
    kind, config = MODELS[name]
    model = kind(config()).to(torch.float64).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            mean = 1.0 if parameter.dim() == 1 and not label.endswith("bias") else 0.0
            parameter.normal_(mean, 0.08 if parameter.dim() == 2 else 0.2, generator=generator)
    return model


@functools.cache
def exact_file(name: str, profile: str) -> ExactFile:
    header, tensors = quantise.convert(sources.extract(float_model(name), 64), profile)
    return format.decode(format.encode(header, tensors))


@functools.cache
def exact_model(name: str, profile: str) -> ExactModel:
    return ExactModel(exact_file(name, profile))


def tokens(rows: int, count: int, vocabulary: int = 101) -> torch.Tensor:
    return torch.randint(vocabulary, (rows, count), generator=torch.Generator().manual_seed(rows * count))


@pytest.mark.parametrize("profile", ["int16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_the_integers_are_close_to_the_float64_model(name: str, profile: str) -> None:
    report = quantise.compare(exact_file(name, profile), float_model(name), tokens(2, 64).tolist())
    assert report["token_count"] == 128
    assert report["kl_nats_per_token"] < KL_MAX[profile]
    assert report["logit_error_max"] < LOGIT_ERROR_MAX[profile]
    assert report["agreement"] > 0.9


@pytest.mark.parametrize("profile", ["int16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_every_arrangement_gives_the_same_bits_with_allowed_operations_only(name: str, profile: str) -> None:
    model, ids = exact_model(name, profile), tokens(4, 30)
    expected = model.logits(ids)
    assert all(torch.equal(model.logits(row[None])[0], whole) for row, whole in zip(ids, expected, strict=True))
    cache, lengths, rows = model.cache(5), [7, 20, 1, 12], [4, 0, 3, 2]
    with AllowList():
        prompts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        got = [model.prefill(cache, rows, prompts, chunk_tokens=8)]
        for step in range(3):
            fed = [int(row[length + step]) for row, length in zip(ids, lengths, strict=True)]
            got.append(model.step(cache, rows, fed))
    for step, logits in enumerate(got):
        for index, length in enumerate(lengths):
            assert torch.equal(logits[index], expected[index, length - 1 + step])


def test_threads_and_switches_change_nothing() -> None:
    model, ids = exact_model("qwen2, 1041", "int8"), tokens(8, 40)
    expected, before = model.logits(ids), torch.get_num_threads()
    try:
        for count in (2, 3):
            torch.set_num_threads(count)
            assert torch.equal(model.logits(ids), expected)
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            assert torch.equal(model.logits(ids), expected)
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision("highest")


def test_a_row_of_the_cache_can_be_moved_and_used_again() -> None:
    model, ids = exact_model("llama, 1040", "int16"), tokens(2, 60)
    expected = model.logits(ids)
    cache = model.cache(3)
    model.prefill(cache, [2, 1], [ids[0, :50].tolist(), ids[1, :9].tolist()])
    cache.move(2, 0)
    assert cache.lengths == [50, 9, 0]
    assert torch.equal(model.step(cache, [0], [int(ids[0, 50])])[0], expected[0, 50])
    assert torch.equal(model.prefill(cache, [2], [ids[1, :30].tolist()])[0], expected[1, 29])


@pytest.mark.parametrize("limit", [1, 32767])
def test_extreme_weights_stay_exact(limit: int) -> None:
    """Every weight at plus or minus its limit: the largest sums a file can have."""
    file = exact_file("qwen2, 1041", "int8" if limit == 1 else "int16")
    generator = np.random.default_rng(1)
    top = 127 if limit == 1 else limit
    tensors = {
        name: (generator.choice([-top, top], tensor.shape).astype(tensor.dtype) if name.endswith("weight") else tensor)
        for name, tensor in file.tensors.items()
        if not name.startswith("embedding")
    }
    tensors |= {name: tensor for name, tensor in file.tensors.items() if name.startswith("embedding")}
    model = ExactModel(format.decode(format.encode(file.header, tensors)))
    ids = tokens(3, 20)
    with AllowList():
        expected = model.logits(ids)
    assert all(torch.equal(model.logits(ids[index : index + 1])[0], expected[index]) for index in range(3))


def overflowing() -> ExactModel:
    """Return a model whose attention adds far more to the residual stream than it can hold."""
    made = source("exact_plain_int16", SHAPES["exact_plain_int16"])
    made.matrices["layers.0.out"] = made.matrices["layers.0.out"] * 2.0**22
    return ExactModel(format.decode(format.encode(*quantise.convert(made, "int16"))))


def test_saturation_raises_and_leaves_the_cache_as_it_was() -> None:
    model = overflowing()
    cache = model.cache(2)
    with pytest.raises(ExactRangeError) as caught:
        model.prefill(cache, [0, 1], [[1, 2, 3, 4], [5]], chunk_tokens=2)
    assert set(caught.value.rows) <= {0, 1} and caught.value.rows
    assert caught.value.remedy
    assert cache.lengths == [0, 0]
    with pytest.raises(PredictorError):
        cache.truncate(0, 1)


def test_frequencies_follow_the_table_at_any_temperature() -> None:
    model = exact_model("llama, 1040", "int16")
    table = model.file.tensors["table.frequency"]
    logits = torch.tensor([[0, -1, -64, -1023, -1024, -(1 << 30)]] * 3)
    spec = [Temperature(), Temperature(7, 10), Temperature(3, 2)]
    got = model.frequencies(logits, spec)
    for row, temperature in zip(got.tolist(), spec, strict=True):
        a, b = temperature.numerator, temperature.denominator
        places = [min((2 * -value * b + a) // (2 * a), 1024) for value in logits[0].tolist()]
        assert row == table[places].tolist()
    assert torch.equal(got[0], model.frequencies(logits)[0])
    assert int(got.min()) == 1 and int(got.max()) == 1 << 24


def test_misuse_is_a_typed_error() -> None:
    model = exact_model("llama, 1040", "int16")
    cache = model.cache(2)
    for rows, prompts in (
        ([0, 0], [[1], [2]]),
        ([2], [[1]]),
        ([0], [[]]),
        ([0], [[101]]),
        ([0], [[-1]]),
        ([0], [[1] * 65]),
        ([], []),
    ):
        with pytest.raises(PredictorError):
            model.prefill(cache, rows, prompts)
    with pytest.raises(PredictorError):
        model.cache(0)


def test_a_folder_is_converted_and_reported(tmp_path: Path) -> None:
    float_model("neox, sequential, tanh").save_pretrained(tmp_path / "model")
    report = quantise.quantise(tmp_path / "model", tmp_path, context_tokens=32, source_fingerprint="abc")
    file = format.read(tmp_path)
    assert file.architecture.context_tokens == 32
    assert file.header["source"]["fingerprint"] == "abc"
    assert report.fingerprint == file.fingerprint
    assert report.file_bytes == (tmp_path / format.FILE_NAME).stat().st_size
    assert report.to_dict()["kl_nats_per_token"] < KL_MAX["int16"]


def llama(**options: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**BASE, "intermediate_size": 30, **options})).eval()


def test_what_has_no_exact_form_is_refused(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 16}
    window = MistralForCausalLM(MistralConfig(**BASE, intermediate_size=30, sliding_window=32)).eval()
    for model, context, what in (
        (window, 33, "window"),
        (llama(), 65, "context"),
        (llama(hidden_act="tanh"), 64, "activation"),
        (llama(rope_parameters=dynamic), 64, "RoPE"),
    ):
        with pytest.raises(ExactConversionError, match=what):
            sources.extract(model, context)
    assert sources.extract(window, 32).architecture.context_tokens == 32
    assert sources.extract(llama(rope_parameters=dynamic), 16).architecture.context_tokens == 16
    with pytest.raises(ExactConversionError, match="config"):
        sources.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExactConversionError, match="loaded"):
        sources.load(tmp_path)
    with pytest.raises(ExactConversionError, match="profile"):
        quantise.convert(sources.extract(llama(), 8), "int4")


@pytest.mark.parametrize("factor", [2.0**30, np.inf, np.nan])
@pytest.mark.parametrize("name", ["layers.0.qkv", "layers.0.mlp", "layers.0.down", "embedding"])
def test_weights_too_large_are_refused(name: str, factor: float) -> None:
    made = source("exact_gated_int8", SHAPES["exact_gated_int8"])
    made.matrices[name] = np.where(made.matrices[name] > 0, factor, -1.0)
    with pytest.raises(ExactError):
        ExactModel(format.decode(format.encode(*quantise.convert(made, "int8"))))


def test_rows_and_gains_of_zero_are_served() -> None:
    made = source("exact_gated_int8", SHAPES["exact_gated_int8"])
    made.matrices["embedding"][3] = 0
    made.matrices["layers.0.mlp"][:] = 0
    made.gains["layers.1.attention_norm"][:] = 0
    for profile in ("int16", "int8"):
        model = ExactModel(format.decode(format.encode(*quantise.convert(made, profile))))
        ids = torch.tensor([[3, 3, 4, 5]])
        with AllowList():
            assert model.logits(ids).shape == (1, 4, 61)
