"""How other processes ask the ledger's one writer for a lease; and the messages, which ledger_server.py reads too.

    request, 22 bytes    version (= 1), class, 4 B number, 8 B wire bits, 8 B information bits     big endian
    answer, 14 bytes     version (= 1), status, 4 B number of the request, 8 B sequence of the entry, else 0

Rules:
1. One message, one datagram of a local SOCK_SEQPACKET socket, exactly so many bytes; anything else ends the connection.
2. A client has one request open. What it did not get an answer to may be spent: it is never asked for again.
3. An answer that is not to the question closes the client.
"""

import struct
from enum import IntEnum
from pathlib import Path
from typing import Final

from bitweir_metering import local_socket
from bitweir_metering.entries import Lease, Reservation
from bitweir_metering.errors import BudgetError, LedgerError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.units import AMOUNT_LIMIT

VERSION: Final = 1
REQUEST: Final = struct.Struct(">BBIQQ")
ANSWER: Final = struct.Struct(">BBIQ")
# A commit takes milliseconds, a checkpoint of a slow disk may take seconds.
TIMEOUT_S: Final = 10.0
_NUMBERS: Final = 1 << 32


class Status(IntEnum):
    """What the server says to a request."""

    GRANTED = 0
    """Durable: so much may leave."""
    OVER_BUDGET = 1
    """It does not fit; nothing was charged."""
    REFUSED = 2
    """No request of this version; the connection ends."""
    CLOSED = 3
    """An error has closed the ledger; the server ends."""


class LedgerClient:
    """One connection to a ledger's server.

    Args:
        path: the server's socket.
        timeout_s: how long to wait for an answer.

    Raises:
        LedgerError: nobody answers there.
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._number = 0
        try:
            self._socket = local_socket.connected(path, timeout_s)
        except OSError as error:
            raise LedgerError(f"no ledger server at {path}: {error}", remedy="start it: ledger_server.py") from error

    def __enter__(self) -> "LedgerClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def reserve(self, kind: TrafficClass, wire_bits: int, information_bits: int) -> Lease:
        """Reserve bits; return when that is durable.

        Raises:
            BudgetError: they do not fit, or are no reservation; nothing was charged.
            UnitError: a number is no amount; nothing was charged.
            LedgerError: no such answer came. The bits may be spent; this client is closed.
        """
        reservation = Reservation(kind, wire_bits, information_bits)
        self._number = (self._number + 1) % _NUMBERS
        try:
            self._socket.send(REQUEST.pack(VERSION, kind, self._number, wire_bits, information_bits))
            content = self._socket.recv(ANSWER.size + 1)
        except OSError as error:
            self.close()
            raise LedgerError(f"{self._path} does not answer: {error}", remedy="the bits may be spent") from error
        status, sequence = self._understood(content)
        if status is Status.OVER_BUDGET:
            raise BudgetError(f"{wire_bits} bits of class {kind.name.lower()} do not fit", remedy="see the policy")
        if status is not Status.GRANTED:
            self.close()
            raise LedgerError(f"{self._path} says {status.name}", remedy="look at the server's own message")
        return Lease(sequence, reservation)

    def _understood(self, content: bytes) -> tuple[Status, int]:
        """Return status and sequence of the answer to the newest request."""
        if len(content) == ANSWER.size:
            version, status, number, sequence = ANSWER.unpack(content)
            is_sound = sequence < AMOUNT_LIMIT and (sequence > 0) is (status == Status.GRANTED)
            if version == VERSION and status in set(Status) and number == self._number and is_sound:
                return Status(status), sequence
        self.close()
        raise LedgerError(f"no answer to the question: {content.hex() or 'end'}", remedy="the bits may be spent")
