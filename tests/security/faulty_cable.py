"""A cable with a fault, for tests: python -m tests.security.faulty_cable ... with BITWEIR_FAULT=kind:packets.

It says so on stderr before anything else. After so many packets: `drop` loses every second one, `duplicate` writes each
twice, `reorder` swaps neighbours, `cut` writes nothing any more. The count is taken before, as in the honest cable.
"""

import os
import sys
from collections.abc import Callable, Sequence

from bitweir_metering.meters import cable, serving


class FaultyCable(cable.Cable):
    """See above."""

    kind, after = "", 0
    seen = 0
    kept: bytes | None = None

    def write_up(self, packet: bytes) -> None:
        self.seen += 1
        write: Callable[[bytes], None] = super().write_up
        if self.seen <= self.after:
            write(packet)
        elif self.kind == "drop":
            if self.seen % 2:
                write(packet)
        elif self.kind == "duplicate":
            write(packet)
            write(packet)
        elif self.kind == "reorder":
            if self.kept is None:
                self.kept = packet
            else:
                write(packet)
                write(self.kept)
                self.kept = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Be the cable, with the fault that the environment names."""
    FaultyCable.kind, _, after = os.environ["BITWEIR_FAULT"].partition(":")
    FaultyCable.after = int(after)
    sys.stderr.write(f"FAULTY CABLE: {FaultyCable.kind} after {after} packets\n")
    words = cable.words_of(arguments)
    serving.run(lambda: cable.work(words, FaultyCable))


if __name__ == "__main__":
    main()
