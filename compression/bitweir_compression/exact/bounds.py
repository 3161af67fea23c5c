"""Static bounds: how large the outputs of a model's linear layers can become, whatever the input.

Rules:
1. A row after a norm has a Euclidean length of at most 1 before the gain (Cauchy-Schwarz), so an output is bounded by
   the length of its gained weights, plus what rounding the row to integers can add, plus the biases.
2. The bounds are float64 with a margin of a percent. They decide whether a file is accepted and which exponents a
   converter picks; they never enter a computed value.
3. What is not bounded by weights is the residual stream; the model checks it at every norm.

A loader calls `check_file` before it computes; docs/reference/exact-format.md, section 5, lists the same conditions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitweir_compression.exact import schema
from bitweir_compression.exact.errors import ExactFormatError
from bitweir_compression.exact.format import ExactFile, Tensor

MARGIN = 1.01
_ROWS_AT_ONCE = 4096

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RowBound:
    """What is known of an input row: its largest magnitude, and its step as an exponent."""

    largest: float
    exponent: int


@dataclass(frozen=True)
class LinearPlan:
    """Constants of one linear layer.

    Attributes:
        shift: output = y * scale shifted right by shift - s, where s is the row's own shift.
        left_max: how far that can be a left shift.
        sum_max: bound of |y * scale|.
        folds: whether weights * scale can be carried in the product itself.
    """

    shift: int
    left_max: int
    sum_max: int
    folds: bool


def norm_bound(file: ExactFile, name: str) -> RowBound:
    """Bound the output of a norm."""
    exponent = norm_exponent(file.header, name)
    largest = float(np.abs(file.tensors[name + ".gain"]).max()) * 2.0**schema.NORM_BITS
    if name + ".bias" in file.tensors:
        largest += float(np.abs(file.tensors[name + ".bias"]).max())
    return RowBound(largest * MARGIN / 2.0**exponent, exponent)


def norm_exponent(header: Mapping[str, Any], name: str) -> int:
    """Return the exponent of a norm's output: 24 for the unit row, and the gain's."""
    return schema.NORM_BITS + int(header["norms"][name]["exponent"])


def after_norm(file: ExactFile, linear: str, norm: str) -> Floats:
    """Bound |output| of each row of a linear layer fed by a norm, in units of 1: float64 [outputs]."""
    tensors, header = file.tensors, file.header
    gain = tensors[norm + ".gain"].astype(np.float64) / 2.0 ** header["norms"][norm]["exponent"]
    exponent = norm_exponent(header, norm)
    offset = tensors[norm + ".bias"].astype(np.float64) / 2.0**exponent if norm + ".bias" in tensors else None
    # Rounding a row moves each value by half a step, and half a step is at most the maximum over the limit.
    step = norm_bound(file, norm).largest / input_limit(file, linear)
    bias = tensors.get(linear + ".bias")
    result = []
    for start, weights in _weights(file, linear):
        bound = np.sqrt(((weights * gain) ** 2).sum(-1))
        bound += np.abs(weights).sum(-1) * step
        if offset is not None:
            bound += np.abs(weights @ offset)
        if bias is not None:
            part = bias[start : start + len(weights)].astype(np.float64)
            bound += np.abs(part) / 2.0**schema.HIDDEN_EXPONENT
        result.append(bound)
    return np.concatenate(result) * MARGIN


def input_limit(file: ExactFile, linear: str) -> int:
    """Return the largest integer a linear layer's input rows are rounded to."""
    return schema.ACTIVATION_MAX[linear_profile(file, linear), file.header["linears"][linear]["digits"]]


def linear_profile(file: ExactFile, linear: str) -> str:
    """Return `int16` or `int8`: the embedding, also as a tied head, is int16 in either profile."""
    return "int16" if linear == "embedding" else file.profile


def linear_plan(file: ExactFile, linear: str, row: RowBound, out_exponent: int) -> LinearPlan:
    """Return a linear layer's constants.

    Raises:
        ExactFormatError: an output can need a left shift that leaves 60 bits.
    """
    header = file.header["linears"][linear]
    profile = linear_profile(file, linear)
    weight, scale = file.tensors[linear + ".weight"], file.tensors[linear + ".scale"]
    limit = schema.ACTIVATION_MAX[profile, header["digits"]]
    sum_max = weight.shape[1] * limit * schema.WEIGHT_MAX[profile] * int(scale.max())
    shift = row.exponent + header["exponent"] - out_exponent
    largest = int(row.largest * 2.0**row.exponent).bit_length()
    left_max = max(0, largest + 1 - limit.bit_length() - shift)
    if sum_max.bit_length() + left_max > schema.SUM_BITS:
        raise _too_large(linear, "its sums can leave 60 bits")
    folds = profile == "int16" and sum_max <= 1 << schema.CARRIER_BITS
    return LinearPlan(shift, left_max, sum_max, folds)


