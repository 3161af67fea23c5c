"""The commands of this package: `bitweir demo`, `bitweir up`, `bitweir forecast`. Thin: parse, call, print."""

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bitweir_compression.console import StageProgress, print_json, resumable
from bitweir_compression.models.checkpoint import models_root
from bitweir_compression.models.profiles import profile_named
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.errors import TopologyError


def demo(
    size: Annotated[int, typer.Option(min=1, max=10_000, help="Prompts to answer.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same prompts and answers.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    profile: Annotated[str, typer.Option(help="Which embedded pair; built first when it is not there.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a new one below ./runs by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON document.")] = False,
) -> None:
    """Answer tutor and documentation prompts with the strong model and report what uploading the answers costs."""
    chosen = profile_named(profile)
    sampling = SamplingSpec(temperature=temperature)
    from bitweir_compression.models.build import build
    from bitweir_loadgen.demo import run_demo
    from bitweir_loadgen.run_folder import RunFolder
    from bitweir_services.commands import cost_lines

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = RunFolder(out or Path("runs") / f"demo-{stamp}")
    with StageProgress() as progress, resumable("a build goes on from its last saved step"):
        pair = build(chosen, models or models_root(), progress)
    with StageProgress() as progress, resumable(f"{folder.path} is incomplete: delete it and start again"):
        summary = run_demo(pair, folder, profile=profile, size=size, seed=seed, sampling=sampling, progress=progress)
    if json:
        print_json(summary)
        return
    for line in cost_lines(summary["costs"]):
        typer.echo(line)
    typer.echo(f"report: {folder.path / 'report.html'}")


def up(
    topology: Annotated[
        str, typer.Option(help="Only `local` is built: processes of this machine, nothing enforced.")
    ] = "local",
    profile: Annotated[str, typer.Option(help="Which embedded pair; built first when it is not there.")] = "tiny",
    models: Annotated[Path | None, typer.Option(help="Models root; default $BITWEIR_MODELS, else ./models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a new one below ./runs by default.")] = None,
) -> None:
    """Start both sites, the gate, a witness and the meters, serve the API until Ctrl-C, then say what left."""
    if topology != "local":
        raise TopologyError(f"no topology {topology!r:.40}", remedy="use local; netns and Kubernetes are not built yet")
    chosen = profile_named(profile)
    from bitweir_compression.models.build import build
    from bitweir_compression.models.exact_weak import open_exact_weak
    from bitweir_metering.ledger import verify
    from bitweir_services.topology.local import METERS, LocalTopology

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = out or Path("runs") / f"up-{stamp}"
    with StageProgress() as progress, resumable("a build goes on from its last saved step"):
        pair = build(chosen, models or models_root(), progress)
    open_exact_weak(pair)
    with LocalTopology(folder, pair.strong.folder.parent, pair.strong.weights_bytes) as running:
        host, port = running.api
        typer.echo(f"API: http://{host}:{port}/v1 (OpenAI-compatible; model bitweir)")
        typer.echo(f"{METERS}; logs: {folder / 'logs'}; Ctrl-C ends it", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
                running.check()
    report = verify(running.ledger_path)
    if not report.ok:
        raise TopologyError(f"the ledger is not sound: {report.problems[0]}", remedy=f"keep {folder} as it is")
    reserved, lost = report.totals.wire_bits, report.losses.wire_bits
    weights_bits = 8 * pair.strong.weights_bytes
    typer.echo(f"reserved {reserved} bits, {lost} of them never sent; (reserved - lost) / weights = "
               f"{(reserved - lost) / weights_bits:.3g}")  # fmt: skip


def forecast(
    bits: Annotated[
        list[float] | None, typer.Option("--bits", help="Wire bits an exported token; may be given several times.")
    ] = None,
    headroom: Annotated[float, typer.Option(help="Daily cap over the mean day's upload, from 1.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document, sources and all.")] = False,
) -> None:
    """Lifetime upload over weights at published volumes, for typical codes or for the bits a token you measured."""
    from bitweir_loadgen.scenarios import ATTACKERS, CODES, SCENARIOS, table

    codes = {f"{one:g} bits": one for one in bits} if bits else CODES
    rows = table(codes, headroom=headroom)
    if json:
        print_json({"codes": dict(codes), "headroom": headroom, "rows": rows})
        return
    width = max(len(scenario.name) for scenario in SCENARIOS)
    columns = "".join(f"{name[:11]:>12}" for name in codes)
    typer.echo(f"lifetime upload / weights\n{'':<{width}}{columns}{'break-even':>12}")
    for row in rows:
        figures = "".join(f"{figure:>12.3g}" for figure in row["upload_ratio"].values())
        typer.echo(f"{row['name']:<{width}}{figures}{row['break_even_bits']:>12.3g}")
    for attacker, _ in ATTACKERS:
        typer.echo(f"days to exfiltrate, {attacker}, cap filled (headroom {headroom:g})")
        for row in rows:
            figures = "".join(f"{days[attacker]:>12.3g}" for days in row["days_to_exfiltrate"].values())
            typer.echo(f"{row['name']:<{width}}{figures}")
    typer.echo("sources and assumptions: --json")
