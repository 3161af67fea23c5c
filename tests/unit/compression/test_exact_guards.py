"""What keeps a model inside its range and its mask: each test here fails if one guard is taken out."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitweir_compression.exact import bounds, format, reference, schema
from bitweir_compression.exact.errors import ExactFormatError, ExactRangeError
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.exact.layers import Linear
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.quantise import convert
from bitweir_compression.exact.sources import Source
from tests.vectors.make_exact import SHAPES, source

LIMIT = 1 << schema.RESIDUAL_BITS
GATED, PLAIN = "exact_gated_int8", "exact_plain_int16"
# Places among the calls of linear layers: qkv, out, mlp and down of both layers, then the head.
LAST_OUT, LAST_DOWN = 5, 7


def made(label: str) -> Source:
    return source(label, SHAPES[label])


def encoded(header: Any, tensors: Any) -> ExactFile:
    return format.decode(format.encode(header, tensors))


def file_of(model: Source) -> ExactFile:
    return encoded(*convert(model, model.name.rpartition("_")[2]))


@functools.cache
def original(label: str) -> ExactFile:
    return file_of(made(label))


def linear_outputs(model: ExactModel, ids: list[int]) -> list[torch.Tensor]:
    """Return what each linear layer gave, in the order of the calls: int64 [tokens, outputs]."""
    kept: list[torch.Tensor] = []
    call = Linear.__call__

    def recording(self: Linear, value: torch.Tensor) -> torch.Tensor:
        result = call(self, value)
        kept.append(result.clone())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linear, "__call__", recording)
        model.logits(torch.tensor([ids]))
    return kept


def late_overflow(label: str) -> tuple[ExactModel, list[int]]:
    """Return a model and a prompt whose last token, and no other, leaves the range in the last layer's output."""
    plain = ExactModel(original(label))
    for seed in range(200):
        ids = torch.randint(60, (12,), generator=torch.Generator().manual_seed(seed)).tolist()
        sizes = linear_outputs(plain, ids)[LAST_DOWN].abs().amax(-1).tolist()
        end = int(np.argmax(sizes))
        if end >= 7 and max(sizes[:end]) * 1.4 < sizes[end]:
            scaled = made(label)
            factor = 1.15 * LIMIT / sizes[end]
            scaled.matrices["layers.1.down"] = scaled.matrices["layers.1.down"] * factor
            return ExactModel(file_of(scaled)), ids[: end + 1]
    raise AssertionError("no prompt found")


@pytest.mark.parametrize("label", [GATED, PLAIN])
def test_an_overflow_of_the_last_layers_output_alone_raises(label: str) -> None:
    """Nothing reads the stream after it but the final norm."""
    model, ids = late_overflow(label)
    cache = model.cache(2)
    with pytest.raises(ExactRangeError) as caught:
        model.prefill(cache, [1], [ids])
    assert caught.value.rows == (1,)
    assert model.prefill(cache, [1], [ids[:-1]]).shape[0] == 1
    with pytest.raises(ExactRangeError):
        model.step(cache, [1], [ids[-1]])
    assert cache.lengths == [0, len(ids) - 1]


def cancelling(target: float) -> ExactModel:
    """Return a model whose last attention adds about `target` steps to the stream, for token 1, and its MLP -`target`.

    Both write component 0 alone, so the MLP reads the unit row whatever the target is.
    """

    def built(out_factor: float, down_factor: float) -> Source:
        result = made(GATED)
        for name, factor in (("layers.1.out", out_factor), ("layers.1.down", down_factor)):
            result.matrices[name] = result.matrices[name] * factor
            result.matrices[name][1:] = 0
        return result

    out = linear_outputs(ExactModel(file_of(built(1, 1))), [1])[LAST_OUT][0, 0].item()
    # Measured where attention's output is already far above what earlier layers wrote.
    down = linear_outputs(ExactModel(file_of(built(LIMIT / 4 / out, 1))), [1])[LAST_DOWN][0, 0].item()
    return ExactModel(file_of(built(target / out, -target / down)))


def test_an_overflow_after_attention_raises_even_where_the_mlp_takes_it_back() -> None:
    """At the end of the layer the stream is small again, so no later check can see it."""
    added = linear_outputs(cancelling(0.5 * LIMIT), [1])
    assert added[LAST_OUT][0, 0].item() == pytest.approx(0.5 * LIMIT, rel=0.1)
    assert added[LAST_DOWN][0, 0].item() == pytest.approx(-0.5 * LIMIT, rel=0.1)
    model = cancelling(1.3 * LIMIT)
    cache = model.cache(1)
    with pytest.raises(ExactRangeError) as caught:
        model.prefill(cache, [0], [[1]])
    assert caught.value.rows == (0,)
    assert cache.lengths == [0]


