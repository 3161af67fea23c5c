"""Run a lab until SIGTERM or Ctrl-C: python -m bitweir_metering.lab FOLDER [--line-rate RATE].

Prints one line of JSON with the namespaces and the meters' sockets, for who starts gate, receiver and reconciler.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bitweir_metering.errors import MeteringError
from bitweir_metering.lab.meters import NAMES, LinkMeters
from bitweir_metering.lab.network import GATE, OUTER, Lab


def main(arguments: Sequence[str] | None = None) -> None:
    """Set up two namespaces, the cable between them and the meters; remove them at the end."""
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.lab", description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for sockets and logs")
    parser.add_argument("--line-rate", default="100 Mbit/s", metavar="RATE")
    words = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with Lab() as lab, LinkMeters(lab, words.folder, line_rate=words.line_rate) as meters:
            found = {
                "gate_namespace": lab.gate,
                "outer_namespace": lab.outer,
                "gate": f"{GATE.address}:{GATE.port}",
                "outer": f"{OUTER.address}:{OUTER.port}",
                "meters": {name: str(meters.path(name)) for name in NAMES},
            }
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
            signal.pause()
    except MeteringError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")


if __name__ == "__main__":
    main()
