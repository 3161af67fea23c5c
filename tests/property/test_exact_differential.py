"""The exact model against the oracle written from the specification alone: zero differing integers, for every family.

The frozen vectors hold both to two files; here they meet on shapes and temperatures the vectors do not reach.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.exact import format
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.quantise import convert
from bitweir_compression.exact.reference import ReferenceModel, load
from bitweir_compression.exact.schema import Architecture
from bitweir_compression.exact.temperature import Temperature
from tests.vectors.make_exact import SHAPES, source

BASE = next(iter(SHAPES.values())).__dict__ | {"vocabulary_size": 37, "layer_count": 2, "context_tokens": 16}
# What the vectors lack: centring over a power of two, parallel with RMSNorm, sequential with LayerNorm, tied int8.
VARIANTS: dict[str, tuple[str, dict]] = {
    "parallel, RMSNorm": ("int16", {"parallel_residual": True, "centred_norm": False, "norm_bias": False}),
    "sequential, LayerNorm, n = 16": (
        "int16",
        {"parallel_residual": False, "centred_norm": True, "norm_bias": True, "hidden_size": 16, "mlp_size": 20},
    ),
    "head norms under LayerNorm": (
        "int16",
        {"centred_norm": True, "head_norm": True, "head_size": 8, "rotary_size": 6},
    ),
    "tied, int8": ("int8", {"tied": True, "gated_mlp": True, "mlp_size": 1100}),
    "one head": ("int8", {"head_count": 1, "kv_head_count": 1, "head_size": 4, "rotary_size": 2, "tied": False}),
}


@functools.cache
def both(name: str, folder: str) -> tuple[ExactModel, ReferenceModel]:
    """Write one file and open it with both."""
    profile, changes = VARIANTS[name]
    header, tensors = convert(source(name, Architecture(**{**BASE, **changes})), profile)
    path = Path(folder) / f"{sorted(VARIANTS).index(name)}.safetensors"
    path.write_bytes(format.encode(header, tensors))
    return ExactModel(path), load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("exact"))


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=8)
@given(
    tokens=st.lists(st.integers(0, 36), min_size=1, max_size=10),
    numerator=st.sampled_from([1, 2, 4, 7, 3, 10]),
    denominator=st.sampled_from([1, 3, 10, 2]),
)
def test_no_integer_differs(folder: str, name: str, tokens: list, numerator: int, denominator: int) -> None:
    production, oracle = both(name, folder)
    expected = oracle.logits(tokens)
    logits = production.logits(torch.tensor([tokens]))[0]
    assert np.array_equal(logits.numpy(), expected)
    temperature = Temperature(numerator, denominator)
    frequencies = production.frequencies(logits, [temperature] * len(tokens))
    assert np.array_equal(frequencies.numpy(), oracle.frequencies(expected, numerator, denominator))
