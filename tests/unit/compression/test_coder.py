"""What the coder refuses, and the flush that research notes measured at about 0 bits."""

import numpy as np
import pytest

from bitweir_compression.coder import Bits, SymbolDecoder, SymbolEncoder
from bitweir_compression.errors import CoderError

WEIGHTS = np.array([3, 1, 4])


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.encode(3, WEIGHTS),
        lambda e: e.encode(-1, WEIGHTS),
        lambda e: e.encode(0, np.array([0, 0])),
        lambda e: e.encode(0, np.array([], dtype=np.int64)),
        lambda e: e.encode(0, np.array([-1, 3])),
        lambda e: e.encode(0, np.array([1.5, 3])),
        lambda e: e.encode(0, np.array([[1, 2]])),
        lambda e: e.encode(0, np.array([1 << 52, 1 << 52])),
        lambda e: e.encode(0, np.array([1 << 62, 1 << 62, 1 << 62, 1 << 62, 1])),
        lambda e: e.encode_uniform(0, 0),
        lambda e: e.encode_uniform(5, 5),
        lambda e: e.encode_uniform(-1, 5),
        lambda e: e.encode_uniform(0, (1 << 23) + 1),
    ],
)
def test_what_cannot_be_coded_is_refused_and_changes_nothing(call) -> None:
    encoder = SymbolEncoder()
    encoder.encode(2, WEIGHTS)
    before = encoder.finish()
    with pytest.raises(CoderError) as caught:
        call(encoder)
    assert caught.value.remedy
    assert encoder.finish() == before


@pytest.mark.parametrize(("value", "count"), [(2, 1), (-1, 4), (0, -1), (0, (1 << 23) + 1)])
def test_impossible_bit_strings_are_refused(value: int, count: int) -> None:
    with pytest.raises(CoderError):
        Bits(value, count)


def test_nothing_costs_nothing() -> None:
    encoder = SymbolEncoder()
    assert encoder.finish() == Bits(0, 0)
    encoder.encode(0, np.array([7]))
    encoder.encode_uniform(0, 1)
    assert encoder.finish() == Bits(0, 0)
    assert SymbolDecoder(Bits(0, 0)).decode(np.array([7])) == 0


def test_one_weight_may_hold_nearly_all_of_the_sum() -> None:
    weights = np.array([(1 << 53) - 40] + [1] * 39)
    encoder = SymbolEncoder()
    for symbol in (0, 39, 0):
        encoder.encode(symbol, weights)
    decoder = SymbolDecoder(encoder.finish())
    assert [decoder.decode(weights) for _ in range(3)] == [0, 39, 0]


def test_a_carry_through_many_words_is_right() -> None:
    # The last symbol of a skewed alphabet, over and over, keeps the low end just under a power of two.
    weights = np.array([1, 1, (1 << 30)])
    for tail in range(3):
        encoder = SymbolEncoder()
        symbols = [2] * 4000 + [tail] + [1, 0, 2]
        for symbol in symbols:
            encoder.encode(symbol, weights)
        decoder = SymbolDecoder(encoder.finish())
        assert [decoder.decode(weights) for _ in symbols] == symbols
