"""The production coder and the big-integer oracle are one format: the same bits, and each decodes the other's."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.coder import Bits, SymbolDecoder, SymbolEncoder, shortest_bits
from bitweir_compression.reference_coder import ReferenceDecoder, ReferenceEncoder, boundaries, uniform_boundaries

WEIGHTS = st.lists(
    st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 2**40), st.just(2**45)), min_size=1, max_size=40
).filter(any)


@st.composite
def messages(draw: st.DrawFn) -> list[tuple[int, list[int] | int]]:
    """Symbols with their weights, or values with their uniform size."""
    message: list[tuple[int, list[int] | int]] = []
    for _ in range(draw(st.integers(0, 60))):
        if draw(st.booleans()):
            weights = draw(WEIGHTS)
            message.append((draw(st.integers(0, len(weights) - 1)), weights))
        else:
            size = draw(st.sampled_from([1, 2, 3, 1000, 2**16, 2**23 - 1, 2**23]))
            message.append((draw(st.integers(0, size - 1)), size))
    return message


def left(model: list[int] | int) -> list[int]:
    if isinstance(model, int):
        return uniform_boundaries(model) if model <= 2**16 else []
    return boundaries(np.array(model))


@settings(max_examples=200)
@given(message=messages())
def test_round_trip(message: list) -> None:
    encoder = SymbolEncoder()
    for symbol, model in message:
        if isinstance(model, int):
            encoder.encode_uniform(symbol, model)
        else:
            encoder.encode(symbol, np.array(model))
    bits = encoder.finish()
    assert bits == encoder.finish()
    decoder = SymbolDecoder(bits)
    for symbol, model in message:
        got = decoder.decode_uniform(model) if isinstance(model, int) else decoder.decode(np.array(model))
        assert got == symbol


@settings(max_examples=200)
@given(message=messages())
def test_oracle_and_production_write_the_same_bits(message: list) -> None:
    message = [(symbol, model) for symbol, model in message if not isinstance(model, int) or model <= 2**16]
    production, oracle = SymbolEncoder(), ReferenceEncoder()
    ideal_bits = 0.0
    for symbol, model in message:
        shares = left(model)
        oracle.encode(symbol, shares)
        ideal_bits -= math.log2((shares[symbol + 1] - shares[symbol]) / 2**24)
        if isinstance(model, int):
            production.encode_uniform(symbol, model)
        else:
            production.encode(symbol, np.array(model))
    bits = production.finish()
    assert bits == oracle.finish()
    # The shortest string inside an interval is at most one bit longer than its width calls for.
    assert bits.count <= ideal_bits + 1.01 + 1e-3 * len(message)
    back = ReferenceDecoder(bits)
    assert [back.decode(left(model)) for _, model in message] == [symbol for symbol, _ in message]


@settings(max_examples=500)
@given(total=st.integers(1, 12), data=st.data())
def test_the_shortest_bits_are_the_shortest(total: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, (1 << total) - 1))
    width = data.draw(st.integers(1, (1 << total) - low))
    strings = (Bits(value, count) for count in range(total + 1) for value in range(1 << count))
    first = next(b for b in strings if low <= b.value << (total - b.count) < low + width)
    assert shortest_bits(low, width, total) == first


def test_ending_a_long_message_takes_no_time_to_speak_of() -> None:
    # The search for the end once cost the square of the length; here that would be hours.
    encoder, weights = SymbolEncoder(), np.array([1, 1, 1, 1])
    symbols = np.random.default_rng(1).integers(0, 4, 200_000).tolist()
    for symbol in symbols:
        encoder.encode(symbol, weights)
    assert encoder.finish().count == pytest.approx(400_000, abs=2)


@given(weights=st.lists(WEIGHTS, min_size=1, max_size=20), value=st.integers(0, 2**80 - 1), count=st.integers(0, 80))
def test_any_bits_decode_to_symbols_of_the_alphabet(weights: list, value: int, count: int) -> None:
    decoder = SymbolDecoder(Bits(value % (1 << count), count))
    for row in weights:
        assert 0 <= decoder.decode(np.array(row)) < len(row)


@given(weights=WEIGHTS)
def test_boundaries_rise_from_0_to_one(weights: list) -> None:
    shares = boundaries(np.array(weights))
    assert shares[0] == 0
    assert shares[-1] == 2**24
    assert all(a < b for a, b in pairwise(shares))


def test_ten_thousand_likely_symbols_cost_their_ideal_and_no_more() -> None:
    random = np.random.default_rng(4)
    weights = np.array([990, 5, 5])
    symbols = random.choice(3, 10_000, p=weights / 1000).tolist()
    encoder = SymbolEncoder()
    for symbol in symbols:
        encoder.encode(symbol, weights)
    ideal = -sum(math.log2(weights[symbol] / 1000) for symbol in symbols)
    assert abs(encoder.finish().count - ideal) < 2
