"""The inner site as a process: engine, encoder, and the gate's socket as its only way out.

    python -m bitweir_services.inner_process MODELS --listen ADDRESS:PORT --gate SOCKET [--lane N]

Rule: what goes wrong is one line on stderr, and exit code 1.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bitweir_compression.errors import CompressionError
from bitweir_metering import addresses
from bitweir_metering.errors import MeteringError
from bitweir_services.errors import ServicesError
from bitweir_services.inner_site import InnerPlace, InnerSite
from bitweir_services.lanes import LaneConfig, inner_lane


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer what outer asks for until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bitweir_services.inner_process", description=main.__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS", help="folder with strong and weak")
    parser.add_argument(
        "--listen", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="for what comes down"
    )
    parser.add_argument("--gate", type=Path, required=True, metavar="SOCKET")
    parser.add_argument("--lane", type=int, default=0)
    parser.add_argument("--slots", type=int, default=LaneConfig.slot_count, help="answers at once; as outer")
    words = parser.parse_args(arguments)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    try:
        lane = inner_lane(LaneConfig(words.models, slot_count=words.slots))
        with closing(InnerSite(lane, InnerPlace(words.listen, words.gate, words.lane))) as site:
            sys.stderr.write("ready\n")
            site.serve(lambda: bool(stopped))
    except (CompressionError, MeteringError, ServicesError) as error:
        sys.exit(f"bitweir: {error}; {getattr(error, 'remedy', '')}")


if __name__ == "__main__":
    main()
