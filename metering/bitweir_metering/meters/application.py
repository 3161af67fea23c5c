"""Application meter: what the receiver's UDP socket delivered. L2 bytes = payload + 42 a datagram.

    python -m bitweir_metering.meters.application SOCKET --listen ADDRESS:PORT [--keep FILE]

A receiving program counts with an `ApplicationMeter` and serves it; run by itself this file is the simplest receiver.

Rules:
1. It counts what was delivered, after the kernel's own checks. It cannot see what the kernel or a filter threw away:
   then it counts less than the others.
2. A datagram is one packet: the link's longest is shorter than the MTU.
"""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO, Final

from bitweir_metering import addresses, sizes
from bitweir_metering.errors import MeterError
from bitweir_metering.meters import serving
from bitweir_metering.meters.reading import Reading

BUFFER_BYTES: Final = 32 << 20
_SO_RCVBUFFORCE: Final = 33
_DATAGRAM_BYTES_MAX: Final = 1 << 16
_AT_ONCE: Final = 256


class ApplicationMeter:
    """Counts datagrams.

    Args:
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._frames = self._l2_bytes = self._longest = 0

    def delivered(self, payload_bytes: int) -> None:
        """Count one datagram."""
        l2_bytes = payload_bytes + sizes.WIRE_HEADER_BYTES
        self._frames += 1
        self._l2_bytes += l2_bytes
        self._longest = max(self._longest, l2_bytes)

    def read(self) -> Reading:
        """Return what was delivered so far; nothing is ever known to be missed."""
        return Reading(self._frames, self._l2_bytes, 0, self._longest, self._clock())


def listening(address: tuple[str, int]) -> socket.socket:
    """Return a UDP socket with a large buffer.

    Raises:
        MeterError: it cannot listen there.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise MeterError(f"cannot listen at {address[0]}:{address[1]}: {error}", remedy="name another") from error
    found.setblocking(False)
    return found


def receive(found: socket.socket, meter: ApplicationMeter, kept: BinaryIO | None, count_max: int = _AT_ONCE) -> None:
    """Count what has come, up to so many; keep each with its length before it, 2 bytes, big endian."""
    for _ in range(count_max):
        try:
            content = found.recv(_DATAGRAM_BYTES_MAX)
        except BlockingIOError:
            return
        meter.delivered(len(content))
        if kept:
            kept.write(len(content).to_bytes(2, "big") + content)
            kept.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Receive datagrams, count them, and answer at SOCKET."""
    parser = serving.parser("application", main.__doc__)
    parser.add_argument("--listen", type=addresses.parse_listening, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="append what was received")
    words = parser.parse_args(arguments)

    def work() -> None:
        with ExitStack() as stack:
            receiver = stack.enter_context(listening(words.listen))
            meter = ApplicationMeter()
            server = stack.enter_context(
                closing(serving.MeterServer(words.socket, meter, client_user=words.client_user))
            )
            kept = stack.enter_context(words.keep.open("ab")) if words.keep else None
            server.watch(receiver)
            while True:
                if server.serve(None, watched=receiver):
                    receive(receiver, meter, kept)

    serving.run(work)


if __name__ == "__main__":
    main()
