"""HOST:PORT on command lines."""

import argparse


def parse(text: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        ArgumentTypeError: it is none; argparse says so.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not HOST:PORT")
    return host, int(port)
