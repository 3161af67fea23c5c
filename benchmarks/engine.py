"""Repeatability and speed of the Hugging Face engine: `make bench NAME=engine`. Needs the tiny pair (`make models`).

Same key, same tokens: every prompt is answered alone and then in batches, with two threads and in other number formats,
and the answers and tokens that differ are counted. What is left is float noise of the model.
"""

import copy
import sys
from collections.abc import Sequence

import torch

from benchmarks import record
from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.models.checkpoint import models_root, open_pair
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.answering import Answer, Limits, LoadedPair, answer, load

SEED = 1
PROMPTS = 100
VARIANTS = {
    "batch 8": {"slots": 8},
    "batch 32": {"slots": 32},
    "batch 100": {"slots": 100},
    "batch 32, 2 threads": {"slots": 32, "threads": 2},
    "batch 32, bfloat16 against float32": {"slots": 32, "dtype": torch.bfloat16},
    "alone, float64 against float32": {"slots": 1, "dtype": torch.float64},
}


def run(
    loaded: LoadedPair, texts: list[str], *, slots: int, threads: int = 1, dtype: torch.dtype = torch.float32
) -> list[Answer]:
    """Answer all prompts in one configuration."""
    torch.set_num_threads(threads)
    strong = copy.deepcopy(loaded.strong).to(dtype)
    limits = Limits(slot_count=slots)
    answers = answer(
        LoadedPair(strong, loaded.weak, loaded.tokenizer),
        texts,
        seed=SEED,
        sampling=SamplingSpec(),
        limits=limits,
        progress=lambda stage, done, total: None,
    )
    torch.set_num_threads(1)
    return answers


def differing(expected: Sequence[Answer], got: Sequence[Answer]) -> dict[str, float]:
    """Return the share of answers that differ, and of tokens up to each answer's first difference."""
    changed, compared = 0, 0
    for a, b in zip(expected, got, strict=True):
        first, second = [*a.hidden, *a.visible], [*b.hidden, *b.visible]
        same = next((i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), None)
        changed += same is not None
        compared += len(first) if same is None else same + 1
    return {"answers_changed": changed, "tokens_compared": compared, "changes_per_token": changed / compared}


def main() -> None:
    """Run all variants against the answers written alone and write benchmarks/results/engine.json."""
    loaded = load(open_pair(models_root() / "tiny"))
    texts = held_out_prompts(PROMPTS, SEED)
    alone = run(loaded, texts, slots=1)
    if alone != run(loaded, texts, slots=1):
        sys.exit("two runs of one configuration differ: the engine is not repeatable at all")
    figures = {name: differing(alone, run(loaded, texts, **options)) for name, options in VARIANTS.items()}
    tokens = sum(len(a.hidden) + len(a.visible) for a in alone)
    seconds = {
        slots: record.median_seconds(lambda s=slots: run(loaded, texts, slots=s), repeats=3) for slots in (1, 8, 32)
    }
    speed = {f"batch {slots}": tokens / value for slots, value in seconds.items()}
    path = record.write(
        "engine", seed=SEED, figures={"prompts": PROMPTS, "differences": figures, "tokens_per_s": speed}
    )
    for name, row in figures.items():
        print(f"{name:<36} {row['answers_changed']:>4} of {PROMPTS} answers, {row['changes_per_token']:.2e} a token")
    print(path)


if __name__ == "__main__":
    main()
