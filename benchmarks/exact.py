"""Speed of the exact model against the float model it came from: `make bench NAME=exact`. One thread.

Both run in one process, taking turns, so that a busy machine slows both. Decode is one token for each sequence of a
batch after a prompt; prefill is whole prompts; frequencies is the step from logits to integer weights, which the float
model does not have. The float model is the bare Hugging Face forward in float32 with a dynamic cache, no sampling.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks import record
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.quantise import quantise

SEED = 1
BATCHES = (1, 8, 32, 128)
PROMPT_TOKENS = 64
DECODE_STEPS = 8
REPEATS = 9
# The weak model of profile `reference`, and one that fills the caches of a laptop.
SHAPES = {
    "0.7M": {"hidden_size": 112, "intermediate_size": 304, "num_hidden_layers": 2, "num_attention_heads": 4},
    "10M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 10, "num_attention_heads": 8},
}
VOCABULARY = 4096


def float_model(shape: dict[str, int]) -> Any:
    """Return a Llama with seeded random weights, large enough not to be flat."""
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, tie_word_embeddings=True, **shape)
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.05, generator=generator)
    return model


@torch.inference_mode()
def float_prefill(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)


@torch.inference_mode()
def float_decode(model: Any, cache: Any, ids: torch.Tensor) -> None:
    for step in range(DECODE_STEPS):
        model(input_ids=ids[:, step : step + 1], past_key_values=cache, use_cache=True)
    cache.crop(-DECODE_STEPS)


def exact_decode(model: ExactModel, cache: Any, ids: torch.Tensor) -> None:
    rows = range(len(ids))
    for step in range(DECODE_STEPS):
        model.step(cache, rows, ids[:, step].tolist())
    cache.lengths = [PROMPT_TOKENS] * len(ids)


def taking_turns(works: dict[str, dict[str, Callable[[], Any]]]) -> dict[str, dict[str, float]]:
    """Return median seconds of every work; each round runs all of them once, and the first round is not counted."""
    times: dict[tuple[str, str], list[float]] = {(name, kind): [] for name, kinds in works.items() for kind in kinds}
    for _ in range(1 + REPEATS):
        for (name, kind), seconds in times.items():
            start = time.perf_counter()
            works[name][kind]()
            seconds.append(time.perf_counter() - start)
    return {name: {kind: statistics.median(times[name, kind][1:]) for kind in kinds} for name, kinds in works.items()}


def measure(model: Any, exact: dict[str, ExactModel], batch: int) -> dict[str, dict[str, float]]:
    """Return tokens per second of each model at one batch size."""
    ids = torch.randint(
        VOCABULARY, (batch, PROMPT_TOKENS + DECODE_STEPS), generator=torch.Generator().manual_seed(SEED)
    )
    prompt, rest = ids[:, :PROMPT_TOKENS], ids[:, PROMPT_TOKENS:]
    float_cache = float_prefill(model, prompt).past_key_values
    works: dict[str, dict[str, Callable[[], Any]]] = {
        "float32": {
            "prefill": lambda: float_prefill(model, prompt),
            "decode": lambda: float_decode(model, float_cache, rest),
        }
    }
    for name, one in exact.items():
        cache = one.cache(batch)
        one.prefill(cache, range(batch), prompt.tolist())
        logits = one.step(cache, range(batch), rest[:, 0].tolist())
        cache.lengths = [PROMPT_TOKENS] * batch
        works[name] = {
            "frequencies": lambda one=one, logits=logits: one.frequencies(logits),
            "prefill": lambda one=one: one.prefill(one.cache(batch), range(batch), prompt.tolist()),
            "decode": lambda one=one, cache=cache: exact_decode(one, cache, rest),
        }
    tokens = {"prefill": batch * PROMPT_TOKENS, "decode": batch * DECODE_STEPS, "frequencies": batch}
    return {
        name: {kind: tokens[kind] / value for kind, value in row.items()} for name, row in taking_turns(works).items()
    }


def main() -> None:
    """Measure all shapes and batch sizes and write benchmarks/results/exact.json."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for label, shape in SHAPES.items():
        model = float_model(shape)
        exact, reports = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for profile in ("int16", "int8"):
                path = Path(folder) / f"{profile}.safetensors"
                reports[profile] = quantise(copy.deepcopy(model), path, profile=profile).to_dict()
                exact[profile] = ExactModel(path)
        speeds = {f"batch {batch}": measure(model, exact, batch) for batch in BATCHES}
        ratios = {
            batch: {
                name: {kind: row[name][kind] / value for kind, value in row["float32"].items()}
                for name in row
                if name != "float32"
            }
            for batch, row in speeds.items()
        }
        figures[label] = {"shape": shape, "quality": reports, "tokens_per_s": speeds, "ratio_to_float32": ratios}
        for batch, row in speeds.items():
            cells = [f"{name} {row[name]['decode']:8.0f} {row[name]['prefill']:8.0f}" for name in row]
            print(f"{label:<6} {batch:<10} decode, prefill tokens/s: {' | '.join(cells)}")
    print(record.write("exact", seed=SEED, figures=figures))


if __name__ == "__main__":
    main()
