"""Laws of the exact model: a sequence's bits depend on the sequence alone, whatever is done around it."""

import functools
import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.exact import arithmetic, format
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.predictor import ExactPredictor
from bitweir_compression.exact.quantise import convert
from bitweir_compression.exact.temperature import Temperature
from tests.vectors.make_exact import SHAPES, source

GATED, PLAIN = SHAPES["exact_gated_int8"], SHAPES["exact_plain_int16"]
MODELS = {
    "gated int8": (GATED, "int8"),
    "gated int16": (replace(GATED, mlp_size=37, head_norm=False, tied=True, out_bias=True), "int16"),
    "plain int16": (PLAIN, "int16"),
    "plain int8": (replace(PLAIN, parallel_residual=False, tied=False, head_size=5, rotary_size=2), "int8"),
    "parallel RMSNorm": (replace(PLAIN, centred_norm=False, norm_bias=False, kv_head_count=1), "int16"),
}
WHOLE = st.integers(-(1 << 60), 1 << 60)


@functools.cache
def model(name: str) -> ExactModel:
    shape, profile = MODELS[name]
    return ExactModel(format.decode(format.encode(*convert(source(name, shape), profile))))


@functools.cache
def expected(name: str, sequence: tuple[int, ...]) -> torch.Tensor:
    """The sequence alone, in one call, without a cache."""
    return model(name).logits(torch.tensor([sequence]))[0]


names = st.sampled_from(sorted(MODELS))
terms = st.integers(1, 10_000)
sequences = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=40).map(tuple), min_size=1, max_size=6)


@given(names, sequences, st.data())
@settings(max_examples=30)
def test_padding_and_batch_change_nothing(name: str, batch: list[tuple[int, ...]], data: st.DataObject) -> None:
    width = max(map(len, batch)) + data.draw(st.integers(0, 4))
    ids = torch.zeros((len(batch), width), dtype=torch.int64)
    mask = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, sequence in enumerate(batch):
        places = data.draw(st.permutations(range(width)))[: len(sequence)]
        places.sort()
        ids[row] = data.draw(st.integers(0, 60))
        ids[row, places], mask[row, places] = torch.tensor(sequence), True
    logits = model(name).logits(ids, mask)
    for row, sequence in enumerate(batch):
        assert torch.equal(logits[row][mask[row]], expected(name, sequence))


@given(names, sequences, st.data())
@settings(max_examples=30)
def test_cache_chunks_slots_and_order_change_nothing(
    name: str, batch: list[tuple[int, ...]], data: st.DataObject
) -> None:
    slots = data.draw(st.permutations(range(len(batch) + 2)))[: len(batch)]
    cache, done = model(name).cache(len(batch) + 2), [0] * len(batch)
    while live := [index for index, sequence in enumerate(batch) if done[index] < len(sequence)]:
        chosen = data.draw(st.lists(st.sampled_from(live), min_size=1, unique=True))
        pieces = []
        for index in chosen:
            count = data.draw(st.integers(1, len(batch[index]) - done[index]))
            pieces.append(batch[index][done[index] : done[index] + count])
            done[index] += count
        chunk = data.draw(st.sampled_from([1, 3, 16, 128]))
        logits = model(name).prefill(cache, [slots[index] for index in chosen], pieces, chunk_tokens=chunk)
        for index, row in zip(chosen, logits, strict=True):
            assert torch.equal(row, expected(name, batch[index])[done[index] - 1])


@given(names, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=25), st.integers(1, 4))
@settings(max_examples=30)
def test_sequences_that_come_and_go_are_predicted_as_if_alone(
    name: str, moves: list[tuple[int, int]], steps: int
) -> None:
    predictor = ExactPredictor(model(name), slot_count=4)
    texts: dict[int, list[int]] = {}
    for slot, token in moves:
        if slot in texts:
            predictor.release(slot)
            del texts[slot]
        else:
            texts[slot] = [token] * (1 + token % 5)
            predictor.admit(slot, texts[slot])
        for _ in range(steps % 3):
            live = [slot for slot, text in texts.items() if len(text) < 40]
            for slot_, row in zip(live, predictor.step(live), strict=True):
                logits = expected(name, tuple(texts[slot_]))[-1:]
                assert row.tolist() == model(name).frequencies(logits)[0].tolist()
                texts[slot_].append((token + slot_) % 61)
            predictor.commit({slot_: texts[slot_][-1] for slot_ in live})


@given(
    names,
    st.lists(st.integers(-(1 << 30), 1 << 30), min_size=1, max_size=20),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
)
def test_frequencies_are_within_bounds_and_ordered(name: str, logits: list[int], above: int, below: int) -> None:
    temperature = Temperature(above, below)
    row = model(name).frequencies(torch.tensor([logits]), [temperature])[0].tolist()
    assert all(1 <= weight <= 1 << 24 for weight in row)
    assert max(row) == 1 << 24
    ranked = [weight for _, weight in sorted(zip(logits, row, strict=True))]
    assert ranked == sorted(ranked)


@given(st.lists(WHOLE, min_size=1, max_size=9), st.sampled_from([127, 16319, 32767]))
def test_rounding_a_row_is_free_of_order(values: list[int], limit: int) -> None:
    q, shift = arithmetic.quantise_rows(torch.tensor([values]), limit)
    assert int(q.abs().max()) <= limit
    order = sorted(range(len(values)), key=lambda index: (values[index] * 2654435761) % 97)
    other, other_shift = arithmetic.quantise_rows(torch.tensor([[values[index] for index in order]]), limit)
    assert torch.equal(shift, other_shift)
    assert other[0].tolist() == [q[0, index].item() for index in order]
    bits = int(shift)
    assert q[0].tolist() == [(2 * value + (1 << bits)) >> (bits + 1) for value in values]


@given(st.integers(1 << 60, (1 << 62) - 1))
def test_roots_are_exact(value: int) -> None:
    assert arithmetic.root(torch.tensor([value])).item() == math.isqrt(value)
