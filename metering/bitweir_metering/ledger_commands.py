"""The commands `bitweir ledger`. Thin: parse, call, print. Nothing in the package imports this file."""

import json as json_lines
from pathlib import Path
from typing import Annotated, Any

import typer

from bitweir_metering import ledger as ledgers
from bitweir_metering import policy as policies
from bitweir_metering.errors import LedgerError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import Ledger, Report
from bitweir_metering.units import BITS_PER_BYTE, format_bytes

ledger = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
LedgerFile = Annotated[Path, typer.Argument(metavar="LEDGER", help="The file; its log lies beside it.")]


@ledger.command("create")
def create_ledger(
    file: Annotated[Path, typer.Argument(metavar="LEDGER", help="A new file, on a local disk.")],
    policy: Annotated[Path, typer.Option("--policy", help="A signed POLICY.toml of serial 1.")],
    json: Json = False,
) -> None:
    """Start the ledger of a link: its first entry is the policy. Once in the life of a lineage."""
    with Ledger.create(file, *policies.read(policy)):
        pass
    _print(ledgers.verify(file), json=json)


@ledger.command("show")
def show_ledger(file: LedgerFile, json: Json = False) -> None:
    """Check a ledger that no gate has open, and print what is reserved."""
    report = ledgers.verify(file)
    if not report.ok:
        raise LedgerError(report.problems[0], remedy="bitweir ledger verify names all that is wrong")
    _print(report, json=json)


@ledger.command("verify")
def verify_ledger(file: LedgerFile, json: Json = False) -> None:
    """Check all of a ledger that no gate has open. Exit code 0: sound. 1: what is wrong, a line each.

    A sound ledger may still be an old copy, or lack its newest entries: compare entries and head with the witness.
    """
    report = ledgers.verify(file)
    if json or report.ok:
        _print(report, json=json)
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
    if not report.ok:
        raise typer.Exit(1)


@ledger.command("export")
def export_ledger(file: LedgerFile) -> None:
    """Print every entry as one line of JSON, in order, sound or not."""
    for line in ledgers.export(file):
        typer.echo(line)


def _print(report: Report, *, json: bool) -> None:
    document = _document(report)
    if json:
        typer.echo(json_lines.dumps(document, indent=1))
        return
    for name in ("lineage", "link", "policy_serial", "entry_count", "entry_hash"):
        typer.echo(f"{name.replace('_', ' '):<14} {document[name]}")
    if document["tripped"]:
        typer.echo(f"{'tripped':<14} by entry {document['tripped']['sequence']}: {document['tripped']['reason']}")
    for name in ("limit_bits", "reserved_bits", "crash_loss_bits"):
        bits = document[name]
        typer.echo(f"{name.removesuffix('_bits').replace('_', ' '):<14} {bits} bits ({_size(bits)})")
    for name, bits in document["wire_bits"].items():
        typer.echo(f"  {name:<12} {bits} bits on the wire, {document['information_bits'][name]} of information")


def _document(report: Report) -> dict[str, Any]:
    head, policy = report.head, report.policy
    return {
        "ok": report.ok,
        "problems": list(report.problems),
        "lineage": policy and policy.lineage,
        "link": policy and policy.link,
        "policy_serial": policy and policy.serial,
        "policy_digest": policy and policy.digest().hex(),
        "entry_count": head.entry_count,
        "entry_hash": head.entry_hash.hex(),
        "limit_bits": policy and policy.limit_bits,
        "reserved_bits": head.totals.wire_bits,
        "crash_loss_bits": report.losses.wire_bits,
        "tripped": report.trip and {"sequence": report.trip.sequence, "reason": report.trip.reason},
        "wire_bits": _by_class(head.totals.wire),
        "information_bits": _by_class(head.totals.information),
    }


def _by_class(bits: tuple[int, ...]) -> dict[str, int]:
    return {kind.name.lower(): bits[kind] for kind in TrafficClass}


def _size(bits: int) -> str:
    return format_bytes(bits // BITS_PER_BYTE)
