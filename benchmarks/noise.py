"""Speed of the seeded noise: `make bench NAME=noise`. Tokens drawn per second on one thread, and the share of a step.

`cheap` computes exact noise only where it can win, `full` for every token; both draw the same token. `scores` is the
conversion of float logits to integer scores, which sampling without noise would need in another form too.
"""

import sys

import numpy as np
import torch

from benchmarks import record
from bitweir_compression import noise, noise_torch, sampling
from bitweir_compression.noise import NoiseStream
from bitweir_compression.sampling import SamplingSpec

SEED = 1
ROWS = 64
VOCABULARIES = (4096, 32_768, 151_936)


def measure(vocabulary_size: int) -> dict[str, float]:
    """Return tokens per second of each way to draw, and ratios to the cheap one."""
    logits = np.random.default_rng(SEED).normal(0, 3, (ROWS, vocabulary_size)).astype(np.float32)
    spec = SamplingSpec()
    keys = [noise.position_key(bytes(32), 0, NoiseStream.VISIBLE, row) for row in range(ROWS)]
    scores = [sampling.scores(row, spec) for row in logits]
    words = [noise.words(key, vocabulary_size) for key in keys]
    torch_scores, torch_words = torch.from_numpy(np.stack(scores)), noise_torch.words(keys, vocabulary_size)

    def full() -> list[int]:
        return [
            int((s + noise.gumbel(noise.words(k, vocabulary_size))).argmax()) for s, k in zip(scores, keys, strict=True)
        ]

    def cheap() -> list[int]:
        return noise.choose(scores, [noise.words(key, vocabulary_size) for key in keys])

    if not full() == cheap() == noise_torch.choose(torch_scores, torch_words).tolist():
        sys.exit("the ways to draw disagree: nothing to time")
    seconds = {
        "cheap": record.median_seconds(cheap),
        "full": record.median_seconds(full),
        "words_only": record.median_seconds(lambda: [noise.words(k, vocabulary_size) for k in keys]),
        "choose_only": record.median_seconds(lambda: noise.choose(scores, words)),
        "scores_only": record.median_seconds(lambda: [sampling.scores(row, spec) for row in logits]),
        "torch_cpu": record.median_seconds(
            lambda: noise_torch.choose(torch_scores, noise_torch.words(keys, vocabulary_size)), repeats=3
        ),
    }
    figures = {f"{name}_tokens_per_s": ROWS / value for name, value in seconds.items()}
    return {**figures, "full_over_cheap": seconds["full"] / seconds["cheap"]}


def main() -> None:
    """Measure every vocabulary size and write benchmarks/results/noise.json."""
    torch.set_num_threads(1)
    figures = {str(size): measure(size) for size in VOCABULARIES}
    path = record.write("noise", seed=SEED, figures=figures)
    for size, row in figures.items():
        print(
            f"V={size:>7}: {row['cheap_tokens_per_s']:>9,.0f} tokens/s, {row['full_over_cheap']:.1f} times the full way"
        )
    print(path)


if __name__ == "__main__":
    main()
