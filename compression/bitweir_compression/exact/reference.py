"""An oracle for the exact weak model: what docs/reference/exact-format.md says, written by another hand.

It exists to be compared with the decoder that is used. It is slow on purpose: no cache, no batches, no chunks, no
carriers, one token's row after another.

Rules:
1. Written from the specification alone; nothing is shared with the decoder it checks, and there is no float here.
2. Values are Python's integers in object arrays, which cannot overflow. Only the sums of a linear layer are int64:
   at most 2^17 products below 2^30.
3. Every bound of the specification's section 5 is checked while running; a value outside is a `ReferenceRangeError`.
4. A function carries the number of the section it follows.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bitweir_compression.exact.reference_file import (
    ExactReferenceError,
    LayerExponents,
    ReferenceFile,
    ReferenceFormatError,
    Tensor,
    read_file,
)

__all__ = [
    "ExactReferenceError",
    "ReferenceFormatError",
    "ReferenceInputError",
    "ReferenceModel",
    "ReferenceRangeError",
    "load",
    "ratio_of",
]

# One-dimensional (Row) or two-dimensional (Rows) arrays of Python integers, and arrays of int64.
Row = npt.NDArray[np.object_]
Rows = npt.NDArray[np.object_]
Int64 = npt.NDArray[np.int64]
Shiftable = TypeVar("Shiftable", int, Row)

# Exponents and bits of section 3.1's `grids`.
NORM_BITS = 24
HIDDEN = 16
RESIDUAL = 20
ROPE = 24
SCORE = 10
LOGIT = 6
ATTENTION_EXTRA_BITS = 8
TEMPERATURE_PART_MAX = 10_000
TEMPERATURE_DENOMINATOR_MAX = 1000


class ReferenceInputError(ExactReferenceError):
    """Tokens, logits or a temperature that the specification gives no result for."""


class ReferenceRangeError(ExactReferenceError):
    """A residual stream above 2^40, or a value beyond a bound of section 5."""


def round_shift(value: Shiftable, bits: int) -> Shiftable:
    """Return value / 2^bits rounded to the nearest integer, ties up (1); a negative `bits` multiplies."""
    result: Shiftable = value << -bits if bits <= 0 else (value + (1 << (bits - 1))) >> bits
    return result


def largest(row: Row) -> int:
    """Return the largest magnitude."""
    magnitudes: list[int] = np.abs(row).ravel().tolist()
    return max(magnitudes)


def shift_for(magnitude: int, limit: int) -> int:
    """Return the least shift that takes a magnitude to at most `limit` (1)."""
    shift = 0
    while round_shift(magnitude, shift) > limit:
        shift += 1
    return shift


def bounded(row: Row, bits: int, quantity: str) -> Row:
    """Return the row, whose entries are at most 2^bits in magnitude (5)."""
    found = largest(row)
    if found > 1 << bits:
        raise ReferenceRangeError(
            f"{quantity}: {found.bit_length()} bits where section 5 allows 2^{bits}",
            remedy="do not use this file: its weights break the format's conditions for these tokens",
        )
    return row


def ratio_of(temperature: float) -> Fraction:
    """Return the ratio a decimal temperature stands for (4.9); raises ReferenceInputError."""
    try:
        ratio = Fraction(temperature).limit_denominator(TEMPERATURE_DENOMINATOR_MAX)
    except (ValueError, OverflowError, TypeError) as error:
        raise ReferenceInputError(f"temperature {temperature!r} is no number", remedy="give a positive one") from error
    check_temperature(ratio.numerator, ratio.denominator)
    return ratio


def check_temperature(numerator: int, denominator: int) -> None:
    """Refuse a ratio outside 4.9's limits."""
    for part in (numerator, denominator):
        if type(part) is not int or not 1 <= part <= TEMPERATURE_PART_MAX:
            raise ReferenceInputError(
                f"temperature {numerator!r}/{denominator!r}", remedy="give both parts as integers from 1 to 10000"
            )


