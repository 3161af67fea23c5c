"""The entropy coder: symbols and integer weights in, the fewest bits out.

One narrow interface over constriction's range coder, which does the arithmetic; what is here is the contract around it
and an exact end of the bit string.

Rules:
1. Models are integer weights. They are handed over as integer-valued float64 of sum below 2**53, so every partial sum
   is exact, and with `perfect=False`, so their rounding to 24 bits is the few IEEE operations spelled out in
   reference_coder.py: encoder and decoder agree wherever the weights agree.
2. Every symbol of an alphabet can be coded, weight 0 included: it gets at least 2**-24. That costs a certain symbol
   -log2(1 - n/2**24) bits: .0004 at n = 4k, .013 at 152k. Code a flag first where one symbol is nearly certain.
3. An alphabet of one symbol costs nothing and touches nothing.
4. `finish` returns the shortest bit string that decodes to what was encoded when zeros follow it. Its length is part of
   the message: whoever carries it charges for it.

reference_coder.py is the slow big-integer oracle of the same format and must change together with this file.
Source: constriction 0.5 (Bamler), queue::RangeEncoder: 32-bit words, 64-bit state, 24-bit probabilities.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from constriction import stream

from bitweir_compression.errors import CoderError

PROBABILITY_BITS = 24
WORD_BITS = 32
STATE_BITS = 64
# Sums of weights stay below this, so that float64 holds every partial sum.
WEIGHT_SUM_LIMIT = 1 << 53
# Half of 2**24: beyond it the floor of rule 2 would eat the probabilities.
ALPHABET_MAX = 1 << 23
# Below this, Python's own loops are faster than numpy's.
SMALL_ALPHABET = 32
# Bits of one message: a bound on damage, not on use; a frame holds at most a kilobyte.
MESSAGE_BITS_MAX = 1 << 20

Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bits:
    """A bit string: `count` bits, first bit most significant in `value`; 0 <= value < 2**count."""

    value: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MESSAGE_BITS_MAX or not 0 <= self.value < 1 << self.count:
            raise CoderError(
                f"{self.count} bits holding {self.value.bit_length()}", remedy=f"use 0 to {MESSAGE_BITS_MAX} bits"
            )


class SymbolCoder(Protocol):
    """Either direction, so that a format is written down once: `Writer` takes the values, `Reader` returns them.

    Attributes:
        part: what the next symbols are counted as, where anybody counts.
    """

    part: str

    def symbol(self, weights: Weights, value: int | None) -> int:
        """Code a symbol under integer weights; see `SymbolEncoder.encode`. The value is None when reading."""

    def uniform(self, size: int, value: int | None) -> int:
        """Code one of `size` values, all alike."""


class SymbolEncoder:
    """Encodes symbols first in, first out.

    >>> encoder = SymbolEncoder()
    >>> weights = np.array([1, 6, 1])
    >>> for symbol in (1, 1, 0, 1): encoder.encode(symbol, weights)
    >>> bits = encoder.finish()
    >>> decoder = SymbolDecoder(bits)
    >>> bits.count, [decoder.decode(weights) for _ in range(4)]
    (2, [1, 1, 0, 1])
    """

    def __init__(self) -> None:
        """Start with an empty message."""
        self._encoder = stream.queue.RangeEncoder()

    def encode(self, symbol: int, weights: Weights) -> None:
        """Append a symbol under integer weights.

        Args:
            symbol: 0 <= symbol < n.
            weights: int64 [n], not negative, not all 0, sum below 2**53, n <= 2**23.

        Raises:
            CoderError: an argument is out of range; nothing was appended.
        """
        model = _categorical(weights)
        if not 0 <= symbol < len(weights):
            raise CoderError(f"symbol {symbol} of an alphabet of {len(weights)}", remedy="symbols count from 0")
        if model is not None:
            self._encoder.encode(symbol, model)

    def encode_uniform(self, value: int, size: int) -> None:
        """Append 0 <= value < size, all values alike; size <= 2**23.

        Raises:
            CoderError: an argument is out of range; nothing was appended.
        """
        model = _uniform(size)
        if not 0 <= value < size:
            raise CoderError(f"value {value} of {size}", remedy="values count from 0")
        if model is not None:
            self._encoder.encode(value, model)

    def finish(self) -> Bits:
        """Return the message; the encoder may go on afterwards, as if nothing had happened.

        The range coder's final state is an interval [low, low + range) of binary fractions; the result is the shortest
        one whose extension by zeros lies inside.
        """
        position, (lower, width) = self._encoder.pos()
        words = [int(word) for word in self._encoder.get_compressed()]
        low = _interval_low(words, position, lower)
        return shortest_bits(low, width, WORD_BITS * position + STATE_BITS)


class SymbolDecoder:
    """Decodes what SymbolEncoder encoded, given the same weights in the same order.

    A message does not say where it ends, and wrong weights decode to wrong symbols without notice: whoever uses this
    checks both by other means (session.py).
    """

    def __init__(self, bits: Bits) -> None:
        """Start at the first bit; zeros follow the last."""
        word_count = max(1, -(-bits.count // WORD_BITS))
        padded = bits.value << (WORD_BITS * word_count - bits.count)
        words = [(padded >> (WORD_BITS * i)) & ((1 << WORD_BITS) - 1) for i in reversed(range(word_count))]
        self._decoder = stream.queue.RangeDecoder(np.array(words, dtype=np.uint32))

    def decode(self, weights: Weights) -> int:
        """Return the next symbol under integer weights; see `SymbolEncoder.encode`.

        Raises:
            CoderError: the weights are out of range, or the message is none that an encoder can have made.
        """
        return self._decode(_categorical(weights))

    def decode_uniform(self, size: int) -> int:
        """Return the next value of `size` alike ones; see `SymbolEncoder.encode_uniform`."""
        return self._decode(_uniform(size))

    def _decode(self, model: Any) -> int:
        if model is None:
            return 0
        try:
            return int(self._decoder.decode(model))
        except AssertionError as error:
            raise CoderError("no encoder makes this message", remedy="treat the frame as damaged") from error


class Writer:
    """Writes a message and keeps count of the ideal code length, by parts the caller names.

    Attributes:
        part: what the next symbols are counted as.
        ideal_bits: part -> sum of -log2 of the probabilities the weights state.
        symbol_counts: part -> symbols.
    """

    def __init__(self) -> None:
        """Start with an empty message."""
        self._encoder = SymbolEncoder()
        self.part = ""
        self.ideal_bits: dict[str, float] = defaultdict(float)
        self.symbol_counts: dict[str, int] = defaultdict(int)

    def symbol(self, weights: Weights, value: int | None) -> int:
        """See `SymbolCoder`."""
        value = _given(value)
        self._encoder.encode(value, weights)
        # A weight of 0 is coded at the floor of rule 2.
        total = sum(weights.tolist()) if len(weights) <= SMALL_ALPHABET else int(weights.sum())
        share = max(int(weights[value]) / total, 2.0**-PROBABILITY_BITS)
        self.ideal_bits[self.part] -= math.log2(share)
        self.symbol_counts[self.part] += 1
        return value

    def uniform(self, size: int, value: int | None) -> int:
        """See `SymbolCoder`."""
        value = _given(value)
        self._encoder.encode_uniform(value, size)
        self.ideal_bits[self.part] += math.log2(size)
        self.symbol_counts[self.part] += 1
        return value

    def finish(self) -> Bits:
        """Return the message."""
        return self._encoder.finish()


class Reader:
    """Reads a message, and writes what it reads again: one content has one message."""

    def __init__(self, bits: Bits) -> None:
        """Start at the first bit."""
        self.part = ""
        self._bits = bits
        self._decoder = SymbolDecoder(bits)
        self._echo = SymbolEncoder()

    def symbol(self, weights: Weights, value: int | None = None) -> int:
        """See `SymbolCoder`."""
        value = self._decoder.decode(weights)
        self._echo.encode(value, weights)
        return value

    def uniform(self, size: int, value: int | None = None) -> int:
        """See `SymbolCoder`."""
        value = self._decoder.decode_uniform(size)
        self._echo.encode_uniform(value, size)
        return value

    def finish(self) -> None:
        """Check that the message was the one that its content is written as.

        Raises:
            CoderError: other bits decode to the same content.
        """
        if self._echo.finish() != self._bits:
            raise CoderError("the message is not canonical", remedy="treat the frame as damaged")


def _given(value: int | None) -> int:
    if value is None:
        raise CoderError("nothing to write", remedy="report this as a defect")
    return value


def shortest_bits(low: int, width: int, total_bits: int) -> Bits:
    """Return the shortest bit string b with low <= b * 2**(total_bits - len(b)) < low + width.

    Where both ends of the interval agree above bit L, the only multiple of 2**L or more inside can be low itself, so
    the search starts at the larger of L and low's own trailing zeros and takes a step or two.
    """
    if width < 1:
        raise CoderError("an empty interval has no bit string", remedy="report this as a defect")
    if low == 0:
        return Bits(0, 0)
    last = low + width - 1
    trailing_zeros = (low & -low).bit_length() - 1
    for zeros in range(min(max((low ^ last).bit_length(), trailing_zeros), total_bits), -1, -1):
        multiple = -(-low >> zeros)
        if multiple << zeros <= last and multiple < 1 << (total_bits - zeros):
            return Bits(multiple, total_bits - zeros)
    raise CoderError("an interval beyond its own length", remedy="report this as a defect")


def _interval_low(words: list[int], position: int, lower: int) -> int:
    """Return the low end of the final interval as an integer of 32 * position + 64 bits.

    The coder holds back words that a carry may still change, so `pos` gives `lower` modulo 2**64 only; the message it
    would write now lies inside the interval and supplies the rest.
    """
    if not words:
        return lower
    total_bits = WORD_BITS * position + STATE_BITS
    written = int.from_bytes(b"".join(word.to_bytes(WORD_BITS // 8, "big") for word in words), "big")
    shift = total_bits - WORD_BITS * len(words)
    inside = written << shift if shift >= 0 else written >> -shift
    # The message is the top of the interval's common prefix: with all ones after it, it is at or above low.
    inside |= (1 << max(shift, 0)) - 1
    return inside - ((inside - lower) % (1 << STATE_BITS))


def _categorical(weights: Weights) -> Any:
    """Return constriction's model of integer weights; None for an alphabet of one."""
    if weights.ndim != 1 or weights.dtype != np.int64 or not 0 < len(weights) <= ALPHABET_MAX:
        raise CoderError(
            f"weights of shape {weights.shape} and type {weights.dtype}", remedy=f"use int64 [1 to {ALPHABET_MAX}]"
        )
    if len(weights) <= SMALL_ALPHABET:
        numbers = weights.tolist()
        lowest, total = min(numbers), sum(numbers)
    else:
        # Where the int64 sum might wrap, a float one, which cannot, stands in for it: it is out of range then.
        may_wrap = int(weights.max()) > ((1 << 63) - 1) // len(weights)
        lowest = int(weights.min())
        total = int(weights.sum(dtype=np.float64)) if may_wrap else 0
        total = total if total > 2 * WEIGHT_SUM_LIMIT else int(weights.sum())
    if lowest < 0:
        raise CoderError("a weight is negative", remedy=f"keep weights in 0..{WEIGHT_SUM_LIMIT - 1}")
    if not 0 < total < WEIGHT_SUM_LIMIT:
        raise CoderError(f"weights of sum {total}", remedy=f"keep the sum in 1..{WEIGHT_SUM_LIMIT - 1}")
    if len(weights) == 1:
        return None
    return stream.model.Categorical(weights.astype(np.float64), perfect=False, lazy=True)


def _uniform(size: int) -> Any:
    if not 0 < size <= ALPHABET_MAX:
        raise CoderError(f"{size} values", remedy=f"use 1 to {ALPHABET_MAX}")
    return None if size == 1 else stream.model.Uniform(size)
