"""Adaptive codes of the small numbers a frame holds: how many events, joins, steps. Integers only.

A number is coded as "the same as last time", else by its bit length under adaptive counts and then its bits as they
are. Counts are halved at a limit, so that habits may change. What was learnt is copied and put back like a posterior's.
"""

import numpy as np

from bitweir_compression.coder import SymbolCoder
from bitweir_compression.errors import CoderError

# Bit lengths 0 to 24: numbers below 2**24.
NUMBER_BITS_MAX = 24
_LIMIT = 1 << 10
_STEP = 8
_UNIFORM_BITS = 16

NumberState = tuple[int, tuple[int, ...], tuple[int, ...]]


class AdaptiveNumber:
    """The code of one kind of number, 0 to 2**24 - 1, at one end."""

    def __init__(self) -> None:
        """Expect the last number again half the time, and small numbers rather than large ones."""
        self._last = 0
        self._repeats = np.array([2, 2], dtype=np.int64)
        self._lengths = np.maximum(1, _STEP >> np.arange(NUMBER_BITS_MAX + 1, dtype=np.int64))

    def code(self, coder: SymbolCoder, value: int | None) -> int:
        """Code a number in the direction of the coder and learn from it.

        Raises:
            CoderError: the number is out of range (nothing was coded), or no encoder makes the message (what was learnt
                is then undefined).
        """
        if value is not None and not 0 <= value < 1 << NUMBER_BITS_MAX:
            raise CoderError(f"number {value}", remedy=f"use 0 to {(1 << NUMBER_BITS_MAX) - 1}")
        is_new = coder.symbol(self._repeats, None if value is None else int(value != self._last))
        if is_new:
            length = coder.symbol(self._lengths, None if value is None else value.bit_length())
            value = _offset(coder, length, value)
            if value == self._last:
                raise CoderError("a new number that is the last one", remedy="treat the frame as damaged")
            _learn(self._lengths, length)
        else:
            value = self._last
        _learn(self._repeats, is_new)
        self._last = value
        return value

    def snapshot(self) -> NumberState:
        """Return what was learnt."""
        return self._last, tuple(self._repeats.tolist()), tuple(self._lengths.tolist())

    def restore(self, state: NumberState) -> None:
        """Go back to what `snapshot` returned."""
        self._last = state[0]
        self._repeats, self._lengths = (np.array(counts, dtype=np.int64) for counts in state[1:])


def _offset(coder: SymbolCoder, length: int, value: int | None) -> int:
    """Code the bits below the leading one, at most 16 at a time."""
    if length == 0:
        return 0
    result, left = 1, length - 1
    while left:
        count = min(left, _UNIFORM_BITS)
        left -= count
        part = coder.uniform(1 << count, None if value is None else (value >> left) & ((1 << count) - 1))
        result = (result << count) | part
    return result


def _learn(counts: np.ndarray, symbol: int) -> None:
    counts[symbol] += _STEP
    if int(counts.sum()) > _LIMIT:
        counts[:] = (counts + 1) >> 1
