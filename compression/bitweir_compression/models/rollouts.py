"""What the strong model writes to training prompts: the text the weak model is distilled on. Imports torch.

Sampling here uses a seeded `torch.Generator` and plain softmax; it makes training data and nothing else. Serving
samples with the keyed noise of `noise.py`.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import DynamicCache

from bitweir_compression.corpus import Item
from bitweir_compression.errors import CheckpointError
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.training import Model, Progress

BATCH_SEQUENCES = 64


def write_rollouts(
    model: Model,
    tokenizer: ChatTokenizer,
    source: Iterator[Item],
    path: Path,
    *,
    count: int,
    temperatures: Sequence[float],
    tokens_max: int,
    seed: int,
    progress: Progress,
) -> None:
    """Append (prompt, continuation) rows to a JSONL file until it has `count`; goes on where an earlier call stopped.

    Batches are a function of their number, so an interrupted file ends up equal to a whole one.
    """
    done = len(read_rollouts(path)) if path.is_file() else 0
    done -= done % BATCH_SEQUENCES
    rows = read_rollouts(path)[:done] if done else []
    _replace(path, rows)
    prompts = islice(source, done, count)
    while group := [item.prompt for item in islice(prompts, BATCH_SEQUENCES)]:
        number = done // BATCH_SEQUENCES
        generator = torch.Generator(device=next(model.parameters()).device).manual_seed((seed << 32) + number)
        temperature = temperatures[number % len(temperatures)]
        continuations = continue_batch(
            model,
            tokenizer,
            group,
            reasons=True,
            temperature=temperature,
            tokens_max=tokens_max,
            generator=generator,
        )
        with path.open("a", encoding="utf-8") as file:
            for prompt, continuation in zip(group, continuations, strict=True):
                file.write(json.dumps({"prompt": prompt, "continuation": continuation}) + "\n")
        done += len(group)
        progress("rollouts", done, count, 0.0)


def read_rollouts(path: Path) -> list[tuple[str, list[int]]]:
    """Return the (prompt, continuation ids) rows of a rollout file; a last line cut short by a crash is ignored."""
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            rows.append((str(row["prompt"]), [int(i) for i in row["continuation"]]))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path}:{number} is not a rollout: {error}", remedy="delete the file") from error
    return rows


@torch.inference_mode()
def continue_batch(
    model: Model,
    tokenizer: ChatTokenizer,
    prompts: Sequence[str],
    *,
    reasons: bool,
    temperature: float,
    tokens_max: int,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue left-padded prompts until `<|end|>`, `tokens_max` or the context is full; temperature 0 is greedy.

    Special tokens are forbidden as in serving: in reasoning all but the one that closes it, in visible text all but the
    end.

    Args:
        model: the strong model, which reasons first, or the weak one, which does not.
        tokenizer: theirs.
        prompts: what is asked.
        reasons: whether the text begins in hidden reasoning.
        temperature: of the draw.
        tokens_max: tokens written at most.
        generator: of the draw.

    Returns:
        One list of ids a prompt, `<|end|>` included where it was reached.
    """
    device = next(model.parameters()).device
    openings = [tokenizer.strong_prompt(p) if reasons else tokenizer.weak_prompt(p) for p in prompts]
    width = max(len(opening) for opening in openings)
    pad, end, end_think = tokenizer.pad, tokenizer.end, tokenizer.end_think
    ids = torch.tensor([[pad] * (width - len(o)) + list(o) for o in openings], device=device)
    mask = torch.tensor([[0] * (width - len(o)) + [1] * len(o) for o in openings], device=device)
    forbidden = torch.zeros((2, model.config.vocab_size), dtype=torch.bool, device=device)
    forbidden[0, sorted(tokenizer.special_ids - {end})] = True
    forbidden[1, sorted(tokenizer.special_ids - {end_think})] = True
    cache = DynamicCache(config=model.config)
    written: list[torch.Tensor] = []
    running = torch.ones(len(openings), dtype=torch.bool, device=device)
    hidden = torch.full_like(running, reasons)
    for _ in range(min(tokens_max, int(model.config.max_position_embeddings) - width)):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        token = _draw(logits.float().masked_fill(forbidden[hidden.long()], -torch.inf), temperature, generator)
        token = torch.where(running, token, pad)
        written.append(token)
        running &= token != end
        hidden &= token != end_think
        if not bool(running.any()):
            break
        ids = token[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
    rows = torch.stack(written, dim=1).tolist() if written else [[] for _ in openings]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]


def _replace(path: Path, rows: Sequence[tuple[str, list[int]]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps({"prompt": p, "continuation": c}) + "\n" for p, c in rows), encoding="utf-8")
    partial.replace(path)
