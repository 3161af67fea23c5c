"""The pieces a layer is made of, each a short run of arithmetic.py: norm, linear, rotation, attention, activation.

Rules:
1. A piece takes and returns int64, and knows its input's and output's exponent when it is built.
2. Rows are tokens. No piece mixes rows except attention, which mixes the keys and values of one sequence.

docs/reference/exact-format.md, section 4, changes together with this file.
"""

import torch

from bitweir_compression.exact import arithmetic, bounds, schema
from bitweir_compression.exact.bounds import RowBound
from bitweir_compression.exact.format import ExactFile

_NEVER = -(1 << 60)


def to_device(file: ExactFile, name: str, device: torch.device, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return a tensor of the file; the dtype must hold its integers exactly."""
    return torch.tensor(file.tensors[name], dtype=dtype, device=device)


class Norm:
    """RMSNorm or LayerNorm: x / sqrt(mean square + epsilon) * gain + bias, with the exponent the file states."""

    def __init__(self, file: ExactFile, name: str, device: torch.device, *, is_centred: bool) -> None:
        self.exponent = bounds.norm_exponent(file.header, name)
        self.bound = bounds.norm_bound(file, name)
        self._epsilon = int(file.header["norms"][name]["epsilon"])
        self._gain = to_device(file, name + ".gain", device)
        self._bias = to_device(file, name + ".bias", device) if name + ".bias" in file.tensors else None
        self._is_centred = is_centred

    def __call__(self, value: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
        """Return the normalised rows: int64 [..., n]; `maximum` is `row_max(value)`, at most 2**40."""
        if self._is_centred:
            value = arithmetic.centred(value)
            maximum = arithmetic.row_max(value)
        result = arithmetic.unit_rows(value, maximum, self._epsilon) * self._gain
        return result if self._bias is None else result + self._bias


class Linear:
    """A linear layer: rows are rounded to integers, multiplied, and brought to the output's exponent."""

    def __init__(self, file: ExactFile, name: str, device: torch.device, row: RowBound, out_exponent: int) -> None:
        profile = bounds.linear_profile(file, name)
        self._digits = int(file.header["linears"][name]["digits"])
        self._limit = schema.ACTIVATION_MAX[profile, self._digits]
        self._plan = bounds.linear_plan(file, name, row, out_exponent)
        self._dtype = torch.float64 if profile == "int16" else torch.float32
        weight = to_device(file, name + ".weight", device)
        scale = to_device(file, name + ".scale", device)
        self._scale = None if self._plan.folds else scale
        if self._plan.folds:
            weight = weight * scale[:, None]
        self._weight = weight.to(self._dtype).t()
        self._bias = to_device(file, name + ".bias", device) if name + ".bias" in file.tensors else None

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return int64 [N, outputs] of int64 [N, inputs]."""
        rounded, shift = arithmetic.quantise_rows(value, self._limit)
        total = self._product(rounded)
        if self._scale is not None:
            total *= self._scale
        result = arithmetic.rescale_rows(total, self._plan.shift - shift, self._plan.left_max)
        return result if self._bias is None else result.add_(self._bias)

    def _product(self, rounded: torch.Tensor) -> torch.Tensor:
        if self._dtype == torch.float64:
            return arithmetic.product64(rounded.to(torch.float64), self._weight)
        if self._digits == 1:
            return arithmetic.product32(rounded.to(torch.float32), self._weight)
        high, low = arithmetic.digits(rounded)
        both = arithmetic.product32(torch.cat([high, low]).to(torch.float32), self._weight)
        return torch.bitwise_left_shift(both[: len(rounded)], 7) + both[len(rounded) :]


class Rotation:
    """RoPE: the pairs (x[i], x[i + r/2]) of each head are turned by the shipped cosines and sines."""

    def __init__(self, file: ExactFile, device: torch.device) -> None:
        self._half = file.architecture.rotary_size // 2
        self._cosine = to_device(file, "rope.cos", device)
        self._sine = to_device(file, "rope.sin", device)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of int64 positions [N]: [N, 1, r/2]."""
        return self._cosine.index_select(0, positions)[:, None], self._sine.index_select(0, positions)[:, None]

    def __call__(self, heads: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return int64 [N, heads, size] with 24 more fractional bits. Bound: 2 * 2**34 * 2**25 = 2**60."""
        cosine, sine = turn
        first, second = heads[..., : self._half], heads[..., self._half : 2 * self._half]
        parts = [first * cosine - second * sine, second * cosine + first * sine]
        if heads.shape[-1] > 2 * self._half:
            parts.append(torch.bitwise_left_shift(heads[..., 2 * self._half :], schema.ROPE_EXPONENT))
        return torch.cat(parts, dim=-1)


class Activation:
    """max(x, 0) + table(|x|), |x| rounded to the table's 1/1024; values with exponent 16."""

    def __init__(self, file: ExactFile, device: torch.device) -> None:
        self._table = to_device(file, "table.activation", device)

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return int64 of the same shape. Bound: |x| <= 2**30."""
        index = arithmetic.shift_right(value.abs(), schema.HIDDEN_EXPONENT - schema.ACTIVATION_EXPONENT)
        return value.clamp(min=0) + arithmetic.look_up(self._table, index)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: torch.Tensor | None,
    *,
    table: torch.Tensor,
    score_shift: int,
) -> torch.Tensor:
    """Return softmax(query . keys) . values with 8 more fractional bits than the values: int64 [n, kv, q, size].

    Scores are rounded to 2**-10 nats, weights are table(max - score) and stay unnormalised, and one integer division
    ends it. Masked keys get weight 0 by a score far below the cut.

    Args:
        query: int64 [n, kv heads, q, size], at most 2**22; 1/sqrt(size) is in the weights.
        keys: float64 integers [n, kv heads, width, size], at most 2**22.
        values: the same, at most 2**19.
        visible: bool [n, 1, q, width], or None where every key is; at least one key of a row is.
        table: the softmax table, int64.
        score_shift: exponents of query and key together, less 10.

    Bounds: 512 * 2**22 * 2**22 = 2**53; weights add up to at most 2**14 * 2**20 = 2**34, times 2**19 = 2**53.
    """
    count, heads, width = query.shape[0], query.shape[1], keys.shape[2]
    size = query.shape[3]
    flat = query.reshape(count * heads, -1, size).to(torch.float64)
    scores = arithmetic.product64(flat, keys.reshape(count * heads, width, size).transpose(1, 2))
    scores = arithmetic.shift_right(scores, score_shift).view(count, heads, -1, width)
    if visible is not None:
        scores = torch.where(visible, scores, _NEVER)
    weights = arithmetic.look_up(table, scores.amax(dim=-1, keepdim=True) - scores)
    total = weights.sum(dim=-1, keepdim=True)
    carried = weights.view(count * heads, -1, width).to(torch.float64)
    sums = arithmetic.product64(carried, values.reshape(count * heads, width, size))
    return arithmetic.divide(sums.view(count, heads, -1, size), total)
