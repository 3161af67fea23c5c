"""What the receiving side says to the gate: fixed messages that come down, where bits are free. Pure.

    message, 42 bytes    version (= 1), kind, 8 B time, 8 B first, 8 B second, 16 B tag        big endian
    tag                  BLAKE2b-128 of all before it, keyed: by outer for GRANTS and RESEND, else by reconcile

    kind         first                           second
    1 GRANTS     tokens granted so far           of these, tokens still outstanding
    2 RESEND     number of a frame               0
    3 PERMIT     0                               0
    4 TRIP       a `TripReason`                  0

Rules:
1. Anything but these bytes is refused, and so is a message that is not newer than the last one under the same key, or
   than the gate's start: a recorded one is of no use later. Time is CLOCK_REALTIME in nanoseconds, on both sides.
2. A lost message does no harm: grants are told as sums, the rest is said again by who still needs it.
3. Who holds outer's key cannot hold the link up: a permit needs the other key.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bitweir_metering.errors import ControlError
from bitweir_metering.keys import SHARED_KEY_BYTES
from bitweir_metering.units import AMOUNT_LIMIT

VERSION: Final = 1
TAG_BYTES: Final = 16
_BODY: Final = struct.Struct(">BBQQQ")
MESSAGE_BYTES: Final = _BODY.size + TAG_BYTES
_PERSON: Final = b"bitweir ctl v1"


class Control(IntEnum):
    """What is said."""

    GRANTS = 1
    """Outer granted visible tokens."""
    RESEND = 2
    """Outer misses a frame."""
    PERMIT = 3
    """Reconcile found the meters equal: the link may be up for `permit_ns`."""
    TRIP = 4
    """Reconcile found something that people must look at."""


class TripReason(IntEnum):
    """Why reconcile takes the link down."""

    MISMATCH = 1
    """Meters disagree."""
    UNRESERVED = 2
    """More on the wire than was reserved."""
    DROPS = 3
    """A meter lost count."""
    LONG_FRAME = 4
    """A frame longer than any the gate makes."""


OUTER: Final = frozenset({Control.GRANTS, Control.RESEND})
"""What outer's key speaks for; reconcile's speaks for the rest."""


@dataclass(frozen=True)
class Message:
    """One message; times and numbers are integers from 0 to 2**62 - 1.

    Raises:
        ControlError: no kind, a number out of range, or one where none belongs.
    """

    kind: Control
    time_ns: int
    first: int = 0
    second: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Control):
            raise ControlError(f"{self.kind!r:.40} is no kind", remedy="use one of control.Control")
        numbers = (self.time_ns, self.first, self.second)
        if any(type(number) is not int or not 0 <= number < AMOUNT_LIMIT for number in numbers):
            raise ControlError(f"{self.kind.name} with {numbers}", remedy="whole numbers below 2**62")
        is_sound = {
            Control.GRANTS: self.second <= self.first,
            Control.RESEND: self.second == 0,
            Control.PERMIT: self.first == self.second == 0,
            Control.TRIP: self.first in set(TripReason) and self.second == 0,
        }
        if not is_sound[self.kind]:
            raise ControlError(f"{self.kind.name} with {numbers}", remedy="see control.py")


@dataclass(frozen=True)
class Keys:
    """The two keys, 32 bytes each: outer's and reconcile's."""

    outer: bytes
    reconcile: bytes

    def __post_init__(self) -> None:
        if any(type(key) is not bytes or len(key) != SHARED_KEY_BYTES for key in (self.outer, self.reconcile)):
            raise ControlError("a key of another length", remedy=f"{SHARED_KEY_BYTES} bytes: bitweir keys shared")
        if hmac.compare_digest(self.outer, self.reconcile):
            raise ControlError("outer and reconcile have one key", remedy="make two: bitweir keys shared")

    def of(self, kind: Control) -> bytes:
        """Return the key that a kind is tagged with."""
        return self.outer if kind in OUTER else self.reconcile


def encode(message: Message, key: bytes) -> bytes:
    """Return the message's bytes."""
    body = _BODY.pack(VERSION, message.kind, message.time_ns, message.first, message.second)
    return body + _tag(body, key)


class ControlReader:
    """Reads messages, refusing old ones.

    Args:
        keys: both.
        start_ns: CLOCK_REALTIME at the gate's start.
    """

    def __init__(self, keys: Keys, start_ns: int) -> None:
        self._keys = keys
        self._latest_ns = {True: start_ns, False: start_ns}

    def read(self, content: bytes) -> Message:
        """Return what these bytes say.

        Raises:
            ControlError: damaged, forged, or not newer than what was read before.
        """
        if len(content) != MESSAGE_BYTES:
            raise ControlError(f"a message of {len(content)} bytes", remedy=f"{MESSAGE_BYTES} bytes")
        version, kind, *numbers = _BODY.unpack_from(content)
        if version != VERSION or kind not in set(Control):
            raise ControlError(f"version {version}, kind {kind}", remedy="run the same version on both sides")
        key = self._keys.of(Control(kind))
        if not hmac.compare_digest(_tag(content[: _BODY.size], key), content[_BODY.size :]):
            raise ControlError("the tag is wrong", remedy="damaged, forged, or another key than the gate's")
        message = Message(Control(kind), *numbers)
        is_outer = message.kind in OUTER
        if message.time_ns <= self._latest_ns[is_outer]:
            raise ControlError("an old message", remedy="the clocks of both sides must agree")
        self._latest_ns[is_outer] = message.time_ns
        return message


def _tag(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=TAG_BYTES, key=key, person=_PERSON).digest()
