"""The tables a file ships: exp, activation and RoPE, made once at conversion and never again.

A table entry near a tie may differ if another machine's mathematical library makes it, so nobody but a converter calls
this. What decides is the file.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bitweir_compression.exact import schema
from bitweir_compression.exact.errors import ExactConversionError
from bitweir_compression.exact.format import Tensor


def softmax_table() -> Tensor:
    """round(2**20 * exp(-k / 1024)), k = 0..15360, 0 at the end: int32."""
    top, steps = 1 << schema.SOFTMAX_BITS, 1 << schema.SCORE_EXPONENT
    values = [round(top * math.exp(-k / steps)) for k in range(schema.SOFTMAX_ENTRIES)]
    values[-1] = 0
    return np.array(values, dtype=np.int32)


def frequency_table() -> Tensor:
    """max(1, round(2**24 * exp(-k / 64))), k = 0..1024, 1 at the end: int32."""
    top, steps = 1 << schema.FREQUENCY_BITS, 1 << schema.LOGIT_EXPONENT
    values = [max(1, round(top * math.exp(-k / steps))) for k in range(schema.FREQUENCY_ENTRIES)]
    values[-1] = 1
    return np.array(values, dtype=np.int32)


def _silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _relu(x: float) -> float:
    return max(x, 0.0)


# All of these satisfy f(x) - f(-x) = x, which is why one table of f(u) - u for u >= 0 is enough.
_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "silu": _silu,
}


def activation_table(name: str) -> Tensor:
    """round(2**16 * (f(u) - u)) at u = k / 1024, k = 0..16384, 0 at the end: int32.

    f(x) = max(x, 0) + table(|x|) for either sign of x, exactly, because f(x) - f(-x) = x.
    """
    function, steps = _FUNCTIONS[name], 1 << schema.ACTIVATION_EXPONENT
    values = [
        round((function(k / steps) - k / steps) * (1 << schema.HIDDEN_EXPONENT))
        for k in range(schema.ACTIVATION_ENTRIES)
    ]
    values[-1] = 0
    return np.array(values, dtype=np.int32)


def rope_tables(rotary: Any, context_tokens: int, rotary_size: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines with exponent 24, int32 [context, rotary_size / 2], from a model's own rotary module.

    Args:
        rotary: the Hugging Face module, called as `rotary(x, position_ids)`; its attention scaling is in the values.
        context_tokens: positions 0..context_tokens-1.
        rotary_size: dimensions of a head that are turned.

    Raises:
        ExactConversionError: the module turns another number of dimensions, or scales by more than 2.
    """
    positions = torch.arange(context_tokens)[None]
    like = torch.zeros(1, dtype=torch.float64)
    tables = []
    for values in rotary(like, positions):
        half = values[0, :, : rotary_size // 2].double().numpy()
        if values.shape[-1] != rotary_size or np.abs(half).max() > 2:
            raise ExactConversionError("the rotary embedding is of an unknown kind", remedy="use a supported family")
        tables.append(np.rint(half * (1 << schema.ROPE_EXPONENT)).astype(np.int32))
    return tables[0], tables[1]
