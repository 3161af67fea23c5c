"""The command `bitweir odometer`: what one meter shows, for people who stand beside it. It reads that meter alone.

Thin; nothing in the package imports this file.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bitweir_metering.errors import MeterError
from bitweir_metering.meters.reading import Meter, MeterClient, Reading
from bitweir_metering.units import format_bytes

INTERVAL_S = 0.5


def odometer(
    meter: Annotated[Path, typer.Argument(metavar="SOCKET", help="Where the meter answers.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one reading and end.")] = False,
) -> None:
    """Show what one meter has counted since its start, until Ctrl-C."""
    client = MeterClient(meter)
    if as_json:
        typer.echo(json.dumps(asdict(client.read())))
        return
    is_terminal = sys.stdout.isatty()
    try:
        show(client, lambda line: typer.echo(f"\r{line:<78}" if is_terminal else line, nl=not is_terminal))
    except KeyboardInterrupt:
        typer.echo()
        raise typer.Exit(130) from None


def show(meter: Meter, echo: Callable[[str], object], sleep: Callable[[float], object] = time.sleep) -> None:
    """Write one line after the other; a meter that cannot tell is a line too, never its last figure."""
    while True:
        try:
            line = line_of(meter.read())
        except MeterError as error:
            line = f"NO READING: {error}"
        echo(line)
        sleep(INTERVAL_S)


def line_of(reading: Reading) -> str:
    """Return a reading for people."""
    lost = f", {reading.drops} MISSED" if reading.drops else ""
    return f"{reading.l2_bytes:>20,} bytes ({format_bytes(reading.l2_bytes)}), {reading.frames:,} packets{lost}"
