"""How the inner side hands payloads to the gate; and the messages, which gate.py reads too.

    request    version (= 1), class, lane, 2 B count of bits, then the bits, first one first, zeros up to a whole byte
    answer     version (= 1), status                                                          big endian

Rules:
1. One message, one datagram of a local SOCK_SEQPACKET socket. Anything but a request ends the connection.
2. A client has one request open.
3. An answer tells whether the gate took the payload, not when or whether it left.
"""

import struct
from enum import IntEnum
from pathlib import Path
from typing import Final

from bitweir_metering import local_socket, sizes
from bitweir_metering.errors import FormError, FullError, RefusedError, SizeError, SocketError
from bitweir_metering.frame import LANES, Payload, TrafficClass

VERSION: Final = 1
HEADER: Final = struct.Struct(">BBBH")
ANSWER: Final = struct.Struct(">BB")
REQUEST_BYTES_MAX: Final = HEADER.size + sizes.SIZE_CLASSES[-1]
TIMEOUT_S: Final = 10.0


class Status(IntEnum):
    """What the gate says to a payload."""

    TAKEN = 0
    """It leaves when its turn comes."""
    FULL = 1
    """Too many are waiting: try again."""
    REFUSED = 2
    """Not a class, lane or amount that may be sent, or its budget is used up."""
    DAMAGED = 3
    """No request; the connection ends."""


class GateClient:
    """One connection to the gate.

    Args:
        path: the gate's socket.
        timeout_s: how long to wait for an answer.

    Raises:
        SocketError: nobody answers there.
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        try:
            self._socket = local_socket.connected(path, timeout_s)
        except OSError as error:
            raise SocketError(f"no gate at {path}: {error}", remedy="start it: gate.py") from error

    def __enter__(self) -> "GateClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def submit(self, kind: TrafficClass, lane: int, payload: Payload) -> None:
        """Hand a payload over; return when the gate has taken it.

        Raises:
            FormError: no such class or lane; nothing was sent.
            FullError: too many are waiting; try again.
            RefusedError: it will not be sent.
            SocketError: the gate did not answer; it may have taken it. This client is closed.
        """
        try:
            self._socket.send(request(kind, lane, payload))
            content = self._socket.recv(ANSWER.size + 1)
        except OSError as error:
            self.close()
            raise SocketError(f"{self._path} does not answer: {error}", remedy="look at the gate") from error
        if content == ANSWER.pack(VERSION, Status.TAKEN):
            return
        if content == ANSWER.pack(VERSION, Status.FULL):
            raise FullError("too many payloads are waiting", remedy="send more slowly")
        if content == ANSWER.pack(VERSION, Status.REFUSED):
            raise RefusedError("the gate refuses this payload", remedy="send granted output, within the budget")
        self.close()
        raise SocketError(f"no answer to a payload: {content.hex() or 'end'}", remedy="look at the gate")


def request(kind: TrafficClass, lane: int, payload: Payload) -> bytes:
    """Return the bytes of a request.

    Raises:
        FormError: no such class or lane.
    """
    if not isinstance(kind, TrafficClass) or type(lane) is not int or lane not in range(LANES):
        raise FormError(f"class {kind!r:.40}, lane {lane!r:.40}", remedy=f"a TrafficClass, lanes 0 to {LANES - 1}")
    size = (payload.count + 7) // 8
    bits = (payload.value << (8 * size - payload.count)).to_bytes(size, "big")
    return HEADER.pack(VERSION, kind, lane, payload.count) + bits


def parse_request(content: bytes) -> tuple[TrafficClass, int, Payload]:
    """Return class, lane and payload of a request.

    Raises:
        FormError: not the bytes that `request` makes.
    """
    if not HEADER.size <= len(content) <= REQUEST_BYTES_MAX:
        raise FormError(f"a message of {len(content)} bytes", remedy="use gate_client.py")
    version, kind, lane, count = HEADER.unpack_from(content)
    bits = content[HEADER.size :]
    padding = 8 * len(bits) - count
    if version != VERSION or kind not in set(TrafficClass) or lane >= LANES or not 0 <= padding < 8:
        raise FormError(f"version {version}, class {kind}, lane {lane}, {count} bits", remedy="use gate_client.py")
    value = int.from_bytes(bits, "big")
    if value & ((1 << padding) - 1):
        raise FormError("bits after the last one", remedy="fill up with zeros")
    try:
        return TrafficClass(kind), lane, Payload(value >> padding, count)
    except SizeError as error:
        raise FormError(str(error), remedy=error.remedy) from error
