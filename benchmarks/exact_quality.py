"""What exactness costs in bits: `make bench NAME=exact_quality`. Needs the tiny pair (`make models`).

The strong model answers held-out prompts at T = 1. At every visible position P is the strong model's distribution
(after its reasoning), W the weak model's in float64, W' what a choice makes of it. `added` is KL(P||W') - KL(P||W): the
bits a token that the choice costs a coder. The goal is at most max(.002 bits, 5 % of KL(P||W)).
"""

import copy
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from benchmarks import record
from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.exact import schema, sources
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.quantise import convert, quantise
from bitweir_compression.models.checkpoint import models_root, open_pair
from bitweir_compression.models.examples import Exchange, exchange
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.answering import Limits, answer, load

SEED = 5
PROMPTS = 150
# Which inputs of linear layers get two 8-bit digits in the int8 profile.
DIGITS = {"none": (), "down": ("down",), "qkv": ("qkv",), "qkv and down": ("qkv", "down")}
GRIDS = (16, 64, 256)
# Steps a nat of the two tables inside the model; 1024 is what the format ships.
TABLES = {
    f"int16, {table} table 1/{1 << bits}": {f"{prefix}_EXPONENT": bits, entries: (nats << bits) + 1}
    for table, prefix, entries, nats in (
        ("softmax", "SCORE", "SOFTMAX_ENTRIES", 15),
        ("activation", "ACTIVATION", "ACTIVATION_ENTRIES", 16),
    )
    for bits in (4, 6, 8)
}

Rows = list[torch.Tensor]


@torch.inference_mode()
def log_rows(model: torch.nn.Module, sequences: list[tuple[int, ...]], counts: list[int]) -> Iterator[torch.Tensor]:
    """Yield log-probabilities at the positions that predict each sequence's last `counts` tokens: float64 [n, V]."""
    for ids, count in zip(sequences, counts, strict=True):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -count - 1 : -1]
        yield torch.log_softmax(logits.double(), -1)


def exact_rows(model: ExactModel, exchanges: list[Exchange]) -> Iterator[torch.Tensor]:
    """Yield the log of the exact model's normalised frequencies at the same positions."""
    for one in exchanges:
        logits = model.logits(torch.tensor([one.weak]))[0, -one.visible_count - 1 : -1]
        frequencies = model.frequencies(logits).double()
        yield torch.log(frequencies / frequencies.sum(-1, keepdim=True))


def on_a_grid(rows: Rows, steps: int) -> Iterator[torch.Tensor]:
    """Yield distributions whose logits were rounded to 1/steps nat and cut at 16 nats, and nothing else."""
    for row in rows:
        behind = ((row.amax(-1, keepdim=True) - row) * steps).round().clamp(max=16 * steps) / steps
        yield torch.log_softmax(-behind, -1)


def with_tables(model: torch.nn.Module, constants: dict[str, int], exchanges: list[Exchange]) -> Iterator[torch.Tensor]:
    """Yield `exact_rows` of a model whose tables are coarser than the format allows; only this benchmark makes such."""
    with mock.patch.multiple(schema, **constants):
        made = sources.extract(copy.deepcopy(model), int(model.config.max_position_embeddings))
        header, tensors = convert(made, "int16")
        yield from exact_rows(ExactModel(ExactFile("int16", made.architecture, header, tensors, "")), exchanges)


def divergence_bits(p: Rows, q: Iterator[torch.Tensor]) -> float:
    """Return the mean KL(P||Q) in bits a token."""
    total = sum(float((a.exp() * (a - b)).sum()) for a, b in zip(p, q, strict=True))
    return total / math.log(2) / sum(len(a) for a in p)


def main() -> None:
    """Measure every choice and write benchmarks/results/exact_quality.json."""
    torch.set_num_threads(1)
    loaded = load(open_pair(models_root() / "tiny"))
    asked = held_out_prompts(PROMPTS, SEED)
    answers = answer(loaded, asked, seed=SEED, sampling=SamplingSpec(), limits=Limits(), progress=lambda *_: None)
    exchanges = [exchange(loaded.tokenizer, a.prompt, [*a.hidden, *a.visible]) for a in answers if a.visible]
    counts = [one.visible_count for one in exchanges]
    strong = list(log_rows(loaded.strong.double(), [one.strong for one in exchanges], counts))
    weak_model = loaded.weak.double()
    weak = list(log_rows(weak_model, [one.weak for one in exchanges], counts))
    kl = divergence_bits(strong, iter(weak))
    added = {f"grid 1/{steps} alone": divergence_bits(strong, on_a_grid(weak, steps)) - kl for steps in GRIDS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exact.safetensors"
        quantise(copy.deepcopy(weak_model), path, profile="int16")
        added["int16"] = divergence_bits(strong, exact_rows(ExactModel(path), exchanges)) - kl
        for name, constants in TABLES.items():
            added[name] = divergence_bits(strong, with_tables(weak_model, constants, exchanges)) - kl
        for name, layers in DIGITS.items():
            quantise(copy.deepcopy(weak_model), path, profile="int8", two_digits=layers)
            added[f"int8, two digits: {name}"] = divergence_bits(strong, exact_rows(ExactModel(path), exchanges)) - kl
    goal = max(0.002, 0.05 * kl)
    figures = {"tokens": sum(counts), "kl_bits": kl, "goal_bits": goal, "added_bits": added}
    written = record.write("exact_quality", seed=SEED, figures=figures)
    print(f"{sum(counts)} tokens, KL(P||W) {kl:.4f} bits a token, goal {goal:.4f}")
    for name, bits in added.items():
        print(f"{name:<32} {bits:+.6f} bits a token {'' if bits <= goal else '  MISSES THE GOAL'}")
    print(written)


if __name__ == "__main__":
    main()
