"""What shared noise saves: `make bench NAME=posterior`. Needs the tiny pair (`make models`).

The strong model answers held-out prompts; each visible token is coded against the weak model, once by plain arithmetic
coding and once by the posterior given the noise, and decoded again. One process, the weak model in float32: this is the
code of tokens, without the exact weak model, frames or recovery of a session.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks import record
from bitweir_compression import noise
from bitweir_compression.coder import Reader, Writer
from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.models.checkpoint import models_root, open_pair
from bitweir_compression.models.evaluation import measure
from bitweir_compression.models.examples import exchange
from bitweir_compression.noise import NoiseStream
from bitweir_compression.posterior import Guess, Posterior, guesses
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.answering import Answer, Limits, LoadedPair, answer, load, master_key

SEED = 11
PROMPTS = 300
TEMPERATURES = (1.0, 0.7, 0.0)

Position = tuple[np.ndarray, np.ndarray | None, int]


@torch.inference_mode()
def positions(loaded: LoadedPair, answers: list[Answer], temperature: float) -> Iterator[Position]:
    """Yield weak frequencies, noise words and the token of every visible position."""
    tokenizer, master = loaded.tokenizer, master_key(SEED)
    forbidden = sorted(tokenizer.special_ids - {tokenizer.end})
    for number, one in enumerate(answers):
        ids = [*tokenizer.weak_prompt(one.prompt), *one.visible]
        logits = loaded.weak(input_ids=torch.tensor([ids])).logits[0, -len(one.visible) - 1 : -1]
        for index, row in enumerate(logits.double().numpy() / (temperature or 1.0)):
            steps = np.clip(np.rint((row - row.max()) * 64), -16 * 64, 0)
            frequencies = np.maximum(1, np.rint(np.exp(steps / 64) * (1 << 24))).astype(np.int64)
            frequencies[forbidden] = 1
            key = noise.position_key(noise.request_key(master, number), 0, NoiseStream.VISIBLE, index)
            yield frequencies, noise.words(key, len(frequencies)) if temperature else None, one.visible[index]


def one(frequencies: np.ndarray, words: np.ndarray | None) -> Guess:
    """Return the guess of one position."""
    return guesses(frequencies[None], None if words is None else [words])[0]


def code(rows: list[Position]) -> dict[str, float]:
    """Code and decode all positions and return bits a token."""
    sender, receiver, encoder = Posterior(), Posterior(), Writer()
    ideal = arithmetic = 0.0
    hits = 0
    for frequencies, words, token in rows:
        expected = one(frequencies, words)
        hits += expected.token == token
        ideal -= math.log2(sender.probability(expected, token))
        arithmetic -= math.log2(int(frequencies[token]) / int(frequencies.sum()))
        sender.code(encoder, expected, token)
    bits = encoder.finish()
    reader = Reader(bits)
    if any(receiver.code(reader, one(f, words), None) != token for f, words, token in rows):
        sys.exit("decoding gave other tokens: nothing to report")
    count = len(rows)
    return {
        "tokens": count,
        "arithmetic_bits_per_token": arithmetic / count,
        "posterior_ideal_bits_per_token": ideal / count,
        "posterior_coded_bits_per_token": bits.count / count,
        "hit_rate": hits / count,
    }


def main() -> None:
    """Measure every temperature and write benchmarks/results/posterior.json."""
    torch.set_num_threads(1)
    loaded = load(open_pair(models_root() / "tiny"))
    figures = {}
    for temperature in TEMPERATURES:
        spec = SamplingSpec(temperature=temperature)
        answers = answer(
            loaded, held_out_prompts(PROMPTS, SEED), seed=SEED, sampling=spec, limits=Limits(), progress=lambda *_: None
        )
        answers = [one for one in answers if one.visible]
        exchanges = [exchange(loaded.tokenizer, a.prompt, [*a.hidden, *a.visible]) for a in answers]
        measured = dataclasses.asdict(measure(loaded.strong, loaded.weak, loaded.tokenizer, exchanges, spec))
        figures[str(temperature)] = {**measured, **code(list(positions(loaded, answers, temperature)))}
    path = record.write("posterior", seed=SEED, figures=figures)
    for temperature, row in figures.items():
        print(
            f"T={temperature}: H {row['entropy_bits']:.2f}, KL {row['kl_bits']:.2f}, arithmetic "
            f"{row['arithmetic_bits_per_token']:.2f}, given noise {row['posterior_coded_bits_per_token']:.2f} bits, "
            f"guess right {row['hit_rate']:.0%}"
        )
    print(path)


if __name__ == "__main__":
    main()