@pytest.mark.parametrize("label", [GATED, PLAIN])
def test_a_later_chunk_that_overflows_undoes_the_earlier_ones(label: str) -> None:
    model, ids = late_overflow(label)
    cache = model.cache(2)
    model.prefill(cache, [0, 1], [ids[:1], ids[:2]])
    with pytest.raises(ExactRangeError):
        model.prefill(cache, [0, 1], [ids[1:], ids[2:4]], chunk_tokens=2)
    assert cache.lengths == [1, 2]
    expected = model.logits(torch.tensor([ids[:-1]]))[0]
    got = model.prefill(cache, [1, 0], [ids[2:5], ids[1:-1]], chunk_tokens=2)
    assert torch.equal(got, expected[[4, -1]])
    assert cache.lengths == [len(ids) - 1, 5]


@pytest.mark.parametrize("index", [0, 1])
def test_values_that_can_leave_19_bits_are_refused(index: int) -> None:
    """Conversion picks the finest exponent that holds, so one more does not."""
    file = original(GATED)
    bounds.check_file(file)
    header = copy.deepcopy(dict(file.header))
    assert header["layers"][index]["value_exponent"] < 12
    header["layers"][index]["value_exponent"] += 1
    with pytest.raises(ExactFormatError, match=f"layers.{index}.*values can leave 19 bits"):
        ExactModel(encoded(header, file.tensors))


@pytest.mark.parametrize("label", [GATED, PLAIN])
def test_logits_that_can_leave_30_bits_are_refused(label: str) -> None:
    """A lower exponent of the final norm doubles every logit."""
    file = original(label)
    header = copy.deepcopy(dict(file.header))
    head = "embedding" if SHAPES[label].tied else "head"
    while float(bounds.after_norm(file, head, "final_norm").max()) * 2.0**schema.LOGIT_EXPONENT <= 2.0**30:
        bounds.check_file(file)
        header["norms"]["final_norm"]["exponent"] -= 1
        file = encoded(header, file.tensors)
    with pytest.raises(ExactFormatError, match=f"{head}.*logits can leave 30 bits"):
        bounds.check_file(file)


def repelled() -> ExactFile:
    """Return a model whose keys are its queries negated: a token scores itself thousands of nats below 0."""
    model = made(PLAIN)
    size = SHAPES[PLAIN].query_size
    for index in range(SHAPES[PLAIN].layer_count):
        for part in (model.matrices, model.biases):
            numbers = part[f"layers.{index}.qkv"]
            numbers[:size] *= 16
            numbers[size : 2 * size] = -numbers[:size]
    return file_of(model)


def test_masked_keys_get_no_weight_however_low_the_visible_scores_are(tmp_path: Path) -> None:
    file = repelled()
    model = ExactModel(file)
    ids = [[3, 1, 4, 1, 5, 9, 2, 6], [53], [58, 9, 7]]
    alone = [model.logits(torch.tensor([row]))[0] for row in ids]
    # The future: every prefix on its own, where the first token is a lone query without a mask.
    for row, whole in zip(ids, alone, strict=True):
        for end in range(1, len(row)):
            assert torch.equal(model.logits(torch.tensor([row[:end]]))[0, -1], whole[end - 1])
    # Padding: shorter rows in one call, then one new token for rows of different lengths.
    cache = model.cache(3)
    together = model.prefill(cache, [0, 1, 2], ids)
    assert torch.equal(together, torch.stack([whole[-1] for whole in alone]))
    stepped = model.step(cache, [0, 1, 2], [11, 53, 13])
    for row, token, logits in zip(ids, [11, 53, 13], stepped, strict=True):
        assert torch.equal(model.logits(torch.tensor([[*row, token]]))[0, -1], logits)
    path = tmp_path / format.FILE_NAME
    format.write(path, file.header, file.tensors)
    assert np.array_equal(reference.load(path).logits(ids[0]), alone[0].numpy())


@pytest.mark.parametrize("label", [GATED, PLAIN])
def test_the_last_token_changes_no_earlier_logits(label: str) -> None:
    model = ExactModel(original(label))
    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])
    changed = ids.clone()
    changed[:, -1] = torch.tensor([33, 44])
    before, after = model.logits(ids), model.logits(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert (before[:, -1] != after[:, -1]).any(-1).all()
