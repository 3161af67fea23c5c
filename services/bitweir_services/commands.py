"""The commands of this package: `bitweir generate`, `bitweir codec`. Thin: parse, call, print."""

import json as json_lines
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bitweir_compression.console import StageProgress, print_json, resumable
from bitweir_compression.corpus.prompts import read_prompts
from bitweir_compression.models.checkpoint import models_root, open_pair
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.errors import RequestError

codec = typer.Typer(no_args_is_help=True)


@codec.command("text")
def code_text(
    file: Annotated[Path, typer.Argument(help="Any UTF-8 text, up to 8 MiB.")],
    json: Annotated[Path | None, typer.Option("--json", help="Write one JSON document here, print nothing.")] = None,
    profile: Annotated[str, typer.Option(help="Which built pair to use.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
) -> None:
    """Code a text file against the weak model, decode it again, and compare its size with zlib, xz and zstd."""
    from bitweir_compression.text import read_text

    content = read_text(file)
    _check_writable(json)
    if json is not None and json.exists() and json.samefile(file):
        raise RequestError(f"{json} is the text itself", remedy="name another file for the JSON document")
    pair = open_pair((models or models_root()) / profile)
    from bitweir_services.text_codec import measure, table_lines

    with StageProgress() as progress, resumable("nothing was written"):
        name = os.fsencode(file).decode(errors="replace")
        document = measure(pair, content, name=name, progress=progress)
    if json is not None:
        _write_whole(json, json_lines.dumps(document, indent=1, allow_nan=False) + "\n")
        return
    for line in table_lines(document):
        typer.echo(line)


@codec.command("bench")
def bench_codecs(
    json: Annotated[Path | None, typer.Option("--json", help="Write one JSON document here as well.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Held-out prompts to answer.")] = 256,
    streams: Annotated[int, typer.Option(min=1, help="Answers coded in lock step.")] = 128,
    steps_per_frame: Annotated[int, typer.Option(min=1, help="Tokens of each answer in one frame.")] = 10,
    temperature: Annotated[list[float] | None, typer.Option(help="Measure this one; can be repeated.")] = None,
    top_p: Annotated[float, typer.Option(help="With --temperature; 1 keeps all tokens.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="With --temperature; 0 keeps all tokens.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 11,
    profile: Annotated[str, typer.Option(help="Which built pair to use.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
) -> None:
    """Code the strong model's answers with every codec, decode them again, and print what each costs.

    Without --temperature: T = 0, .7 and 1 whole, T = 1 with top_p .95, T = .7 with top_p .9, T = 1 with top_k 50 and
    top_p .95.
    """
    if temperature is None and (top_p != 1 or top_k):
        raise RequestError("top_p and top_k need a temperature", remedy="add --temperature")
    samplings = [SamplingSpec(t, top_k=top_k, top_p=top_p) for t in temperature or ()] or [
        *(SamplingSpec(t) for t in (0.0, 0.7, 1.0)),
        SamplingSpec(1.0, top_p=0.95),
        SamplingSpec(0.7, top_p=0.9),
        SamplingSpec(1.0, top_k=50, top_p=0.95),
    ]
    _check_writable(json)
    pair = open_pair((models or models_root()) / profile)
    from bitweir_compression.corpus.held_out import held_out_prompts
    from bitweir_services.answering import Limits, load
    from bitweir_services.codec_bench import BenchSpec, bench, table_lines

    spec = BenchSpec(seed, streams, steps_per_frame, tuple(samplings), Limits(slot_count=min(streams, 128)))
    with StageProgress() as progress, resumable("nothing was written"):
        document = bench(pair, load(pair), held_out_prompts(requests, seed), spec, progress)
    if json is not None:
        _write_whole(json, json_lines.dumps(document, indent=1, allow_nan=False) + "\n")
    for line in table_lines(document):
        typer.echo(line)
    if any(row["mismatches"] for row in document["rows"]):
        raise typer.Exit(1)


@codec.command("decode")
def decode_lane(
    record: Annotated[Path, typer.Argument(help="A run folder, or a lane.json.")],
    weak: Annotated[Path | None, typer.Option(help="The exact weak model; by default that of the profile.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with; the result does not depend on it.")] = 1,
    profile: Annotated[str, typer.Option(help="Which built pair to use.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers here as JSON lines instead of to stdout.")] = None,
) -> None:
    """Decode what crossed a lane, from the grants, the frames and the weak model alone."""
    from bitweir_services import lane_record

    _check_writable(out)
    crossed = lane_record.read(record)
    import torch

    from bitweir_compression.exact import format as exact_format
    from bitweir_compression.models.exact_weak import open_exact_weak
    from bitweir_services.transmission import decode

    torch.set_num_threads(threads)
    file = exact_format.read(weak) if weak else open_exact_weak(open_pair((models or models_root()) / profile))
    with StageProgress() as progress, resumable("nothing was written"):
        streams = decode(file, crossed, progress=progress)
    lines = [json_lines.dumps({"stream": number, "tokens": tokens}) for number, tokens in enumerate(streams)]
    if out is not None:
        _write_whole(out, "".join(line + "\n" for line in lines))
        return
    for line in lines:
        typer.echo(line)


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
        _write_whole(out, "".join(json_lines.dumps(row) + "\n" for row in rows))
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


def _write_whole(out: Path, text: str) -> None:
    """Write a file in one step, or leave it as it was."""
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}", remedy="name a file elsewhere") from error
    finally:
        partial.unlink(missing_ok=True)


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
