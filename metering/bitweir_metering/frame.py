"""Frame v1: every bit of a frame is determined or charged. Pure.

    byte 0       version (2 bits, = 1) | class (3 bits) | lane (3 bits)       class and lane are charged
    4 bytes      sequence, the gate's own counter, big endian                determined
    S bytes      payload bits, then a 1, then zeros; S is the smallest       S is charged, and all 8 S bits
                 size class that holds them
    8 bytes      BLAKE2b-64 of all before it, keyed by the gate              determined

Rules:
1. `encode(decode(f)) == f` for every accepted f (a test holds it over mutants whose tag was repaired).
2. Of the frames with one sequence number, at most 2**information_bits(f) exist per charge: log2 of their number is at
   most what sizes.information_bits charges.
3. The inner side chooses class, lane and payload. It never sees the tag key.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bitweir_metering import sizes
from bitweir_metering.errors import FormError, SizeError

VERSION: Final = 1
LANES: Final = 8
SEQUENCE_LIMIT: Final = 1 << 32
TAG_BYTES: Final = 8
TAG_KEY_BYTES: Final = 32
_HEADER_BYTES: Final = 5
_PERSON: Final = b"bitweir tag v1"


class TrafficClass(IntEnum):
    """What a frame carries, and which sub-cap it counts against."""

    MODEL = 0
    """Model output."""
    CONTROL = 1
    """What the link itself needs to say."""
    RESEND = 2
    """A stored frame, sent again."""
    TUNNEL = 3
    """Non-model traffic of people: ssh, packages."""
    TIMING = 4
    """No frame: the bits that release times can carry."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Bits to send: `count` of them, the first most significant in `value`; 0 <= value < 2**count.

    Raises:
        SizeError: they do not fit each other, or no frame holds them.
    """

    value: int
    count: int

    def __post_init__(self) -> None:
        sizes.class_bytes(self.count)
        if not 0 <= self.value < 1 << self.count:
            raise SizeError(f"{self.value.bit_length()} bits called {self.count}", remedy="count the leading zeros too")


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame says.

    Raises:
        FormError: the lane or the sequence number is out of range, or no frame has this class.
    """

    kind: TrafficClass
    lane: int
    sequence: int
    payload: Payload

    def __post_init__(self) -> None:
        if not 0 <= self.lane < LANES or not 0 <= self.sequence < SEQUENCE_LIMIT:
            raise FormError(f"lane {self.lane}, sequence {self.sequence}", remedy="lanes 0 to 7, 32-bit sequence")
        if self.kind is TrafficClass.TIMING:
            raise FormError("a frame of class timing", remedy="timing is charged, not sent")

    @property
    def wire_bits(self) -> int:
        """Bits it takes on Ethernet, with UDP and IPv4."""
        return 8 * sizes.wire_bytes(self.payload.count)

    @property
    def information_bits(self) -> int:
        """Bits an observer can read from it."""
        return sizes.information_bits(self.payload.count)


def encode(frame: Frame, key: bytes) -> bytes:
    """Return the frame's bytes; see the top of this file."""
    size = sizes.class_bytes(frame.payload.count)
    padding = 8 * size - frame.payload.count
    body = ((frame.payload.value << 1 | 1) << (padding - 1)).to_bytes(size, "big")
    first = VERSION << 6 | frame.kind << 3 | frame.lane
    content = bytes([first]) + frame.sequence.to_bytes(4, "big") + body
    return content + _tag(content, key)


def wire_bits(content: bytes) -> int:
    """Return the bits that a frame's bytes take on Ethernet, with UDP and IPv4."""
    return 8 * (len(content) + sizes.WIRE_HEADER_BYTES)


def decode(content: bytes, key: bytes) -> Frame:
    """Return what the bytes say.

    Raises:
        FormError: they are not what `encode` makes under this key.
    """
    size = len(content) - sizes.FIXED_BYTES
    if size not in sizes.SIZE_CLASSES:
        raise FormError(f"{len(content)} bytes are no frame", remedy="drop it")
    signed, tag = content[:-TAG_BYTES], content[-TAG_BYTES:]
    if not hmac.compare_digest(_tag(signed, key), tag):
        raise FormError("the tag is wrong", remedy="drop it: damaged, or not the gate's")
    version, kind, lane = signed[0] >> 6, signed[0] >> 3 & 7, signed[0] & 7
    if version != VERSION or kind >= TrafficClass.TIMING:
        raise FormError(f"version {version}, class {kind}", remedy="drop it: the two sides run different versions")
    body = int.from_bytes(signed[_HEADER_BYTES:], "big")
    if body == 0:
        raise FormError("no payload ends in this frame", remedy="drop it")
    padding = (body & -body).bit_length()
    count = 8 * size - padding
    if sizes.class_bytes(count) != size:
        raise FormError(f"{count} bits in a frame of {size} bytes", remedy="drop it: a smaller size holds them")
    return Frame(
        TrafficClass(kind), lane, int.from_bytes(signed[1:_HEADER_BYTES], "big"), Payload(body >> padding, count)
    )


def _tag(content: bytes, key: bytes) -> bytes:
    if len(key) != TAG_KEY_BYTES:
        raise FormError(f"a tag key of {len(key)} bytes", remedy=f"use {TAG_KEY_BYTES} random bytes")
    return hashlib.blake2b(content, digest_size=TAG_BYTES, key=key, person=_PERSON).digest()
