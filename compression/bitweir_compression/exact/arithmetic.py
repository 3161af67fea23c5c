"""The few operations of the exact model. Everything is int64 but the carrier of a matrix product.

Rules:
1. A value is an integer with a known exponent: integer n with exponent e means n * 2**-e.
2. Rounding is half-up everywhere: floor(x / 2**r + 1/2), so -1/2 rounds to 0 and -3/2 to -1. `>>` is an arithmetic
   shift, which is floor division by a power of two, negatives included.
3. A matrix product is carried in float64 where all partial sums are integers of at most 2**53, or in float32 where the
   operands are at most 127 and a chunk has at most 1040 products, so that all partial sums stay below 2**24. Such sums
   are exact in any order, with or without fused multiply-add, with operands rounded to TF32 or bfloat16 (which hold
   integers up to 256), so neither the kernel nor the batch size nor the thread count can show.
4. Maxima are free of order. Integer sums are free of order because nothing wraps: each docstring states the bound.
5. Only operations of allowlist.py are used: no float function, no float division, nothing fused.

docs/reference/exact-format.md, section 4, specifies the same and changes together with this file.
"""

import functools
import math

import torch

from bitweir_compression.exact.schema import CHUNK_INPUTS_MAX, NORM_BITS

# Shifts stay below the width of int64; a value under 2**60 shifted by this much is 0 after rounding.
SHIFT_MAX = 62
# Significant bits of the reciprocal root: R = floor(2**61 / floor(sqrt(V'))), 2**60 <= V' < 2**62.
_RECIPROCAL_BITS = 61
_ROOT_INDEX_SHIFT = 52


@functools.lru_cache(maxsize=8)
def _powers(device: torch.device) -> torch.Tensor:
    """2**0 .. 2**62: int64 [63]."""
    return torch.tensor([1 << bit for bit in range(63)], dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=32)
def _thresholds(device: torch.device, limit: int) -> torch.Tensor:
    """The least maximum that needs a shift of more than i, i = 0, 1, ...: int64, ascending, below 2**62."""
    count = SHIFT_MAX - limit.bit_length()
    values = [((limit + 1) << index) - ((1 << index) >> 1) for index in range(count)]
    return torch.tensor(values, dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=8)
def _root_seeds(device: torch.device) -> torch.Tensor:
    """An integer at or above the root of every V' with V' >> 52 = i, off by under 2**-9 of it: int64 [1024]."""
    seeds = [math.isqrt((index + 1) << _ROOT_INDEX_SHIFT) + 1 for index in range(1024)]
    return torch.tensor(seeds, dtype=torch.int64, device=device)


def bit_length(value: torch.Tensor) -> torch.Tensor:
    """Return the bits of non-negative integers, 0 for 0: how many powers of two it reaches. int64 in, out."""
    return torch.bucketize(value, _powers(value.device), right=True)


def row_max(value: torch.Tensor) -> torch.Tensor:
    """Return max |x| of each row: int64 [..., n] -> [..., 1]. Bound: |x| < 2**63."""
    return value.abs().amax(dim=-1, keepdim=True)


def shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Return floor(value / 2**bits + 1/2) for a constant 0 <= bits <= 62. Bound: |value| < 2**62."""
    if bits == 0:
        return value
    return (value + (1 << (bits - 1))).bitwise_right_shift_(bits)


def shift_rows(value: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return floor(value / 2**bits + 1/2) with bits given per row, 0 to 62: int64 [..., n], [..., 1] -> [..., n].

    Half of 2**0 is taken as 0, so a shift by nothing changes nothing. Bound: |value| <= 2**61.
    """
    half = torch.bitwise_left_shift(_powers(value.device)[0], bits).bitwise_right_shift_(1)
    return (value + half).bitwise_right_shift_(bits)


def rescale_rows(value: torch.Tensor, bits: torch.Tensor, left_max: int) -> torch.Tensor:
    """Shift right with rounding where bits > 0, left where bits < 0: value * 2**-bits. Works in place.

    Args:
        value: int64 [..., n], |value| <= 2**(60 - left_max).
        bits: int64 [..., 1]; above 62 counts as 62, which gives 0.
        left_max: the largest left shift that occurs; where it is 0 no left shift is made.
    """
    right = bits.clamp(0, SHIFT_MAX)
    if left_max > 0:
        value.bitwise_left_shift_(bits.neg().clamp(0, left_max))
    half = torch.bitwise_left_shift(_powers(value.device)[0], right).bitwise_right_shift_(1)
    return value.add_(half).bitwise_right_shift_(right)


def row_shift(maximum: torch.Tensor, limit: int) -> torch.Tensor:
    """Return the least s >= 0 with floor(maximum / 2**s + 1/2) <= limit: int64, the shape of `maximum`.

    Found by comparison: s is the number of thresholds, (limit + 1) * 2**i - floor(2**i / 2) for i = 0, 1, ..., that do
    not exceed the maximum. Bound: 0 <= maximum <= 2**61, 127 <= limit < 2**24.
    """
    return torch.bucketize(maximum, _thresholds(maximum.device, limit), right=True)


