"""The root of the `bitweir` command. Each package owns its commands; this file only finds them, and only when asked.

Rules:
1. `bitweir --help` imports no torch, transformers or ray (tests/house/test_imports.py reads the process's modules).
2. A mistake of the user's ends in one line on stderr that says what is wrong and what to do: exit code 2, no traceback.
3. Ctrl-C exits with 130, after the command has left its files in a valid state.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Annotated, NamedTuple

import typer

from bitweir_compression.errors import CompressionError
from bitweir_loadgen.errors import LoadgenError
from bitweir_metering.errors import MeteringError
from bitweir_services.errors import ServicesError

USAGE_EXIT_CODE = 2


class CommandSource(NamedTuple):
    """Where a top-level command lives: `attribute` of `module` is a Typer application or a plain command function."""

    module: str
    attribute: str
    help: str


COMMANDS: Mapping[str, CommandSource] = {
    "codec": CommandSource("bitweir_services.commands", "codec", "Code text against the weak model, and decode it."),
    "corpus": CommandSource("bitweir_compression.commands", "corpus", "Print text the project makes itself."),
    "demo": CommandSource("bitweir_loadgen.commands", "demo", "Answer prompts and report what uploading them costs."),
    "exact": CommandSource(
        "bitweir_compression.commands", "exact", "Certify that this machine computes the same bits."
    ),
    "forecast": CommandSource("bitweir_loadgen.commands", "forecast", "Lifetime upload over weights, as published."),
    "gate": CommandSource("bitweir_metering.gate_commands", "gate", "Let a link go on after a trip, signed by people."),
    "generate": CommandSource("bitweir_services.commands", "generate", "Answer prompts from a file, seeded."),
    "keys": CommandSource("bitweir_metering.commands", "keys", "Make the keys that sign policies and ledgers."),
    "ledger": CommandSource("bitweir_metering.ledger_commands", "ledger", "Start, show and check a link's ledger."),
    "models": CommandSource("bitweir_compression.commands", "models", "Build, check and describe the embedded models."),
    "noise": CommandSource("bitweir_compression.commands", "noise", "Print seeded noise, to check another program by."),
    "odometer": CommandSource("bitweir_metering.odometer_commands", "odometer", "Show what one meter has counted."),
    "policy": CommandSource("bitweir_metering.commands", "policy", "Sign and show what a link may do in its life."),
    "up": CommandSource("bitweir_loadgen.commands", "up", "Serve the API through a gate, until Ctrl-C."),
}


def application(arguments: Sequence[str]) -> typer.Typer:
    """Return the command tree; only the command that `arguments` name is imported, the others show their help line."""
    app = typer.Typer(
        name="bitweir",
        help="Keep a model's weights in by counting every bit that goes out.",
        invoke_without_command=True,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    ) -> None:
        if version:
            typer.echo(f"bitweir {metadata.version('bitweir')}")
            raise typer.Exit

    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, source in COMMANDS.items():
        if name != named:
            app.command(name, help=source.help)(_not_imported)
            continue
        command = getattr(importlib.import_module(source.module), source.attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=source.help)
        else:
            app.command(name)(command)
    return app


def _not_imported() -> None:
    """Stand in for a command that was not named, so that the list of commands needs no imports."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: the words after the program's name; those of the process by default.
    """
    # Read when torch is first imported: spinning OpenMP threads starve their neighbours on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        application(words)(args=words, prog_name="bitweir")
    except (CompressionError, MeteringError, ServicesError, LoadgenError) as error:
        typer.echo(f"bitweir: {error}" + (f"; {error.remedy}" if error.remedy else ""), err=True)
        sys.exit(USAGE_EXIT_CODE)
