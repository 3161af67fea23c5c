"""The ledger's one writer as a process: it answers reservations of others over a local socket. See ledger_client.py.

    python -m bitweir_metering.ledger_server LEDGER SOCKET

Rules:
1. Group commit: what all clients ask for while one commit runs is the next one, and shares its fdatasync.
2. An answer leaves after the commit. A client that went away meanwhile has spent its bits.
3. A client that sends anything but a request, does not read its answers, or is another user's, is cut off; the others
   do not notice.
4. When the ledger closes itself, every client is told so and the process ends. Nothing is answered from memory.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from bitweir_metering.entries import Lease, Reservation
from bitweir_metering.errors import LedgerError, MeteringError, RefusedError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import REQUESTS_MAX, Ledger
from bitweir_metering.ledger_client import ANSWER, REQUEST, VERSION, Status
from bitweir_metering.local_socket import LocalServer

CLIENTS_MAX: Final = 64
# Of one client in one commit, so that all of them fit one transaction.
MESSAGES_MAX: Final = REQUESTS_MAX // CLIENTS_MAX


class _Waiting(NamedTuple):
    client: socket.socket
    number: int
    reservation: Reservation


class LedgerServer:
    """Serves one open ledger at one socket; the caller keeps the ledger and closes it after this.

    Args:
        ledger: opened by this process.
        path: where the socket goes. A socket that nobody answers at is replaced.

    Raises:
        SocketError: a server answers there, or no socket can be made.
    """

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self._ledger = ledger
        self._server = LocalServer(path, CLIENTS_MAX)

    def close(self) -> None:
        """Cut everybody off and remove the socket."""
        self._server.close()

    def serve(self) -> None:
        """Answer until the ledger closes itself.

        Raises:
            LedgerError: it did.
        """
        while True:
            self.step(None)

    def step(self, timeout_s: float | None) -> int:
        """Wait for something to happen, reserve for all who ask, in one commit, and answer them; return how many.

        Raises:
            LedgerError: the ledger closed itself; everybody who asked was told.
        """
        waiting = [one for client in self._server.ready(timeout_s) for one in self._requests(client)]
        if waiting:
            self._answer(waiting)
        return len(waiting)

    def _requests(self, client: socket.socket) -> list[_Waiting]:
        """Return what a client asks for; nothing of one that is cut off."""
        found: list[_Waiting] = []
        try:
            while len(found) < MESSAGES_MAX:
                number, reservation = parse_request(client.recv(REQUEST.size + 1))
                found.append(_Waiting(client, number, reservation))
        except BlockingIOError:
            return found
        except OSError:
            self._server.drop(client)
            return []
        except MeteringError:
            self._send(client, Status.REFUSED, 0)
            self._server.drop(client)
            return []
        return found

    def _answer(self, waiting: Sequence[_Waiting]) -> None:
        try:
            answers = self._ledger.reserve([one.reservation for one in waiting])
        except LedgerError:
            for one in waiting:
                self._send(one.client, Status.CLOSED, one.number)
            raise
        for one, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, Lease):
                self._send(one.client, Status.GRANTED, one.number, answer.sequence)
            else:
                self._send(one.client, Status.OVER_BUDGET, one.number)

    def _send(self, client: socket.socket, status: Status, number: int, sequence: int = 0) -> None:
        self._server.send(client, ANSWER.pack(VERSION, status, number, sequence))


def parse_request(content: bytes) -> tuple[int, Reservation]:
    """Return number and reservation of a request.

    Raises:
        RefusedError: not a request of this version; the end of a connection, an empty message, is none either.
        BudgetError: not a reservation.
        UnitError: a number is no amount.
    """
    if len(content) != REQUEST.size:
        raise RefusedError(f"a message of {len(content)} bytes", remedy=f"{REQUEST.size} bytes")
    version, traffic, number, wire_bits, information_bits = REQUEST.unpack(content)
    if version != VERSION or traffic not in set(TrafficClass):
        raise RefusedError(f"version {version}, class {traffic}", remedy="use ledger_client.py of this version")
    return number, Reservation(TrafficClass(traffic), wire_bits, information_bits)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the ledger LEDGER at SOCKET until it closes itself (exit 1) or SIGTERM comes (exit 0)."""
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.ledger_server", description=main.__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("socket", type=Path)
    words = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Ledger.open(words.ledger) as ledger, closing(LedgerServer(ledger, words.socket)) as server:
            server.serve()
    except MeteringError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")


if __name__ == "__main__":
    main()
