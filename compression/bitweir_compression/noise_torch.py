"""The seeded noise of `noise.py` on torch devices: the same integers from CPU and CUDA kernels. Imports torch.

`noise.py` is the definition; this file must change with it. torch has no unsigned 64-bit arithmetic, so words are int64
holding the same 64 bits: additions and multiplications wrap, and right shifts are masked to be logical. No operation
here rounds: float64 appears only to read the exponent of integers below 2**53.
"""

import functools
from collections.abc import Sequence

import torch

from bitweir_compression import noise
from bitweir_compression.errors import NoiseError

# Philox4x64 multipliers and key increments (Salmon et al., SC 2011, table 2 and section 3.2).
_MULTIPLIER = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW_32 = 0xFFFFFFFF


def words(keys: Sequence[noise.PositionKey], vocabulary_size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the words of tokens 0..V-1 for several positions: int64 [len(keys), V], bit for bit `noise.words`."""
    if not 0 < vocabulary_size <= noise.VOCABULARY_LIMIT:
        raise NoiseError(f"vocabulary of {vocabulary_size} tokens", remedy=f"use 1 to {noise.VOCABULARY_LIMIT} tokens")
    block_count = -(-vocabulary_size // 4)
    key = torch.tensor([[_signed(k) for k in pair] for pair in keys], dtype=torch.int64, device=device).reshape(-1, 2)
    key_0, key_1 = key[:, :1], key[:, 1:]
    zero = torch.zeros((len(keys), block_count), dtype=torch.int64, device=device)
    counter = (zero + torch.arange(1, block_count + 1, dtype=torch.int64, device=device), zero, zero, zero)
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(_MULTIPLIER[0], counter[0])
        high_1, low_1 = _multiply(_MULTIPLIER[1], counter[2])
        counter = (high_1 ^ counter[1] ^ key_0, low_1, high_0 ^ counter[3] ^ key_1, low_0)
        key_0, key_1 = key_0 + _signed(_WEYL[0]), key_1 + _signed(_WEYL[1])
    return torch.stack(counter, dim=-1).reshape(len(keys), 4 * block_count)[:, :vocabulary_size]


def gumbel(word: torch.Tensor) -> torch.Tensor:
    """Return the noise of each word in units of 2**-24 bits: int64, the shape of `word`; bit for bit `noise.gumbel`."""
    bits, fraction_bits = noise.UNIFORM_BITS, noise.TABLE_FRACTION_BITS
    numerator = ((word >> (noise.WORD_SHIFT - 1)) & ((1 << (bits + 1)) - 1)) | 1
    small = numerator < 1 << bits
    folded = torch.where(small, numerator, (1 << (bits + 1)) - numerator)
    log2_folded = _log2(folded) - ((bits + 1) << fraction_bits)
    winners = -log2_folded - _interpolate(_curvature_table(word.device), folded, bits)
    length = torch.where(small, 1 << fraction_bits, -log2_folded)
    losers = (fraction_bits << fraction_bits) - _log2(length)
    shift = fraction_bits - noise.FRACTION_BITS
    return (torch.where(small, winners, losers) + (1 << (shift - 1))) >> shift


def choose(scores: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    """Return argmax(scores + gumbel(word)) of each row, lowest id on a tie: int64 [n].

    Args:
        scores: int64 [n, V], `noise.NEVER` where a token is excluded.
        word: int64 [n, V].

    Raises:
        NoiseError: a row excludes every token.
    """
    if bool((scores.amax(dim=-1) <= noise.NEVER).any()):
        raise NoiseError("every token is excluded", remedy="loosen the sampling specification")
    totals = scores + gumbel(word)
    # torch.argmax promises no order among ties; the lowest index holding the maximum does.
    ids = torch.arange(totals.shape[-1], device=totals.device).expand_as(totals)
    is_best = totals == totals.amax(dim=-1, keepdim=True)
    return torch.where(is_best, ids, totals.shape[-1]).amin(dim=-1)


def _signed(value: int) -> int:
    """Return the int64 that holds the bits of a uint64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _multiply(constant: int, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and low 64 bits of constant * value, both read as unsigned, from four 32-bit products."""
    constant_high, constant_low = constant >> 32, constant & _LOW_32
    value_high, value_low = (value >> 32) & _LOW_32, value & _LOW_32
    low_low = value_low * constant_low
    high_low = value_high * constant_low
    low_high = value_low * constant_high
    middle = ((low_low >> 32) & _LOW_32) + (high_low & _LOW_32) + (low_high & _LOW_32)
    carry = ((high_low >> 32) & _LOW_32) + ((low_high >> 32) & _LOW_32) + (middle >> 32)
    return value_high * constant_high + carry, value * _signed(constant)


def _log2(value: torch.Tensor) -> torch.Tensor:
    bits = value.to(torch.float64).view(torch.int64)
    fraction = bits & ((1 << 52) - 1)
    whole = ((bits >> 52) - 1023) << noise.TABLE_FRACTION_BITS
    return whole + _interpolate(_log2_table(value.device), fraction, 52)


def _interpolate(table: torch.Tensor, value: torch.Tensor, value_bits: int) -> torch.Tensor:
    step_bits = value_bits - noise.TABLE_INDEX_BITS
    index = value >> step_bits
    part = (value & ((1 << step_bits) - 1)) >> (step_bits - 28)
    low = table[index]
    return low + (((table[index + 1] - low) * part) >> 28)


@functools.cache
def _log2_table(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(noise.log2_table()).to(device)


@functools.cache
def _curvature_table(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(noise.curvature_table()).to(device)
