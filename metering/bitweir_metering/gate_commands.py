"""The commands `bitweir gate`: how people take a tripped link up again. Thin; nothing in the package imports this file.

The gate itself is started by `python -m bitweir_metering.gate`, without any of this.
"""

from pathlib import Path
from typing import Annotated

import typer

from bitweir_metering import documents, keys, resets
from bitweir_metering import ledger as ledgers
from bitweir_metering.errors import LedgerError, PolicyError
from bitweir_metering.ledger import Ledger
from bitweir_metering.policy import (
    SIGNATURES_BYTES_MAX,
    Signatures,
    format_signatures,
    parse_signatures,
    signatures_path,
    valid_signatures,
)
from bitweir_metering.resets import RESET_BYTES_MAX, Reset

gate = typer.Typer(no_args_is_help=True)

LedgerFile = Annotated[Path, typer.Argument(metavar="LEDGER", help="The gate's; the gate must not run.")]
ResetFile = Annotated[Path, typer.Argument(metavar="RESET.json", help="A file that `bitweir gate propose` wrote.")]


@gate.command("propose")
def propose_reset(
    ledger: LedgerFile,
    file: Annotated[Path, typer.Argument(metavar="RESET.json", help="A new file, to be signed.")],
    reason: Annotated[str, typer.Option("--reason", help="Why the link may go on; it stays in the ledger.")],
) -> None:
    """Write what people have to sign so that a tripped link may go on."""
    report = ledgers.verify(ledger)
    if not report.ok:
        raise LedgerError(report.problems[0], remedy="bitweir ledger verify names all that is wrong")
    if report.trip is None or report.policy is None:
        raise LedgerError(f"{ledger} is not tripped", remedy="start the gate")
    if file.exists():
        raise PolicyError(f"{file} exists", remedy="name a new file")
    names = (report.policy.lineage, report.policy.link)
    documents.write_whole(file, Reset(*names, report.trip.sequence, report.trip.entry_hash.hex(), reason).canonical())
    typer.echo(f"tripped by entry {report.trip.sequence}: {report.trip.reason}")
    typer.echo(f"{report.policy.signers.threshold} signers have to sign {file}: bitweir gate sign")


@gate.command("sign")
def sign_reset(file: ResetFile, key: Annotated[Path, typer.Option("--key", help="Your key file.")]) -> None:
    """Add your signature to RESET.json.signatures, and print what you have signed."""
    reset, found = _read(file)
    private = keys.load(key)
    public = keys.public_key(private)
    signatures = {**valid_signatures(reset.message(), found), public: private.sign(reset.message())}
    documents.write_whole(signatures_path(file), format_signatures(signatures))
    typer.echo(f"signed with {public.hex()}: {reset.lineage}, {reset.link} may go on after entry {reset.sequence}")
    typer.echo(f"reason: {reset.reason}")


@gate.command("reset")
def apply_reset(ledger: LedgerFile, file: ResetFile) -> None:
    """Write a signed reset into the ledger; the gate can be started after that. The run before stays invalid."""
    with Ledger.open(ledger) as opened:
        sequence = opened.reset(*_read(file))
    typer.echo(f"entry {sequence}: the link may go on")


def _read(file: Path) -> tuple[Reset, Signatures]:
    reset = resets.parse(documents.read_content(file, RESET_BYTES_MAX))
    beside = signatures_path(file)
    if not beside.exists():
        return reset, {}
    return reset, parse_signatures(documents.read_content(beside, SIGNATURES_BYTES_MAX))