def query_key_bounds(file: ExactFile, index: int) -> tuple[float, float, float]:
    """Bound |query|, |key| after RoPE and |value| of a layer, in units of 1; checks the values before RoPE.

    Raises:
        ExactFormatError: a value before RoPE can leave 34 bits.
    """
    shape, layer = file.architecture, f"layers.{index}."
    every = after_norm(file, layer + "qkv", layer + "attention_norm")
    if every.max() * 2.0**schema.HIDDEN_EXPONENT > 2.0**schema.HEAD_BITS:
        raise _too_large(layer + "qkv", "queries, keys or values can leave 34 bits")
    query, key, value = np.split(every, [shape.query_size, shape.query_size + shape.kv_size])
    bounds = [float(query.max()), float(key.max())]
    if shape.head_norm:
        bounds = [norm_bound(file, layer + name).largest for name in ("query_norm", "key_norm")]
        if max(bounds) * 2.0**schema.HIDDEN_EXPONENT > 2.0**schema.HEAD_BITS:
            raise _too_large(layer + "query_norm", "normalised queries or keys can leave 34 bits")
    cosine, sine = (file.tensors[name].astype(np.float64) for name in ("rope.cos", "rope.sin"))
    turn = float((np.abs(cosine) + np.abs(sine)).max()) / 2.0**schema.ROPE_EXPONENT
    grown = MARGIN * max(1.0, turn)
    return bounds[0] * grown, bounds[1] * grown, float(value.max())


def mlp_bounds(file: ExactFile, index: int) -> RowBound:
    """Bound what the down projection reads.

    Raises:
        ExactFormatError: the inner values can leave 30 bits.
    """
    shape, layer = file.architecture, f"layers.{index}."
    every = after_norm(file, layer + "mlp", layer + "mlp_norm")
    if every.max() * 2.0**schema.HIDDEN_EXPONENT > 2.0**schema.MLP_BITS:
        raise _too_large(layer + "mlp", "inner values can leave 30 bits")
    if not shape.gated_mlp:
        return RowBound(float(every.max()) + 1, schema.HIDDEN_EXPONENT)
    gate, up = np.split(every, 2)
    return RowBound((float(gate.max()) + 1) * float(up.max()), 2 * schema.HIDDEN_EXPONENT)


def check_file(file: ExactFile) -> None:
    """Check every bound that follows from the weights alone.

    Raises:
        ExactFormatError: one does not hold.
    """
    shape = file.architecture
    embedding = file.header["linears"]["embedding"]["exponent"]
    largest = schema.WEIGHT_MAX["int16"] * int(file.tensors["embedding.scale"].max())
    if largest * 2.0 ** (schema.RESIDUAL_EXPONENT - embedding) > 2.0**schema.RESIDUAL_BITS:
        raise _too_large("embedding", "it can leave 40 bits")
    for index in range(shape.layer_count):
        exponents = file.header["layers"][index]
        query, key, value = query_key_bounds(file, index)
        if query * 2.0 ** exponents["query_exponent"] > 2.0**schema.QUERY_BITS:
            raise _too_large(f"layers.{index}.qkv", "queries can leave 22 bits")
        if key * 2.0 ** exponents["key_exponent"] > 2.0**schema.QUERY_BITS:
            raise _too_large(f"layers.{index}.qkv", "keys can leave 22 bits")
        if value * 2.0 ** exponents["value_exponent"] > 2.0**schema.VALUE_BITS:
            raise _too_large(f"layers.{index}.qkv", "values can leave 19 bits")
        mlp_bounds(file, index)
    head = "embedding" if shape.tied else "head"
    if after_norm(file, head, "final_norm").max() * 2.0**schema.LOGIT_EXPONENT > 2.0**schema.LOGIT_BITS:
        raise _too_large(head, "logits can leave 30 bits")


def _weights(file: ExactFile, linear: str) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, weights in units of 1) in blocks of rows."""
    weight: Tensor = file.tensors[linear + ".weight"]
    scale = file.tensors[linear + ".scale"].astype(np.float64) / 2.0 ** file.header["linears"][linear]["exponent"]
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield start, weight[rows].astype(np.float64) * scale[rows, None]


def _too_large(name: str, what: str) -> ExactFormatError:
    return ExactFormatError(f"{name} is too large: {what}", remedy="this model cannot be served exactly")