@dataclass(frozen=True)
class Norm:
    """One norm (4.1): gains [n], biases [n] or None."""

    epsilon: int
    exponent: int
    gain: Row
    bias: Row | None
    centred: bool

    @property
    def output_exponent(self) -> int:
        """Return the exponent of what the norm gives."""
        return NORM_BITS + self.exponent

    def __call__(self, row: Row) -> Row:
        """Return the norm of a row [n] of any exponent, as a row [n] with `output_exponent`."""
        size = len(row)
        if self.centred:
            row = round_shift(bounded(size * row - sum(row), 54, "n * x - sum(x)"), size.bit_length() - 1)
        shift = shift_for(largest(row), (1 << 24) - 1)
        z = round_shift(row, shift)
        v = sum(value * value for value in z.tolist()) + round_shift(self.epsilon, min(2 * shift, 62))
        j = (62 - v.bit_length()) // 2
        reciprocal = (1 << 61) // isqrt(v << (2 * j))
        u = bounded(round_shift(z * reciprocal, 37 - j), 24, "u")
        result = u * self.gain if self.bias is None else u * self.gain + self.bias
        return bounded(result, 57, "u * gain + bias")


@dataclass(frozen=True)
class Linear:
    """One linear layer (4.2): weights [outputs, inputs] as stored, scales [outputs], biases [outputs] or None."""

    digits: int
    exponent: int
    weight: Tensor
    scale: Row
    bias: Row | None

    @property
    def limit(self) -> int:
        """Return the largest magnitude of a rounded input."""
        if self.weight.dtype.itemsize == 2:
            return 32767
        return 127 if self.digits == 1 else 16319

    def __call__(self, rows: Rows, exponent: int, wanted: int) -> Rows:
        """Return rows [n, outputs] with exponent `wanted`, of rows [n, inputs] with exponent `exponent`."""
        weight = self.weight.astype(np.int64)
        results = []
        for row in rows:
            s = shift_for(largest(row), self.limit)
            q = round_shift(row, s).astype(np.int64)
            product = bounded((weight @ q).astype(object) * self.scale, 60, "y * scale")
            shift = min(exponent + self.exponent - wanted - s, 62)
            result = bounded(round_shift(product, shift), 60, "y * scale times a left shift")
            results.append(result if self.bias is None else result + self.bias)
        return np.stack(results)


