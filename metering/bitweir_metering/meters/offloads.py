"""Whether an interface may hand on packets that were never on the wire in this form. Linux, by the ethtool ioctl.

    python -m bitweir_metering.meters.offloads INTERFACE [--disable]

With segmentation or merging on, all meters of a machine read one figure of the kernel, and agree on a wrong one.
"""

import argparse
import array
import fcntl
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

from bitweir_metering.errors import MeterError

_SIOCETHTOOL: Final = 0x8946
_REQUEST: Final = struct.Struct("16sP16x")
# name -> (get, set) of linux/ethtool.h.
_SWITCHES: Final = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}
_GET_FLAGS, _SET_FLAGS, _LRO = 0x25, 0x26, 1 << 15


def active(interface: str) -> frozenset[str]:
    """Return the names of what is on of tso, gso, gro and lro.

    Raises:
        MeterError: nobody can tell.
    """
    found = {name for name, (get, _) in _SWITCHES.items() if _ask(interface, get)}
    return frozenset(found | ({"lro"} if _ask(interface, _GET_FLAGS) & _LRO else set()))


def disable(interface: str) -> None:
    """Switch all of them off.

    Raises:
        MeterError: one is on still.
    """
    for name in active(interface) & set(_SWITCHES):
        _ask(interface, _SWITCHES[name][1], 0)
    if "lro" in active(interface):
        _ask(interface, _SET_FLAGS, _ask(interface, _GET_FLAGS) & ~_LRO)
    if left := active(interface):
        raise MeterError(f"{interface} keeps {', '.join(sorted(left))} on", remedy="use another interface")


def _ask(interface: str, command: int, value: int = 0) -> int:
    data = array.array("I", [command, value])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, _REQUEST.pack(interface.encode(), data.buffer_info()[0]))
        except OSError as error:
            raise MeterError(f"{interface} does not tell its offloads: {error}", remedy="name the interface") from error
    return data[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit with 1 and the names of what is on, or with 0 if nothing is."""
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.meters.offloads", description=main.__doc__)
    parser.add_argument("interface", metavar="INTERFACE")
    parser.add_argument("--disable", action="store_true", help="switch all off first")
    words = parser.parse_args(arguments)
    try:
        if words.disable:
            disable(words.interface)
        if found := active(words.interface):
            sys.exit(f"{words.interface}: {', '.join(sorted(found))}")
    except MeterError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")


if __name__ == "__main__":
    main()
