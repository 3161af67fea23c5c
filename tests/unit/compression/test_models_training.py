"""Batches count the right tokens, and the measurements are the formulas they claim to be."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.corpus import Split, tutor
from bitweir_compression.models.chat import train_tokenizer
from bitweir_compression.models.evaluation import measure
from bitweir_compression.models.examples import (
    Exchange,
    batches,
    exchange,
    exchanges,
    items,
    strong_batch,
    strong_visible_batch,
    weak_batch,
)
from bitweir_compression.models.muon import Muon, orthogonalised
from bitweir_compression.models.profiles import Schedule
from bitweir_compression.models.rollouts import continue_batch
from bitweir_compression.models.training import Model, new_model, rate_share
from bitweir_compression.sampling import SamplingSpec
from tests.unit.compression.micro import MICRO

ITEMS = list(islice(tutor.generate(1, Split.TRAIN), 40))
TOKENIZER = train_tokenizer((item.prompt + item.answer for item in ITEMS), 300)
EXCHANGES = list(exchanges(TOKENIZER, iter(ITEMS), 256))


def test_an_exchange_holds_what_each_side_sees() -> None:
    item = ITEMS[0]
    e = exchange(TOKENIZER, item.prompt, TOKENIZER.strong_continuation(item))
    assert e.strong[: e.strong_start] == tuple(TOKENIZER.strong_prompt(item.prompt))
    assert TOKENIZER.decode(e.weak[-e.visible_count :]) == item.answer
    assert e.strong[-e.visible_count :] == e.weak[-e.visible_count :]
    assert TOKENIZER.end_think not in e.weak


@given(st.lists(st.sampled_from(EXCHANGES), min_size=1, max_size=9))
def test_batches_count_exactly_the_tokens_to_learn(group: list[Exchange]) -> None:
    strong = strong_batch(group, TOKENIZER.pad)
    assert strong.targets.tolist() == [t for e in group for t in e.strong[e.strong_start :]]
    visible, weak = strong_visible_batch(group, TOKENIZER.pad), weak_batch(group, TOKENIZER.pad)
    assert visible.targets.tolist() == weak.targets.tolist() == [t for e in group for t in e.weak[-e.visible_count :]]
    for batch, sequences in ((strong, [e.strong for e in group]), (weak, [e.weak for e in group])):
        assert batch.ids.reshape(-1)[batch.predict_at + 1].tolist() == batch.targets.tolist()
        for row, sequence in zip(batch.ids, sequences, strict=True):
            assert row[: len(sequence)].tolist() == list(sequence)
            assert set(row[len(sequence) :].tolist()) <= {TOKENIZER.pad}


@given(batch_tokens=st.integers(300, 5000), seed=st.integers(0, 99))
def test_batches_keep_everything_and_stay_small(batch_tokens: int, seed: int) -> None:
    groups = list(batches(iter(EXCHANGES), batch_tokens, seed=seed))
    assert sorted(e.strong for group in groups for e in group) == sorted(e.strong for e in EXCHANGES)
    assert all(len(g) * max(len(e.strong) for e in g) <= batch_tokens for g in groups)
    assert groups == list(batches(iter(EXCHANGES), batch_tokens, seed=seed))


def test_items_are_mixed_in_the_share_asked_for() -> None:
    drawn = list(islice(items(1, Split.TRAIN, 0.25), 2000))
    share = sum(item.corpus == "documentation" for item in drawn) / len(drawn)
    assert abs(share - 0.25) < 0.04
    assert {item.split for item in drawn} == {Split.TRAIN}


def test_the_learning_rate_rises_stays_and_falls_to_nearly_nothing() -> None:
    schedule = Schedule(step_count=90, batch_tokens=1, learning_rate=1, warmup_steps=10)
    rates = [rate_share(step, schedule) for step in range(90)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:60] == [1.0] * 51
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert math.isclose(rates[-1], 0.02 + 0.98 / 30)


def test_a_longer_schedule_begins_like_a_shorter_one() -> None:
    short, long = (Schedule(count, batch_tokens=1, learning_rate=1, warmup_steps=10) for count in (90, 180))
    assert [rate_share(step, short) for step in range(60)] == [rate_share(step, long) for step in range(60)]


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = torch.linalg.svd(left.T @ orthogonalised(matrix) @ right.T)[1]
    assert values.max() / values.min() > 2
    assert turned.min() > 0.6
    assert turned.max() < 1.3


def test_muon_takes_the_direction_of_least_loss_and_leaves_parameters_without_gradient() -> None:
    moved, still = torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.eye(3))
    optimizer = Muon([moved, still], lr=0.01)
    moved.grad = torch.diag(torch.tensor([5.0, 0.2, -1.0]))
    optimizer.step()
    steps = (torch.eye(3) - moved.detach()).diagonal()
    assert torch.equal(still.detach(), torch.eye(3))
    assert (steps.sign() == torch.tensor([1.0, 1.0, -1.0])).all()
    # Small and large gradients move alike.
    assert steps.abs().max() < 2 * steps.abs().min()


SPECS = [
    SamplingSpec(),
    SamplingSpec(temperature=0.5),
    SamplingSpec(temperature=0),
    SamplingSpec(temperature=0.8, top_k=7),
    SamplingSpec(top_p=0.6),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_measurements_are_the_formulas(spec: SamplingSpec) -> None:
    """P is what tokens are drawn from, W is the weak model untruncated; special tokens belong to neither."""
    strong = new_model(MICRO.strong, TOKENIZER, 256, 1).eval()
    weak = new_model(MICRO.weak, TOKENIZER, 256, 2).eval()
    with torch.no_grad():
        for model in (strong, weak):
            model.model.embed_tokens.weight.mul_(8)
    measured = measure(strong, weak, TOKENIZER, EXCHANGES[:6], spec)
    forbidden = sorted(TOKENIZER.special_ids - {TOKENIZER.end})
    sums = np.zeros(4)
    for e in EXCHANGES[:6]:
        rows = []
        for model, ids in ((strong, e.strong), (weak, e.weak)):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
            logits = logits[len(ids) - e.visible_count - 1 : -1]
            logits[:, forbidden] = -np.inf
            rows.append(logits)
        temperature = spec.temperature or 1.0
        log_s, log_w = (r / temperature - np.log(np.exp(r / temperature).sum(-1, keepdims=True)) for r in rows)
        p = np.exp(log_s)
        if spec.temperature == 0:
            p = (rows[0] == rows[0].max(-1, keepdims=True)).astype(float)
        for row in p if spec.top_k or spec.top_p < 1 else ():
            order = np.argsort(-row)
            keep = spec.top_k or int(np.searchsorted(np.cumsum(row[order]), spec.top_p)) + 1
            row[order[keep:]] = 0
        p /= p.sum(-1, keepdims=True)
        picked, index = list(e.weak[-e.visible_count :]), np.arange(e.visible_count)
        safe = np.where(p > 0, p, 1)
        entropy = -(p * np.log(safe)).sum()
        cross = -(p * np.where(p > 0, log_w, 0)).sum()
        sums += [-log_s[index, picked].sum(), -log_w[index, picked].sum(), entropy, cross - entropy]
    expected = sums / math.log(2) / measured.token_count
    got = [measured.strong_bits, measured.weak_bits, measured.entropy_bits, measured.kl_bits]
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-9)
    assert measured.kl_bits > 0.01
    assert measured.entropy_bits == 0 if spec.temperature == 0 else measured.entropy_bits > 0.01


def noisy_model() -> Model:
    model = new_model(MICRO.strong, TOKENIZER, 256, 1).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(40)
    return model


def test_continuing_a_batch_equals_continuing_alone() -> None:
    model, prompts = noisy_model(), [item.prompt for item in ITEMS[:5]]

    def go(some: list) -> list:
        return continue_batch(model, TOKENIZER, some, reasons=True, temperature=0, tokens_max=12)

    assert go(prompts) == [go([prompt])[0] for prompt in prompts]


@pytest.mark.parametrize("reasons", [True, False])
def test_what_is_written_holds_special_tokens_only_where_they_belong(reasons: bool) -> None:
    # At a temperature this high every token comes up, the forbidden ones too if they could.
    generator = torch.Generator().manual_seed(1)
    rows = continue_batch(
        noisy_model(),
        TOKENIZER,
        [item.prompt for item in ITEMS],
        reasons=reasons,
        temperature=50,
        tokens_max=100,
        generator=generator,
    )
    closed = [row for row in rows if TOKENIZER.end_think in row]
    assert bool(closed) == reasons
    for row in rows:
        split = row.index(TOKENIZER.end_think) if row in closed else len(row) if reasons else -1
        hidden, visible = row[: max(split, 0)], row[split + 1 :]
        assert not TOKENIZER.special_ids & set(hidden)
        assert not (TOKENIZER.special_ids - {TOKENIZER.end}) & set(visible)
