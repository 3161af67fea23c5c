"""The command of this package: `bitweir generate`. Thin: parse, call, print."""

import json as json_lines
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bitweir_compression.console import StageProgress, print_json
from bitweir_compression.corpus.prompts import read_prompts
from bitweir_compression.models.checkpoint import models_root, open_pair
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.errors import RequestError


def generate(
    prompts: Annotated[
        Path, typer.Argument(help="JSONL with a field prompt or question, or one prompt a line (.txt).")
    ],
    count: Annotated[int, typer.Option(min=1, help="Answer the first so many prompts.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed, prompts and model give the same answers.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 keeps all tokens.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 keeps all tokens.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0 keeps all tokens.")] = 0.0,
    visible_tokens: Annotated[int, typer.Option(help="Visible tokens at most, each answer.")] = 160,
    hidden_tokens: Annotated[int, typer.Option(help="Reasoning tokens at most, each answer.")] = 160,
    slots: Annotated[int, typer.Option(min=1, help="Answers generated at once.")] = 32,
    profile: Annotated[str, typer.Option(help="Which built pair to use.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers here as JSON lines instead of to stdout.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document: answers and costs.")] = False,
) -> None:
    """Answer prompts with the strong model, seeded and repeatable; say what plain coding of the answers would cost."""
    sampling = SamplingSpec(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    texts = [record.prompt for record in read_prompts(prompts)[:count]]
    pair = open_pair((models or models_root()) / profile)
    _check_writable(out)
    from bitweir_services.answering import Limits, answer, load, upload_costs

    loaded = load(pair)
    limits = Limits(visible_tokens, hidden_tokens, slots)
    with StageProgress() as progress:
        answers = answer(loaded, texts, seed=seed, sampling=sampling, limits=limits, progress=progress)
    rows = [asdict(a) for a in answers]
    if out is not None:
        partial = out.with_name(out.name + ".partial")
        partial.write_text("".join(json_lines.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(out)
    costs = upload_costs(pair, loaded, answers, sampling=sampling)
    if json:
        print_json({"answers": rows, "costs": costs})
        return
    if out is None:
        for row in rows:
            typer.echo(json_lines.dumps(row))
    for line in cost_lines(costs):
        typer.echo(line, err=True)


def _check_writable(out: Path | None) -> None:
    """Refuse an output in a folder that is not there or not ours before the work, not after it."""
    if out is not None and not (os.access(out.parent, os.W_OK) and not out.is_dir()):
        raise RequestError(f"cannot write {out}", remedy="name a file in a folder that exists and can be written")


def cost_lines(costs: Mapping[str, Any]) -> Sequence[str]:
    """Return the cost table as lines of text."""
    measured = costs["measured"]
    lines = [f"{costs['tokens']:,} visible tokens, {costs['bytes']:,} bytes; weights {costs['weights_bytes']:,} bytes"]
    lines.append(f"{'':<12}{'bytes':>10}{'bits/token':>12}{'bits/byte':>11}{'upload/weights':>16}")
    for row in costs["rows"]:
        lines.append(
            f"{row['name']:<12}{row['bits'] / 8:>10,.0f}{row['bits_per_token']:>12.3f}{row['bits_per_byte']:>11.3f}"
            f"{row['upload_over_weights']:>16.2e}"
        )
    lines.append("weak_model is an ideal code length, -log2 W with the end of each answer: no coder, no framing yet.")
    lines.append(f"H(P) {measured['entropy_bits']:.3f}, KL(P||W) {measured['kl_bits']:.3f} bits per token")
    guard = costs["guard"]
    lines.append(f"degeneracy guard: {guard['verdict']}" + "".join(f"\n  {reason}" for reason in guard["reasons"]))
    return lines
