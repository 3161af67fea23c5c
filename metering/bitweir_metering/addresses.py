"""ADDRESS:PORT on command lines: an IPv4 address, never a name.

A resolver would send packets of its own, and whoever answers it would say where frames go.
"""

import argparse
import ipaddress
from typing import Final

PORT_LIMIT: Final = 1 << 16


def parse(text: str) -> tuple[str, int]:
    """Return address and port, 1 to 65535.

    Raises:
        ArgumentTypeError: it is none; argparse says so.
    """
    address, port = parse_listening(text)
    if port == 0:
        raise _refused(text)
    return address, port


def parse_listening(text: str) -> tuple[str, int]:
    """Return address and port, where port 0 means any that is free; see `parse`."""
    address, _, port = text.rpartition(":")
    try:
        ipaddress.IPv4Address(address)
    except ValueError as error:
        raise _refused(text) from error
    # Python refuses to read integers of thousands of digits.
    is_port = port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_LIMIT))
    if not is_port or int(port) >= PORT_LIMIT:
        raise _refused(text)
    return address, int(port)


def _refused(text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r:.60} is not ADDRESS:PORT, an IPv4 address and a port")
