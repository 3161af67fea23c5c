"""How many bytes a payload takes: as a frame of the gate, and on the wire. Pure arithmetic.

A frame is 1 byte of version, class and lane, 4 bytes of sequence, the payload bits followed by a 1 and zeros up to a
size class, and 8 bytes of tag.
"""

from bisect import bisect_right
from typing import Final

from bitweir_metering.errors import SizeError

FIXED_BYTES: Final = 1 + 4 + 8
SIZE_CLASSES: Final[tuple[int, ...]] = (*range(8, 65, 2), 96, 128, 192, 256, 384, 512, 768, 1024)
# Ethernet, IPv4 and UDP headers; preamble, frame check sequence and the gap between frames are not counted.
WIRE_HEADER_BYTES: Final = 14 + 20 + 8
# What a frame says besides its payload: 3 bits of class, 3 of lane, and which size class it has.
HEADER_INFORMATION_BITS: Final = 3 + 3 + (len(SIZE_CLASSES) - 1).bit_length()


def class_bytes(payload_bits: int) -> int:
    """Return the size class of a payload, in bytes.

    Raises:
        SizeError: negative, or more than the largest class holds.
    """
    if payload_bits < 0:
        raise SizeError(f"a payload of {payload_bits} bits", remedy="report this as a defect")
    if payload_bits < 8 * SIZE_CLASSES[-1]:
        return SIZE_CLASSES[bisect_right(SIZE_CLASSES, payload_bits // 8)]
    raise SizeError(f"a payload of {payload_bits} bits", remedy=f"send at most {8 * SIZE_CLASSES[-1] - 1} bits a frame")


def frame_bytes(payload_bits: int) -> int:
    """Return the bytes of the frame."""
    return class_bytes(payload_bits) + FIXED_BYTES


def wire_bytes(payload_bits: int) -> int:
    """Return the bytes of the frame in one UDP datagram on Ethernet."""
    return frame_bytes(payload_bits) + WIRE_HEADER_BYTES


def information_bits(payload_bits: int) -> int:
    """Return the bits an observer can read from the frame: all its size class can hold, and what its header says."""
    return 8 * class_bytes(payload_bits) + HEADER_INFORMATION_BITS
