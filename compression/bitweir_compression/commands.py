"""The commands of this package: `bitweir models`, `exact`, `corpus`, `noise`. Thin: parse, call, print."""

import dataclasses
import json as json_lines
import math
import secrets
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitweir_compression import noise as seeded_noise
from bitweir_compression.console import StageProgress, print_json, resumable
from bitweir_compression.corpus import Split
from bitweir_compression.corpus.foreign import FOREIGN_PROMPTS
from bitweir_compression.corpus.prompts import read_prompts
from bitweir_compression.errors import CheckpointError, CorpusError, NoiseError
from bitweir_compression.models.profiles import PROFILES, profile_named
from bitweir_compression.noise import NoiseStream

if TYPE_CHECKING:
    from bitweir_compression.models.acceptance import Criterion, Unit

models = typer.Typer(no_args_is_help=True)
exact = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ProfileName = Annotated[str, typer.Option("--profile", help=f"One of: {', '.join(PROFILES)}.")]
Root = Annotated[Path | None, typer.Option("--models", help="Models root; default $BITWEIR_MODELS, else ./models.")]


@models.command("build")
def build_models(
    profile: ProfileName = "tiny",
    root: Root = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Build the embedded strong and weak model; an interrupted build goes on where it stopped."""
    chosen = profile_named(profile)
    from bitweir_compression.models.build import build
    from bitweir_compression.models.checkpoint import models_root

    with StageProgress() as progress, resumable("the same command goes on from the last saved step"):
        pair = build(chosen, root or models_root(), progress, device)
    _print_pair([pair.strong.card, pair.weak.card], json=json)


@models.command("show")
def show_models(profile: ProfileName = "tiny", root: Root = None, json: Json = False) -> None:
    """Check a built pair against its cards and print them."""
    profile_named(profile)
    from bitweir_compression.models.checkpoint import models_root, open_pair

    pair = open_pair((root or models_root()) / profile)
    _print_pair([pair.strong.card, pair.weak.card], json=json)


@models.command("check")
def check_models(
    profile: ProfileName = "tiny",
    root: Root = None,
    foreign: Annotated[
        Path | None, typer.Option(help="Prompts of neither corpus, .txt or .jsonl; a built-in set by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a built pair on held-out and foreign prompts and hold it to the acceptance criteria.

    Losses, KL and entropy are in bits per visible token. Exit code 1 where a pair that is held to them fails one.
    """
    chosen = profile_named(profile)
    prompts = FOREIGN_PROMPTS if foreign is None else [record.prompt for record in read_prompts(foreign)]
    from bitweir_compression.models import acceptance
    from bitweir_compression.models.build import check
    from bitweir_compression.models.checkpoint import models_root, open_pair

    pair = open_pair((root or models_root()) / profile)
    strong, weak = pair.strong.model(), pair.weak.model()
    with StageProgress() as progress:
        measured = check(chosen, strong, weak, pair.strong.tokenizer(), foreign=prompts, progress=progress)
    found = acceptance.criteria(
        measured, strong_parameters=strong.num_parameters(), weak_parameters=weak.num_parameters()
    )
    ratios = acceptance.kl_over_entropy(measured)
    held, accepted = profile in acceptance.HELD_PROFILES, all(criterion.ok for criterion in found)
    if json:
        verdict = {"criteria": [criterion.to_dict() for criterion in found], "held": held, "accepted": accepted}
        print_json({**measured, "kl_over_entropy": ratios, **verdict})
    else:
        _print_measured(measured)
        for line in (*_ratio_lines(ratios), *_criteria_lines(found, profile, held=held)):
            typer.echo(line)
    if held and not accepted:
        raise typer.Exit(1)


@models.command("quantise")
def quantise_model(
    checkpoint: Annotated[
        Path, typer.Argument(help="A Hugging Face folder: Llama, Mistral, Qwen2, Qwen3 or GPT-NeoX.")
    ],
    out: Annotated[Path, typer.Argument(help="The exact file to write, or a folder for exact.safetensors.")],
    profile: Annotated[str, typer.Option(help="int16 (small models) or int8.")] = "int16",
    context: Annotated[
        int | None, typer.Option(min=1, help="Longest sequence to serve; the model's own by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to the exact form, the same bits on any machine, and print what that cost."""
    from bitweir_compression.exact.quantise import quantise

    report = quantise(checkpoint, out, profile=profile, context_tokens=context)
    if json:
        print_json(report.to_dict())
        return
    typer.echo(f"{report.profile}: {report.file_bytes:,} bytes, fingerprint {report.fingerprint[:16]}")
    typer.echo(f"against the float64 model on {report.token_count} pseudo-random tokens:")
    kl_bits = report.kl_nats_per_token / math.log(2)
    typer.echo(f"  KL {kl_bits:.2e} bits a token, largest logit error {report.logit_error_max:.4f} nats")
    typer.echo(f"  most likely token the same at {report.agreement:.1%} of positions")


@exact.command("freeze")
def freeze_vectors(
    file: Annotated[Path, typer.Argument(help="An exact file.")],
    out: Annotated[Path, typer.Argument(help="The vectors to write, JSON.")],
) -> None:
    """Compute vectors of a file on this machine, to certify other machines by."""
    from bitweir_compression.exact import format as exact_format
    from bitweir_compression.exact.certify import freeze

    vectors = freeze(exact_format.read(file))
    try:
        out.write_text(json_lines.dumps(vectors, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"cannot write {out}: {error.strerror}", remedy="name a file in a folder that exists"
        ) from error


@exact.command("certify")
def certify_machine(
    file: Annotated[Path, typer.Argument(help="An exact file.")],
    vectors: Annotated[Path | None, typer.Option(help="Vectors of another machine; made here by default.")] = None,
    json: Json = False,
) -> None:
    """Prove that this machine gives the same bits however the work is arranged; exit code 1 where it does not."""
    from bitweir_compression.exact import format as exact_format
    from bitweir_compression.exact.certify import certify, freeze, read_vectors

    frozen = freeze(exact_format.read(file)) if vectors is None else read_vectors(vectors)
    certificate = certify(file, frozen)
    if json:
        print_json(certificate)
    else:
        for check in certificate["checks"]:
            typer.echo(f"{'same bits' if check['ok'] else 'DIFFERENT':<10} {check['name']}  {check['detail']}".rstrip())
        for missing in certificate["not_run"]:
            typer.echo(f"{'not run':<10} {missing['name']}: {missing['why']}")
        typer.echo(
            f"file {certificate['fingerprint'][:16]}, vectors {certificate['vectors_sha256'][:16]}"
            f"{'' if vectors else ' (made here)'}: {'certified' if certificate['ok'] else 'NOT certified'}"
        )
    if not certificate["ok"]:
        raise typer.Exit(1)


def corpus(
    name: Annotated[str, typer.Argument(help="tutor or documentation.")] = "tutor",
    count: Annotated[int, typer.Option(min=1, help="Items to print.")] = 3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same items.")] = 1,
    split: Annotated[Split, typer.Option(help="Training or held-out problems.")] = Split.EVAL,
    family: Annotated[str, typer.Option(help="Only this family of the tutor.")] = "",
) -> None:
    """Print items of a corpus as JSON lines: prompt, reasoning, answer, final answer."""
    from bitweir_compression.corpus import documentation, tutor

    if name not in ("tutor", "documentation"):
        raise CorpusError(f"no corpus '{name}'", remedy="use tutor or documentation")
    if family and name != "tutor":
        raise CorpusError("only the tutor has families", remedy="leave --family out")
    if family:
        source = tutor.generate_family(family, seed, split)
    else:
        source = (tutor if name == "tutor" else documentation).generate(seed, split)
    for item in islice(source, count):
        typer.echo(json_lines.dumps(dataclasses.asdict(item)))


def noise(
    key: Annotated[str, typer.Option(help="Request key, 64 hexadecimal digits; a random one by default.")] = "",
    candidate: Annotated[int, typer.Option(help="Candidate of best-of-N.")] = 0,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Noise of the reasoning instead of the visible text.")
    ] = False,
    position: Annotated[int, typer.Option(help="Position within the stream.")] = 0,
    tokens: Annotated[int, typer.Option(help="Token ids 0 to tokens-1.")] = 8,
) -> None:
    """Print the seeded noise of one position as JSON, in units of 2**-24 bits."""
    try:
        raw = bytes.fromhex(key) if key else secrets.token_bytes(seeded_noise.KEY_BYTES)
    except ValueError:
        raise NoiseError("the key is not hexadecimal", remedy="give 64 hexadecimal digits") from None
    stream = NoiseStream.HIDDEN if hidden else NoiseStream.VISIBLE
    philox_key = seeded_noise.position_key(raw, candidate, stream, position)
    words = seeded_noise.words(philox_key, tokens)
    print_json(
        {
            "key": raw.hex(),
            "candidate": candidate,
            "stream": stream.name.lower(),
            "position": position,
            "philox_key": [f"{part:016x}" for part in philox_key],
            "words": [f"{int(word):016x}" for word in words],
            "gumbel": seeded_noise.gumbel(words).tolist(),
        }
    )


def _print_pair(cards: list[Mapping[str, Any]], *, json: bool) -> None:
    if json:
        print_json({card["role"]: card for card in cards})
        return
    for card in cards:
        typer.echo(
            f"{card['role']:<7}{card['parameter_count']:>12,} parameters   fingerprint {card['fingerprint'][:16]}"
        )
    _print_measured(cards[0]["measured"])


def _print_measured(measured: Mapping[str, Any]) -> None:
    """Print the table of `build.check`; a card that lacks a figure of it is no card of ours."""
    try:
        lines = _measured_lines(measured)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"a model card lacks figures: {error!r}", remedy="build the models again") from error
    for line in lines:
        typer.echo(line)


def _measured_lines(measured: Mapping[str, Any]) -> list[str]:
    lines = ["held-out, bits per visible token        strong    weak    H(P)   KL(P||W)"]
    rows = [(f"{kind} {name}", row) for kind in ("reference", "written") for name, row in measured[kind].items()]
    # Cards of 0.1.0's first builds have neither foreign prompts nor a guard.
    rows += [("written foreign", measured["foreign"])] if "foreign" in measured else []
    for name, row in rows:
        figures = (row["strong_bits"], row["weak_bits"], row["entropy_bits"], row["kl_bits"])
        lines.append(f"  {name:<36}" + "".join(f"{figure:9.3f}" for figure in figures))
    shares = measured["exact_share"]
    lines.append(f"exact greedy tutor answers: strong {shares['strong']:.1%}, weak {shares['weak']:.1%}")
    for name, found in measured.get("guard", {}).items():
        reasons = "".join(f"\n  {reason}" for reason in found["reasons"])
        lines.append(f"degeneracy guard, {name}: {found['verdict']}{reasons}")
    return lines


def _ratio_lines(ratios: Mapping[str, float | None]) -> list[str]:
    shown = ", ".join(f"{name} {'none' if ratio is None else f'{ratio:.3f}'}" for name, ratio in ratios.items())
    return [f"KL(P||W) / H(P) of what is written: {shown}"]


def _criteria_lines(found: "Sequence[Criterion]", profile: str, *, held: bool) -> list[str]:
    lines = ["", f"{'criterion':<48}{'value':>12}{'bound':>15}   ok"]
    for criterion in found:
        bound = f"{criterion.relation} {_shown(criterion.bound, criterion.unit)}"
        goal = ""
        if criterion.goal is not None:
            met = "met" if criterion.goal_met else "missed"
            goal = f"  (goal {criterion.relation} {_shown(criterion.goal, criterion.unit)}: {met})"
        value = _shown(criterion.value, criterion.unit)
        lines.append(f"{criterion.name:<48}{value:>12}{bound:>15}   {'yes' if criterion.ok else 'NO'}{goal}")
    failed = sum(not criterion.ok for criterion in found)
    verdict = f"{failed} of {len(found)} criteria fail" if failed else f"all {len(found)} criteria hold"
    if not held:
        return [*lines, f"{verdict}; the pair '{profile}' is for testing and not held to them"]
    return [*lines, f"{'NOT accepted' if failed else 'accepted'}: {verdict}"]


def _shown(value: float, unit: "Unit") -> str:
    """Return a figure as its unit is best read."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.3f}" if unit == "bits/token" else f"{value:,.0f}"
