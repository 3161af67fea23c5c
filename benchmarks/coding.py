"""Bits a token by codec, and what the code costs in time: `make bench NAME=coding`. Needs a pair (`make models`).

1. `bitweir codec bench` on the reference pair where there is one, else on the tiny one.
2. The gumbel codec beside a simulation: the weak model's own logits plus Gaussian noise, of a size that differs from
   position to position, scaled until KL(P||W) is what the pair has. What the pair pays above that is what its
   disagreements have that Gaussian ones do not.
3. Time: noise and coding against the strong model's forward pass at 128 streams, inside one run, on one thread, medians
   of several.
"""

import math

import numpy as np
import torch

from benchmarks import record
from bitweir_compression import noise
from bitweir_compression.coder import Writer
from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.models.checkpoint import Pair, models_root, open_pair
from bitweir_compression.posterior import Posterior, guesses
from bitweir_compression.sampling import SamplingSpec, scores
from bitweir_compression.session.codecs import NoisePosterior, Place
from bitweir_services.answering import Limits, LoadedPair, answer, load
from bitweir_services.codec_bench import BenchSpec, bench, table_lines
from bitweir_services.engines.hf import HuggingFaceEngine

SEED = 11
SIMULATED, SIMULATED_TOKENS = 200, 4000
REQUESTS = 512
STREAMS = 128
STEPS = 10
LIMITS = Limits(slot_count=128)
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


@torch.inference_mode()
def simulated(loaded: LoadedPair, kl_bits: float) -> dict[str, float]:
    """Return what the gumbel codec pays for simulated tokens at a given KL, ideal bits a token."""
    answers = answer(
        loaded, held_out_prompts(SIMULATED, SEED), seed=SEED, sampling=SamplingSpec(), limits=LIMITS, progress=silent
    )
    rows = []
    for one in answers:
        if one.visible:
            ids = [*loaded.tokenizer.weak_prompt(one.prompt), *one.visible]
            rows.append(loaded.weak(input_ids=torch.tensor([ids])).logits[0, -len(one.visible) - 1 : -1])
    weak = torch.cat(rows)[:SIMULATED_TOKENS].double()
    random = np.random.default_rng(SEED)
    spread = torch.from_numpy(np.exp(0.6 * random.normal(size=(len(weak), 1))))
    shape = spread * torch.from_numpy(random.normal(size=tuple(weak.shape)))
    low, high = 0.0, 4.0
    for _ in range(24):
        scale = (low + high) / 2
        low, high = (scale, high) if kl_of(weak + scale * shape, weak) < kl_bits else (low, scale)
    strong = (weak + low * shape).numpy()
    steps = np.clip(np.rint((weak - weak.max(dim=1, keepdim=True).values).numpy() * 64), -16 * 64, 0)
    frequencies = np.maximum(1, np.rint(np.exp(steps / 64) * (1 << 24))).astype(np.int64)
    keys = [noise.position_key(bytes(32), 0, noise.NoiseStream.VISIBLE, index) for index in range(len(strong))]
    words = noise.word_rows(keys, strong.shape[1])
    posterior, writer = Posterior(), Writer()
    tokens = noise.choose([scores(row, SamplingSpec()) for row in strong], words)
    for start in range(0, len(strong), 64):
        part = slice(start, start + 64)
        for guess, token in zip(guesses(frequencies[part], words[part]), tokens[part], strict=True):
            posterior.code(writer, guess, token)
    log_p = torch.log_softmax(torch.from_numpy(strong), dim=1)
    return {
        "tokens": len(tokens),
        "kl_bits": kl_of(torch.from_numpy(strong), weak),
        "entropy_bits": float(-(log_p.exp() * log_p).sum(1).mean()) / math.log(2),
        "tv": float((log_p.exp() - weak.softmax(1)).abs().sum(1).mean()) / 2,
        "gumbel_ideal_bits_per_token": sum(writer.ideal_bits.values()) / len(tokens),
    }


def kl_of(strong: torch.Tensor, weak: torch.Tensor) -> float:
    """Return the mean KL of two models' logits, bits a token."""
    log_p, log_w = torch.log_softmax(strong, dim=1), torch.log_softmax(weak, dim=1)
    return float((log_p.exp() * (log_p - log_w)).sum(1).mean()) / math.log(2)


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


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
    return record.median_seconds(lambda: codec.code(Writer(), frequencies, places, tokens)) / rows


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

    return record.median_seconds(step) / STREAMS


def main() -> None:
    """Measure both parts and write benchmarks/results/coding.json."""
    torch.set_num_threads(1)
    name, pair = chosen_pair()
    loaded = load(pair)
    spec = BenchSpec(SEED, STREAMS, STEPS, SAMPLINGS, LIMITS)
    document = bench(pair, loaded, held_out_prompts(REQUESTS, SEED), spec, silent)
    whole = next(r for r in document["rows"] if (r["codec"], r["temperature"], r["top_p"]) == ("gumbel", 1, 1))
    hit_rate, simulation = whole["hit_rate"], simulated(loaded, whole["kl_bits"])
    forward = forward_s(loaded)
    speed = {
        "strong_forward_us_per_token": 1e6 * forward,
        "noise_and_coding_us_per_token": {str(v): 1e6 * coding_s(v, rows, hit_rate) for v, rows in VOCABULARIES},
    }
    share = speed["noise_and_coding_us_per_token"][str(VOCABULARIES[0][0])] / speed["strong_forward_us_per_token"]
    figures = {
        "pair": name,
        "simulation": simulation,
        "speed": {**speed, "share_of_strong_forward": share, "hit_rate": hit_rate},
        **document,
    }
    path = record.write("coding", seed=SEED, figures=figures)
    print("\n".join(table_lines(document)))
    print(f"simulated at that KL, T=1: {simulation}")
    print(f"noise and coding take {share:.0%} of the strong model's forward pass at {STREAMS} streams; microseconds a")
    print(f"token: forward {1e6 * forward:.0f}, noise and coding {speed['noise_and_coding_us_per_token']}")
    print(path)


if __name__ == "__main__":
    main()
