"""The commands of this package: `bitweir keys`, `bitweir policy`. Thin: parse, call, print.

Nothing in the package imports this file: the gate's process has no command line library in it.
"""

import json as json_lines
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bitweir_metering import documents, policy_view
from bitweir_metering import keys as key_files
from bitweir_metering import policy as policies
from bitweir_metering.units import format_bytes
from bitweir_metering.weights import METHOD, measure

keys = typer.Typer(no_args_is_help=True)
policy = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY.toml", help="See docs/reference/policy.md.")]


@keys.command("new")
def new_key(
    file: Annotated[Path, typer.Argument(help="A new file; it gets mode 0600.")],
    json: Json = False,
) -> None:
    """Make an Ed25519 key, write it to a new file that nobody else can open, and print the public key."""
    public = key_files.new(file).hex()
    typer.echo(json_lines.dumps({"file": os.fspath(file), "public_key": public}) if json else public)


@keys.command("shared")
def new_shared_key(file: Annotated[Path, typer.Argument(help="A new file; it gets mode 0600.")]) -> None:
    """Make a key that two sides of a link hold. Make it outside and bring it in: nothing is carried out for it."""
    key_files.new_shared(file)


@keys.command("show")
def show_key(
    file: Annotated[Path, typer.Argument(help="A file that `bitweir keys new` made.")],
    json: Json = False,
) -> None:
    """Print the public key of a key file."""
    public = key_files.public_key(key_files.load(file)).hex()
    typer.echo(json_lines.dumps({"file": os.fspath(file), "public_key": public}) if json else public)


@policy.command("sign")
def sign_policy(
    file: PolicyFile,
    key: Annotated[Path, typer.Option("--key", help="Your key file.")],
) -> None:
    """Add your signature to POLICY.toml.signatures; signatures of what the policy was before an edit go."""
    signed, found = policies.read(file)
    private = key_files.load(key)
    public = key_files.public_key(private)
    kept = policies.valid_signatures(signed.message(), found)
    signatures = {**kept, public: private.sign(signed.message())}
    documents.write_whole(policies.signatures_path(file), policies.format_signatures(signatures))
    typer.echo(f"signed policy {signed.digest().hex()}, serial {signed.serial}, with {public.hex()}")
    for stale in sorted(set(found) - set(kept) - {public}):
        typer.echo(f"removed the signature of {stale.hex()}: it is not of this policy", err=True)
    if public not in signed.signers.keys:
        typer.echo("this key is none of the policy's own signers; it counts if the policy before names it", err=True)


@policy.command("show")
def show_policy(
    file: PolicyFile,
    before: Annotated[
        Path | None, typer.Option("--before", help="The policy in force, whose signers must have signed this one.")
    ] = None,
    json: Json = False,
) -> None:
    """Print everything a policy says, what it means for the weights, who signed it, and what is missing."""
    shown, signatures = policies.read(file)
    previous = None if before is None else policies.read(before)[0]
    document = policy_view.document(shown, signatures, previous)
    if json:
        typer.echo(json_lines.dumps(document, indent=1, allow_nan=False))
        return
    for line in policy_view.lines(document):
        typer.echo(line)


@policy.command("weights")
def measure_weights(
    folder: Annotated[Path, typer.Argument(help="A checkpoint: a folder with *.safetensors.")],
    json: Json = False,
) -> None:
    """Print how large a checkpoint's weights are, and how small they get without loss."""
    weights = measure(folder, _Tenths())
    if json:
        document: dict[str, Any] = {
            "file_count": weights.file_count,
            "size_bytes": weights.size_bytes,
            "compressed_bytes": weights.compressed_bytes,
            "method": METHOD,
            "stride": weights.stride,
        }
        typer.echo(json_lines.dumps(document, indent=1))
        return
    share = weights.compressed_bytes / weights.size_bytes
    typer.echo(f"weights     {weights.size_bytes:>22,} bytes ({format_bytes(weights.size_bytes)})")
    typer.echo(
        f"compressed  {weights.compressed_bytes:>22,} bytes ({format_bytes(weights.compressed_bytes)}), {share:.1%}; "
        f"{METHOD} (here {weights.stride})"
    )


class _Tenths:
    """Say on stderr how far the reading is, a line for every tenth."""

    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        tenth = 10 * done_bytes // total_bytes
        if tenth > self._tenth:
            self._tenth = tenth
            typer.echo(f"read {format_bytes(done_bytes)} of {format_bytes(total_bytes)}", err=True)
