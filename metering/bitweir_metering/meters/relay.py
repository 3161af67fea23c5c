"""Relay meter: where there is no cable, a process between gate and receiver that passes datagrams on and counts them.

    python -m bitweir_metering.meters.relay SOCKET --listen ADDRESS:PORT --to ADDRESS:PORT

It needs no rights, so a laptop can run a link with it. It is not a boundary: whoever can send to the receiver's port
goes round it, and then the receiver has more than the relay, which reconcile sees.

Rules:
1. A datagram is passed on if it has a length that frames have, and dropped otherwise, which counts as missed.
2. It is counted before it is passed on. One that could not be passed on counts as missed too.
"""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Final

from bitweir_metering import addresses, sizes
from bitweir_metering.meters import serving
from bitweir_metering.meters.application import listening
from bitweir_metering.meters.reading import Reading
from bitweir_metering.wire import FRAME_LENGTHS

_AT_ONCE: Final = 256
_DATAGRAM_BYTES_MAX: Final = 1 << 16


class RelayMeter:
    """Passes datagrams on and counts them.

    Args:
        receiver: a UDP socket, not blocking.
        target: where they go.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self, receiver: socket.socket, target: tuple[str, int], *, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._receiver = receiver
        self._target = target
        self._clock = clock
        self._frames = self._l2_bytes = self._missed = self._longest = 0

    def read(self) -> Reading:
        """Return what was passed on so far."""
        return Reading(self._frames, self._l2_bytes, self._missed, self._longest, self._clock())

    def relay(self) -> None:
        """Pass on what has come, up to a few hundred."""
        for _ in range(_AT_ONCE):
            try:
                content = self._receiver.recv(_DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            if len(content) not in FRAME_LENGTHS:
                self._missed += 1
                continue
            l2_bytes = len(content) + sizes.WIRE_HEADER_BYTES
            self._frames += 1
            self._l2_bytes += l2_bytes
            self._longest = max(self._longest, l2_bytes)
            try:
                self._receiver.sendto(content, self._target)
            except OSError:
                self._missed += 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Pass datagrams on, count them, and answer at SOCKET."""
    parser = serving.parser("relay", main.__doc__)
    parser.add_argument("--listen", type=addresses.parse, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--to", type=addresses.parse, required=True, metavar="ADDRESS:PORT")
    words = parser.parse_args(arguments)

    def work() -> None:
        with ExitStack() as stack:
            receiver = stack.enter_context(listening(words.listen))
            meter = RelayMeter(receiver, words.to)
            server = stack.enter_context(
                closing(serving.MeterServer(words.socket, meter, client_user=words.client_user))
            )
            server.watch(receiver)
            while True:
                if server.serve(None, watched=receiver):
                    meter.relay()

    serving.run(work)


if __name__ == "__main__":
    main()
