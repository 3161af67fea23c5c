"""What a meter reports, and how others ask it: one kind of reading for all mechanisms.

    application    what the receiver's socket delivered           L2 = payload + 42 a datagram
    nft            a counter in the kernel's netdev ingress hook  L2 = bytes + 14 a packet
    tap            a raw socket beside the receiver               L2 = length of the packet
    cable          the process that is the only copper            L2 = length of the packet

    request, 2 bytes    version (= 1), 1
    answer, 42 bytes    version (= 1), status, 8 B frames, 8 B L2 bytes, 8 B drops, 8 B longest, 8 B time    big endian

Rules:
1. A meter counts from its start and never goes back; what happened before is not its business.
2. L2 bytes are those of Ethernet with its header of 14 bytes, without preamble, check sequence and gap.
3. A meter that does not know a figure does not guess: it does not answer, and the link goes down.
4. Every meter answers at a socket of its own and says when it looked; whoever asks decides what is too old.
"""

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bitweir_metering import local_socket
from bitweir_metering.errors import MeterError
from bitweir_metering.units import AMOUNT_LIMIT, amount

VERSION: Final = 1
REQUEST: Final = bytes([VERSION, 1])
ANSWER: Final = struct.Struct(">BBQQQQQ")
TIMEOUT_S: Final = 0.5
_SOUND, _BLIND = 0, 1


@dataclass(frozen=True)
class Reading:
    """What a meter has seen since its start.

    Args:
        frames: packets in the counted direction.
        l2_bytes: their bytes on Ethernet.
        drops: packets it knows that it has missed.
        longest: bytes of the longest; 0 before the first, or where the mechanism cannot tell.
        time_ns: CLOCK_MONOTONIC when it looked.

    Raises:
        UnitError: a number is no amount.
    """

    frames: int
    l2_bytes: int
    drops: int
    longest: int
    time_ns: int

    def __post_init__(self) -> None:
        for name in ("frames", "l2_bytes", "drops", "longest", "time_ns"):
            amount(getattr(self, name), name)


class Meter(Protocol):
    """Anything that can be read."""

    def read(self) -> Reading:
        """Return what it has seen.

        Raises:
            MeterError: it cannot tell.
        """


def encode(reading: Reading | None) -> bytes:
    """Return the bytes of an answer; None says that the meter cannot tell."""
    if reading is None:
        return ANSWER.pack(VERSION, _BLIND, 0, 0, 0, 0, 0)
    numbers = (reading.frames, reading.l2_bytes, reading.drops, reading.longest, reading.time_ns)
    return ANSWER.pack(VERSION, _SOUND, *numbers)


def decode(content: bytes) -> Reading:
    """Return the reading of an answer.

    Raises:
        MeterError: it is none, or the meter says that it cannot tell.
    """
    if len(content) != ANSWER.size:
        raise MeterError(f"{len(content)} bytes are no reading", remedy="look at the meter")
    version, status, *numbers = ANSWER.unpack(content)
    if version != VERSION or status != _SOUND or max(numbers) >= AMOUNT_LIMIT:
        raise MeterError("the meter cannot tell", remedy="look at the meter; the link is down meanwhile")
    return Reading(*numbers)


class MeterClient:
    """A meter of another process. It connects when it is read, and again after an error.

    Args:
        path: the meter's socket.
        timeout_s: how long to wait for an answer.
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def read(self) -> Reading:
        """Return what the meter has seen.

        Raises:
            MeterError: it does not answer, or cannot tell.
        """
        try:
            found = self._socket = self._socket or local_socket.connected(self._path, self._timeout_s)
            found.send(REQUEST)
            return decode(found.recv(ANSWER.size + 1))
        except OSError as error:
            self.close()
            raise MeterError(f"no meter at {self._path}: {error}", remedy="start it") from error
        except MeterError:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        if self._socket:
            self._socket.close()
        self._socket = None