class ReferenceModel:
    """The exact weak model of one file. V is its vocabulary size, H its hidden size, D its head size."""

    def __init__(self, file: ReferenceFile) -> None:
        """Take a file that `load` has checked."""
        self.architecture = file.architecture
        self.fingerprint = file.fingerprint
        self._file = file
        self._softmax: list[int] = file.tensors["table.softmax"].tolist()
        self._activation: list[int] = file.tensors["table.activation"].tolist()
        self._frequency: list[int] = file.tensors["table.frequency"].tolist()

    def logits(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> Int64:
        """Return the logits after every token, int64 [n, V], in units of 1/64 nat.

        Args:
            tokens: n of them, each from 0 to V - 1; n is at most the file's `context_tokens`.

        Raises:
            ReferenceInputError: a token or a length the model has no result for.
            ReferenceRangeError: the residual stream left 2^40, or a bound of section 5 does not hold.
        """
        checked = self._checked_tokens(tokens)
        if not checked:
            return np.zeros((0, self.architecture.vocabulary_size), dtype=np.int64)
        x = np.stack([self._embedded(token) for token in checked])
        for index in range(self.architecture.layer_count):
            attended = self._attention(index, x)
            if self.architecture.parallel_residual:
                x = x + attended + self._mlp(index, x)
            else:
                x = x + attended
                x = x + self._mlp(index, x)
        normed, exponent = self._residual_norm("final_norm", x)
        head = self._linear("embedding" if self.architecture.tied else "head")
        return bounded(head(normed, exponent, LOGIT), 30, "logits").astype(np.int64)

    def frequencies(self, logits: Int64, numerator: int = 1, denominator: int = 1) -> Int64:
        """Return the weights of every token of the vocabulary, int64 [n, V], each 1 to 2^24 (4.9).

        Args:
            logits: integers [n, V] in units of 1/64 nat.
            numerator: P of the temperature P / Q, 1 to 10000.
            denominator: Q of the temperature P / Q, 1 to 10000.

        Raises:
            ReferenceInputError: a temperature outside these limits, or logits of another shape or kind.
        """
        check_temperature(numerator, denominator)
        logits = np.asarray(logits)
        shape = logits.shape
        if len(shape) != 2 or shape[1] != self.architecture.vocabulary_size or logits.dtype.kind != "i":
            raise ReferenceInputError(f"logits of shape {shape}", remedy="give integers [n, V], as logits() returns")
        rows = []
        for row in logits.tolist():
            top, weights = max(row), []
            for logit in row:
                difference = (2 * (top - logit) * denominator + numerator) // (2 * numerator)
                weights.append(self._frequency[min(difference, 1024)])
            rows.append(weights)
        return np.array(rows, dtype=np.int64).reshape(shape)

    def _checked_tokens(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> list[int]:
        """Return the tokens as Python integers."""
        try:
            checked = [operator.index(token) for token in tokens]
        except TypeError as error:
            raise ReferenceInputError(f"tokens are not integers: {error}", remedy="give token numbers") from error
        size, longest = self.architecture.vocabulary_size, self.architecture.context_tokens
        if len(checked) > longest or any(not 0 <= token < size for token in checked):
            raise ReferenceInputError(
                f"{len(checked)} tokens, not all within the vocabulary or the context",
                remedy=f"give at most {longest} tokens, each from 0 to {size - 1}",
            )
        return checked

    def _numbers(self, name: str) -> Row:
        """Return a one-dimensional tensor as Python integers."""
        return self._file.tensors[name].astype(object)

    def _bias(self, name: str) -> Row | None:
        """Return the bias of a norm or a linear layer, if it has one."""
        return self._numbers(f"{name}.bias") if f"{name}.bias" in self._file.tensors else None

    def _linear(self, name: str) -> Linear:
        """Return one linear layer."""
        numbers = self._file.linears[name]
        weight, scale = self._file.tensors[f"{name}.weight"], self._numbers(f"{name}.scale")
        return Linear(numbers.digits, numbers.exponent, weight, scale, self._bias(name))

    def _norm(self, name: str, centred: bool) -> Norm:
        """Return one norm."""
        numbers = self._file.norms[name]
        return Norm(numbers.epsilon, numbers.exponent, self._numbers(f"{name}.gain"), self._bias(name), centred)

    def _embedded(self, token: int) -> Row:
        """Return the residual stream [H], exponent 20, a token starts with (4.4)."""
        weight = self._file.tensors["embedding.weight"][token].astype(object)
        scale = int(self._file.tensors["embedding.scale"][token])
        return round_shift(weight * scale, self._file.linears["embedding"].exponent - RESIDUAL)

    def _residual_norm(self, name: str, x: Rows) -> tuple[Rows, int]:
        """Return the norm of the residual stream [n, H] and its exponent, after the check of 4.5."""
        norm = self._norm(name, self.architecture.centred_norm)
        return np.stack([norm(bounded(row, 40, "residual stream")) for row in x]), norm.output_exponent

    def _heads(self, index: int, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """Return query, key and value heads [n, A or B, D] as attention multiplies them (4.6, steps 1 to 4)."""
        a, exponents = self.architecture, self._file.layers[index]
        split = bounded(rows, 34, "heads before RoPE").reshape(len(rows), -1, a.head_size)
        queries, keys = split[:, : a.head_count], split[:, a.head_count : a.head_count + a.kv_head_count]
        values = split[:, a.head_count + a.kv_head_count :]
        if a.head_norm:
            queries = self._normed_heads(f"layers.{index}.query_norm", queries)
            keys = self._normed_heads(f"layers.{index}.key_norm", keys)
        turned_queries, turned_keys = self._turned(queries), self._turned(keys)
        return (
            bounded(round_shift(turned_queries, HIDDEN + ROPE - exponents.query), 22, "queries"),
            bounded(round_shift(turned_keys, HIDDEN + ROPE - exponents.key), 22, "keys"),
            bounded(round_shift(values, HIDDEN - exponents.value), 19, "values"),
        )

    def _normed_heads(self, name: str, heads: Rows) -> Rows:
        """Return heads [n, heads, D], exponent 16, each normed on its own (4.6, step 2)."""
        norm = self._norm(name, centred=False)
        result = np.empty_like(heads)
        for place in np.ndindex(heads.shape[:2]):
            result[place] = round_shift(norm(heads[place]), norm.output_exponent - HIDDEN)
        return bounded(result, 34, "normalised heads")

    def _turned(self, heads: Rows) -> Rows:
        """Return heads [n, heads, D], exponent 40, turned by their positions (4.6, step 3)."""
        half = self.architecture.rotary_size // 2
        turned = heads << ROPE
        for position, head in np.ndindex(heads.shape[:2]):
            c = self._file.tensors["rope.cos"][position].astype(object)
            d = self._file.tensors["rope.sin"][position].astype(object)
            f, g = heads[position, head, :half], heads[position, head, half : 2 * half]
            turned[position, head, :half] = f * c - g * d
            turned[position, head, half : 2 * half] = g * c + f * d
        return bounded(turned, 60, "turned")

    def _attention(self, index: int, x: Rows) -> Rows:
        """Return what attention adds to the residual stream [n, H], exponent 20 (4.6)."""
        a, exponents = self.architecture, self._file.layers[index]
        normed, exponent = self._residual_norm(f"layers.{index}.attention_norm", x)
        rows = self._linear(f"layers.{index}.qkv")(normed, exponent, HIDDEN)
        queries, keys, values = self._heads(index, rows)
        result = np.empty((len(x), a.head_count, a.head_size), dtype=object)
        for position, head in np.ndindex(result.shape[:2]):
            shared = head // (a.head_count // a.kv_head_count)
            seen_keys, seen_values = keys[: position + 1, shared], values[: position + 1, shared]
            result[position, head] = self._mixed(queries[position, head], seen_keys, seen_values, exponents)
        joined = result.reshape(len(x), a.head_count * a.head_size)
        return self._linear(f"layers.{index}.out")(joined, exponents.value + ATTENTION_EXTRA_BITS, RESIDUAL)

    def _mixed(self, query: Row, keys: Rows, values: Rows, exponents: LayerExponents) -> Row:
        """Return one head's mean [D], exponent `value + 8`, of the values [t, D] it sees (4.6, steps 5 to 7)."""
        products = bounded((keys * query).sum(axis=1), 53, "sum of query * key")
        scores = round_shift(products, exponents.query + exponents.key - SCORE).tolist()
        top = max(scores)
        weights = [self._softmax[min(top - score, 15360)] for score in scores]
        total = sum(weights)
        sums = bounded((values * np.array(weights, dtype=object)[:, None]).sum(axis=0), 53, "sum of w * value")
        mean: Row = ((sums << ATTENTION_EXTRA_BITS) + (total >> 1)) // total
        return mean

    def _activated(self, value: int) -> int:
        """Return the activation of one value, both with exponent 16 (4.7)."""
        return max(value, 0) + self._activation[min(round_shift(abs(value), 6), 16384)]

    def _mlp(self, index: int, x: Rows) -> Rows:
        """Return what the MLP adds to the residual stream [n, H], exponent 20 (4.7)."""
        normed, exponent = self._residual_norm(f"layers.{index}.mlp_norm", x)
        hidden = bounded(self._linear(f"layers.{index}.mlp")(normed, exponent, HIDDEN), 30, "outputs of mlp")
        size = self.architecture.mlp_size
        acted = np.empty((len(x), size), dtype=object)
        for place in np.ndindex(acted.shape):
            acted[place] = self._activated(int(hidden[place]))
        down = self._linear(f"layers.{index}.down")
        if not self.architecture.gated_mlp:
            return down(acted, HIDDEN, RESIDUAL)
        return down(bounded(acted * hidden[:, size:], 61, "act(g) * u"), 2 * HIDDEN, RESIDUAL)


def load(path: Path | str) -> ReferenceModel:
    """Return the model of an exact file.

    Raises:
        ReferenceFormatError: the file cannot be read, or is not an exact weak model to the byte.
    """
    return ReferenceModel(read_file(Path(path)))
