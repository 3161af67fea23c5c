"""The slow oracle of coder.py: the same format in big integers, written for reading. Tests hold the two together.

A range coder narrows an interval [low, low + width) of an unbounded binary fraction. Big integers need no carries and
no held-back words, so a step is two lines:

    scale = width >> 24
    low, width = low + scale * left, scale * probability       then, while width < 2**32: append 32 zero bits to both

Weights become 24-bit probabilities as constriction does it, in float64: with n symbols and sum s,

    left(i) = floor((w[0] + ... + w[i-1]) * ((2**24 - n) / s)) + i,      left(n) = 2**24

where the division, the product and the floor are one IEEE operation each. The `+ i` gives every symbol at least 2**-24.
"""

from bitweir_compression.coder import PROBABILITY_BITS, STATE_BITS, WORD_BITS, Bits, Weights, shortest_bits

ONE = 1 << PROBABILITY_BITS


def boundaries(weights: Weights) -> list[int]:
    """Return left(0..n) of integer weights: 0 = left(0) < ... < left(n) = 2**24."""
    size = len(weights)
    scale = float(ONE - size) / float(int(weights.sum()))
    result, before = [], 0
    for index, weight in enumerate(weights.tolist()):
        result.append(int(float(before) * scale) + index)
        before += weight
    return [*result, ONE]


def uniform_boundaries(size: int) -> list[int]:
    """Return left(0..n) of n alike values: steps of floor(2**24 / n), the last value takes the remainder."""
    return [*range(0, size * (ONE // size), ONE // size), ONE]


class ReferenceEncoder:
    """Encodes symbols under boundaries of 24-bit probabilities."""

    def __init__(self) -> None:
        """Start with the whole interval: width 2**64 - 1, as constriction does."""
        self._low, self._width, self._bits = 0, (1 << STATE_BITS) - 1, STATE_BITS

    def encode(self, symbol: int, left: list[int]) -> None:
        """Narrow the interval to a symbol's share."""
        if len(left) == 2:
            return
        scale = self._width >> PROBABILITY_BITS
        self._low += scale * left[symbol]
        self._width = scale * (left[symbol + 1] - left[symbol])
        while self._width < 1 << WORD_BITS:
            self._low <<= WORD_BITS
            self._width <<= WORD_BITS
            self._bits += WORD_BITS

    def finish(self) -> Bits:
        """Return the shortest bit string inside the interval; nothing was encoded: no bits."""
        return shortest_bits(self._low, self._width, self._bits)


class ReferenceDecoder:
    """Decodes by asking which symbol's share the message lies in; keeps the whole message as one integer."""

    def __init__(self, bits: Bits) -> None:
        """Start with the whole interval."""
        self._message = bits
        self._low, self._width, self._bits = 0, (1 << STATE_BITS) - 1, STATE_BITS

    def decode(self, left: list[int]) -> int:
        """Return the next symbol."""
        if len(left) == 2:
            return 0
        point = self._message.value << self._bits >> self._message.count
        scale = self._width >> PROBABILITY_BITS
        offset = min((point - self._low) // scale, ONE - 1)
        symbol = max(i for i, start in enumerate(left[:-1]) if start <= offset)
        self._low += scale * left[symbol]
        self._width = scale * (left[symbol + 1] - left[symbol])
        while self._width < 1 << WORD_BITS:
            self._low <<= WORD_BITS
            self._width <<= WORD_BITS
            self._bits += WORD_BITS
        return symbol
