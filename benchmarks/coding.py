"""Bits a token by codec, and what the code costs in time: `make bench NAME=coding`. Needs a pair (`make models`).

The first part is `bitweir codec bench` on the reference pair where there is one, else on the tiny one. The second
compares, inside one run and on one thread, the time of noise and coding with that of the strong model's forward pass
at 128 streams; medians of several.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import record
from bitweir_compression.coder import Writer
from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.models.checkpoint import Pair, models_root, open_pair
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.codecs import NoisePosterior, Place
from bitweir_services.answering import Limits, LoadedPair, load
from bitweir_services.codec_bench import BenchSpec, bench, table_lines
from bitweir_services.engines.hf import HuggingFaceEngine

SEED = 11
REQUESTS = 512
STREAMS = 128
STEPS = 10
REPEATS = 7
SAMPLINGS = (
    *(SamplingSpec(t) for t in (0.0, 0.7, 1.0)),
    SamplingSpec(1.0, top_p=0.95),
    SamplingSpec(0.7, top_p=0.9),
    SamplingSpec(1.0, top_k=50, top_p=0.95),
)
# Vocabulary and rows of a step, so that every row group takes about as long.
VOCABULARIES = ((4_096, 128), (32_768, 32), (152_064, 8))


def chosen_pair() -> tuple[str, Pair]:
    """Return the reference pair, or the tiny one."""
    name = "reference" if (models_root() / "reference" / "strong").is_dir() else "tiny"
    return name, open_pair(models_root() / name)


def median_s(work: Callable[[], object]) -> float:
    """Return the median time of several runs, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def coding_s(vocabulary: int, rows: int, hit_rate: float) -> float:
    """Return seconds a token for noise words, guesses and code, missing as often as given."""
    random = np.random.default_rng(SEED)
    logits = random.normal(0, 2.5, (rows, vocabulary))
    weights = np.rint(2**24 * np.exp(logits - logits.max(axis=1, keepdims=True)))
    frequencies = np.maximum(1, weights).astype(np.int64)
    places = [Place(bytes(31) + bytes([row]), 0, row) for row in range(rows)]
    codec = NoisePosterior(is_greedy=False)
    likely = codec.code(Guessing(), frequencies, places, [None] * rows)
    is_miss = random.random(rows) >= hit_rate
    tokens = [(token + int(missed)) % vocabulary for token, missed in zip(likely, is_miss, strict=True)]
    return median_s(lambda: codec.code(Writer(), frequencies, places, tokens)) / rows


class Guessing:
    """Reads a message in which every guess is right."""

    part = ""

    def symbol(self, weights: np.ndarray, value: int | None) -> int:
        """Return 0: no miss."""
        return 0

    def uniform(self, size: int, value: int | None) -> int:
        """Return 0."""
        return 0


def forward_s(loaded: LoadedPair) -> float:
    """Return seconds a token for a step of the strong model at 128 streams."""
    engine = HuggingFaceEngine(loaded.strong, slot_count=STREAMS)
    for slot in range(STREAMS):
        engine.admit(slot, [slot % 100 + 10] * 48)
    slots = list(range(STREAMS))

    def step() -> None:
        engine.step(slots)
        engine.commit(dict.fromkeys(slots, 10))

    return median_s(step) / STREAMS


def main() -> None:
    """Measure both parts and write benchmarks/results/coding.json."""
    torch.set_num_threads(1)
    name, pair = chosen_pair()
    loaded = load(pair)
    spec = BenchSpec(SEED, STREAMS, STEPS, SAMPLINGS, Limits(slot_count=STREAMS))
    document = bench(pair, loaded, held_out_prompts(REQUESTS, SEED), spec, lambda *_: None)
    hit_rate = next(r["hit_rate"] for r in document["rows"] if r["codec"] == "gumbel" and r["temperature"] == 1)
    forward = forward_s(loaded)
    speed = {
        "strong_forward_us_per_token": 1e6 * forward,
        "noise_and_coding_us_per_token": {str(v): 1e6 * coding_s(v, rows, hit_rate) for v, rows in VOCABULARIES},
    }
    share = speed["noise_and_coding_us_per_token"][str(VOCABULARIES[0][0])] / speed["strong_forward_us_per_token"]
    figures = {"pair": name, "speed": {**speed, "share_of_strong_forward": share, "hit_rate": hit_rate}, **document}
    path = record.write("coding", seed=SEED, figures=figures)
    print("\n".join(table_lines(document)))
    print(f"noise and coding take {share:.0%} of the strong model's forward pass at {STREAMS} streams; microseconds a")
    print(f"token: forward {1e6 * forward:.0f}, noise and coding {speed['noise_and_coding_us_per_token']}")
    print(path)


if __name__ == "__main__":
    main()
