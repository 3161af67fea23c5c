"""Tap meter: a raw socket on the receiving interface that counts whatever arrives there. Linux, root.

    python -m bitweir_metering.meters.tap SOCKET --interface NAME

Rules:
1. Everything that comes in counts, of any kind and to any address; what the receiver sends does not. A packet is its
   whole length, of which only a few bytes are copied.
2. What the kernel could not queue is known (PACKET_STATISTICS, reset at each look, added up here) and never hidden.
3. The interface going down, even for a moment, ends the meter: what came meanwhile is unknown.
4. It cannot tell while the interface merges or segments packets (offloads.py).
5. A reading is of now: the queue is emptied first.
"""

import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

from bitweir_metering.errors import MeterError
from bitweir_metering.meters import offloads, serving
from bitweir_metering.meters.reading import Reading

BUFFER_BYTES: Final = 64 << 20
_ETH_P_ALL: Final = 3
_SOL_PACKET, _ADD_MEMBERSHIP, _STATISTICS, _IGNORE_OUTGOING = 263, 1, 6, 23
_PROMISCUOUS: Final = struct.Struct("iHH8s")
_COUNTS: Final = struct.Struct("II")
_SO_RCVBUFFORCE: Final = 33
_AT_ONCE: Final = 512


class Tap:
    """Counts what arrives at an interface.

    Args:
        interface: in this process's network namespace.
        buffer_bytes: what the kernel may queue.
        offloaded: returns what merges or segments packets there.
        clock: CLOCK_MONOTONIC in nanoseconds.

    Raises:
        MeterError: no such interface, no leave to listen, or offloads are on.
    """

    def __init__(
        self,
        interface: str,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        offloaded: Callable[[str], frozenset[str]] = offloads.active,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._interface, self._offloaded, self._clock = interface, offloaded, clock
        self._frames = self._l2_bytes = self._longest = self._drops = 0
        self._blind = ""
        self._check_offloads()
        self.socket = _opened(interface, buffer_bytes)
        self._into = bytearray(1)

    def drain(self, count_max: int | None = None) -> None:
        """Count what is queued, up to so many packets.

        Raises:
            MeterError: the interface went down; for good.
        """
        receive, into, flags = self.socket.recv_into, self._into, socket.MSG_TRUNC | socket.MSG_DONTWAIT
        while not self._blind and count_max != 0:
            try:
                length = receive(into, 0, flags)
            except BlockingIOError:
                return
            except OSError as error:
                self._blind = f"{self._interface}: {error}"
                break
            self._frames += 1
            self._l2_bytes += length
            self._longest = max(self._longest, length)
            count_max = None if count_max is None else count_max - 1
        if self._blind:
            raise MeterError(self._blind, remedy="start all meters again when it is up, and reconcile after them")

    def read(self) -> Reading:
        """Return what has arrived.

        Raises:
            MeterError: it cannot tell.
        """
        self.drain()
        now_ns = self._clock()
        _, drops = _COUNTS.unpack(self.socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size))
        self._drops += drops
        self._check_offloads()
        return Reading(self._frames, self._l2_bytes, self._drops, self._longest, now_ns)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()

    def _check_offloads(self) -> None:
        if found := self._offloaded(self._interface):
            raise MeterError(
                f"{self._interface} has {', '.join(sorted(found))} on",
                remedy=f"python -m bitweir_metering.meters.offloads {self._interface} --disable",
            )


def _opened(interface: str, buffer_bytes: int) -> socket.socket:
    found = None
    try:
        # No protocol until it is bound: nothing of other interfaces comes in.
        found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        found.bind((interface, _ETH_P_ALL))
        everything = _PROMISCUOUS.pack(socket.if_nametoindex(interface), 1, 0, bytes(8))
        found.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, everything)
    except OSError as error:
        if found:
            found.close()
        raise MeterError(
            f"no tap on {interface}: {error}", remedy="be root and name an interface that is up"
        ) from error
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what arrives at an interface, and answer at SOCKET."""
    parser = serving.parser("tap", main.__doc__)
    parser.add_argument("--interface", required=True, metavar="NAME")
    words = parser.parse_args(arguments)

    def work() -> None:
        with closing(Tap(words.interface)) as tap:
            server = serving.MeterServer(words.socket, tap, client_user=words.client_user)
            with closing(server):
                server.watch(tap.socket)
                while True:
                    if server.serve(None, watched=tap.socket):
                        tap.drain(_AT_ONCE)

    serving.run(work)


if __name__ == "__main__":
    main()
