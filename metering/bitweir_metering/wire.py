"""One link's packets on Ethernet: what surrounds a frame of the gate is determined, bit for bit. Pure.

    Ethernet    destination, source, type 0800                      configured
    IPv4        20 bytes: no options, TOS 0, id 0, DF, TTL 64       configured, or follows from the length
    UDP         ports, length, checksum                             configured, or follows from the content
    frame       21 to 1037 bytes: frame.py

Rules:
1. A packet is one frame, and `encode` makes the only packet that holds it. `decode` refuses all others: header bits
   that somebody may choose would be uncounted bits (one UDP packet off the shelf has 124 of them).
2. Fragments, other protocols, trailers, checksums of zero, and lengths no frame has are others.
"""

import ipaddress
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bitweir_metering import sizes
from bitweir_metering.errors import FormError

MAC_BYTES: Final = 6
FRAME_LENGTHS: Final = frozenset(size + sizes.FIXED_BYTES for size in sizes.SIZE_CLASSES)
PACKET_BYTES_MAX: Final = sizes.WIRE_HEADER_BYTES + max(FRAME_LENGTHS)
"""The longest packet of a link on Ethernet, without the frame check sequence."""
_ETHERNET: Final = struct.Struct(">6s6sH")
_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_PSEUDO: Final = struct.Struct(">4s4sBBH")
_UDP_AT: Final = _ETHERNET.size + _IPV4.size
_CHECKSUM_AT: Final = _UDP_AT + _UDP.size - 2
_CONTENT_AT: Final = _UDP_AT + _UDP.size
_ETHERTYPE_IPV4, _PROTOCOL_UDP, _DONT_FRAGMENT, _TTL = 0x0800, 17, 0x4000, 64


@dataclass(frozen=True)
class End:
    """One end of a link.

    Args:
        mac: 6 bytes.
        address: IPv4, as text.
        port: UDP.

    Raises:
        FormError: a part is none.
    """

    mac: bytes
    address: str
    port: int

    def __post_init__(self) -> None:
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError as error:
            raise FormError(f"{self.address!r:.40} is no IPv4 address", remedy="write it like 10.77.0.1") from error
        if type(self.mac) is not bytes or len(self.mac) != MAC_BYTES or not 0 < self.port < 1 << 16:
            raise FormError("no MAC address of 6 bytes, or no port", remedy="name both")

    @cached_property
    def packed(self) -> bytes:
        """The address as 4 bytes."""
        return ipaddress.IPv4Address(self.address).packed


@dataclass(frozen=True)
class Route:
    """From where to where the packets of one direction of a link go."""

    source: End
    target: End


def encode(route: Route, content: bytes) -> bytes:
    """Return the packet that holds these bytes, of any length up to what Ethernet carries."""
    source, target = route.source, route.target
    length = _UDP.size + len(content)
    pseudo = _PSEUDO.pack(source.packed, target.packed, 0, _PROTOCOL_UDP, length)
    head = _UDP.pack(source.port, target.port, length, 0)
    # A sum of zero is sent as all ones (RFC 768).
    udp = _UDP.pack(source.port, target.port, length, _checksum(pseudo + head + content) or 0xFFFF)
    fields = (0x45, 0, _IPV4.size + length, 0, _DONT_FRAGMENT, _TTL, _PROTOCOL_UDP)
    addresses = (source.packed, target.packed)
    header = _IPV4.pack(*fields, _checksum(_IPV4.pack(*fields, 0, *addresses)), *addresses)
    return _ETHERNET.pack(target.mac, source.mac, _ETHERTYPE_IPV4) + header + udp + content


def decode(route: Route, packet: bytes) -> bytes:
    """Return the bytes that a packet of this route holds.

    Raises:
        FormError: not the packet that `encode` makes of a frame's length.
    """
    content = packet[sizes.WIRE_HEADER_BYTES :]
    if len(content) not in FRAME_LENGTHS or encode(route, content) != packet:
        raise FormError(f"a packet of {len(packet)} bytes that is not the link's", remedy="drop it")
    return content


class Sieve:
    """Tells the packets of one route from all others, as `decode` does, at the speed of a line.

    Everything before the UDP checksum follows from the length; the checksum is the one number from 1 to 0xFFFF that
    makes the words' sum a multiple of 0xFFFF.
    """

    def __init__(self, route: Route) -> None:
        self._forms: dict[int, tuple[bytes, int, int, int]] = {}
        for length in FRAME_LENGTHS:
            head = encode(route, bytes(length))[:_CHECKSUM_AT]
            pseudo = _PSEUDO.pack(route.source.packed, route.target.packed, 0, _PROTOCOL_UDP, _UDP.size + length)
            half_bits = (_UDP.size + length) // 4 * 16
            weight = int.from_bytes(pseudo, "big") % 0xFFFF
            self._forms[sizes.WIRE_HEADER_BYTES + length] = (head, weight, half_bits, (1 << half_bits) - 1)

    def passes(self, packet: bytes) -> bool:
        """Return whether `decode` would take it."""
        form = self._forms.get(len(packet))
        if form is None or not packet.startswith(form[0]) or packet[_CHECKSUM_AT:_CONTENT_AT] == b"\0\0":
            return False
        _, weight, half_bits, half = form
        content = int.from_bytes(packet[_UDP_AT:], "big")
        # 2**16 is 1 modulo 0xFFFF: the halves' sum has the whole's remainder, and is quicker to divide. A frame has an
        # odd length: one zero byte more makes whole words.
        return ((((content >> half_bits) + (content & half)) % 0xFFFF << 8) + weight) % 0xFFFF == 0


def _checksum(content: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(content) % 2:
        content += b"\0"
    # 2**16 is 1 modulo 0xFFFF: the whole content's remainder is its 16-bit words' sum, except that only zeros sum to 0.
    total = int.from_bytes(content, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))