def quantise_rows(value: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to integers of at most `limit` in magnitude, with a power-of-two step from its own maximum.

    q = floor(x / 2**s + 1/2) with s = row_shift(max |x|, limit). The maximum depends neither on order nor on other
    rows. A negative extreme rounds to no more in magnitude than a positive one.

    Args:
        value: int64 [..., n], |value| <= 2**61.
        limit: 127, 16319 or 32767.

    Returns:
        q: int64 [..., n]; s: int64 [..., 1], value ~ q * 2**s.
    """
    shift = row_shift(row_max(value), limit)
    return shift_rows(value, shift), shift


def digits(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split integers into base-128 digits: value = 128 * high + low, -64 <= low <= 63.

    Bound: |value| <= 16319 = 127 * 128 + 63 gives |high| <= 127.
    """
    low = torch.bitwise_and(value + 64, 127) - 64
    return torch.bitwise_right_shift(value - low, 7), low


def product64(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right for integers carried in float64 as int64; 2 or 3 dimensions.

    Bound, the caller's to guarantee: K * max|left| * max|right| <= 2**53. Every partial sum is then an integer that
    float64 holds, whatever the order.
    """
    return torch.matmul(left, right).to(torch.int64)


def product32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right for integers of at most 127 in magnitude carried in float32, as int64: [n, K] @ [K, m].

    K is cut into chunks of at most 1040 products: 1040 * 127 * 127 = 16,774,160 < 2**24. The chunks' results are
    integers and are added in int64.
    """
    total = torch.mm(left[:, :CHUNK_INPUTS_MAX], right[:CHUNK_INPUTS_MAX]).to(torch.int64)
    for start in range(CHUNK_INPUTS_MAX, left.shape[1], CHUNK_INPUTS_MAX):
        chunk = slice(start, start + CHUNK_INPUTS_MAX)
        total = total + torch.mm(left[:, chunk], right[chunk]).to(torch.int64)
    return total


def root(value: torch.Tensor) -> torch.Tensor:
    """Return floor(sqrt(value)) exactly for 2**60 <= value < 2**62: int64.

    Newton's iteration in integers from a seed above the root: the error falls from 2**-9 to 2**-19 to under 2**-38 of
    the root, so after two steps the result is the floor or one above it, and one comparison settles which. No step can
    go below the floor. Bound: (2**31)**2 = 2**62.
    """
    estimate = _root_seeds(value.device)[torch.bitwise_right_shift(value, _ROOT_INDEX_SHIFT)]
    for _ in range(2):
        estimate = torch.bitwise_right_shift(estimate + torch.floor_divide(value, estimate), 1)
    return estimate - (estimate * estimate > value).to(torch.int64)


def unit_rows(value: torch.Tensor, maximum: torch.Tensor, epsilon: int) -> torch.Tensor:
    """Return value / sqrt(sum of squares + epsilon) of each row with exponent 24: the core of both norms.

    z = floor(value / 2**e + 1/2) with e = row_shift(max |value|, 2**24 - 1); V = sum z*z +
    floor(epsilon / 4**e + 1/2); V' = V * 4**j with 2**60 <= V' < 2**62; R = floor(2**61 / root(V')), within
    2**-29 of 2**61 / sqrt(V'); the result is floor(z * R / 2**(37 - j) + 1/2), at most 2**24 in magnitude.

    Args:
        value: int64 [..., n], n <= 8192, |value| <= 2**60.
        maximum: int64 [..., 1], `row_max(value)`.
        epsilon: 1 <= epsilon <= 2**60, in units of the square of value's step, times n.

    Bounds: sum z*z <= 2**13 * 2**48 = 2**61; V < 2**62; z * R <= 2**24 * 2**31 = 2**55.
    """
    coarse = row_shift(maximum, (1 << NORM_BITS) - 1)
    z = shift_rows(value, coarse)
    total = (z * z).sum(dim=-1, keepdim=True)
    smaller = shift_rows(torch.full_like(coarse, epsilon), (2 * coarse).clamp(max=SHIFT_MAX))
    total = total + smaller
    half_length = torch.bitwise_right_shift(SHIFT_MAX - bit_length(total), 1)
    reciprocal = torch.floor_divide(
        torch.full_like(total, 1 << _RECIPROCAL_BITS), root(torch.bitwise_left_shift(total, 2 * half_length))
    )
    return shift_rows(z * reciprocal, (_RECIPROCAL_BITS - NORM_BITS) - half_length)


def centred(value: torch.Tensor) -> torch.Tensor:
    """Return n*x - sum(x), divided by 2**floor(log2 n) with rounding: x minus its mean, times n / 2**floor(log2 n).

    Bound: |x| <= 2**40 and n <= 2**13 keep n*x and the sum below 2**54.
    """
    count = value.shape[-1]
    return shift_right(value * count - value.sum(dim=-1, keepdim=True), count.bit_length() - 1)


def divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return floor((2**8 * numerator + floor(denominator / 2)) / denominator): a quotient with 8 more bits, half-up.

    Bound: |numerator| <= 2**53 and 0 < denominator <= 2**34 keep the dividend below 2**62.
    """
    dividend = torch.bitwise_left_shift(numerator, 8) + torch.bitwise_right_shift(denominator, 1)
    return torch.floor_divide(dividend, denominator)


def look_up(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return table[min(index, last)] for index >= 0: an integer table, any shape of index."""
    clamped = index.clamp(max=table.shape[0] - 1)
    return table.index_select(0, clamped.flatten()).view(index.shape)
