"""The operator tunnel: what its two ends say to each other. Pure; the ends are tunnel_inner.py and tunnel_outer.py.

Up, charged: the payload of one frame of class TUNNEL, in bits, the first one most significant.

    START    1, then 62 bits of epoch                        63 bits: a frame of the smallest size class
    ITEM     0, slot (2 bits), what (2), width (2), ack, bytes
             what     0 ACK: no bytes, so there is an ack    1 BYTES: at least one byte
                      2 LAST: no more after these bytes      3 GONE: the stream is broken; no ack, no bytes
             width    0: no ack                              1: 7 bits, the ack less 1 (1 to 128)
                      2: 12 bits, less 129 (129 to 4224)     3: 17 bits, less 4225 (4225 to WINDOW_BYTES + MARKS_MAX)
             bytes    whole bytes to the end of the payload

The slot is the stream's number modulo SLOTS. An ack is how many more positions of the stream that comes down were taken
than the last ack said: frames are put in order before they are read, so it needs no absolute number.

Down, free: one datagram, at most DOWN_BYTES_MAX, big endian.

    message  version (= 1), kind, 8 B epoch, 4 B stream, 8 B position, 8 B allowance, bytes, 16 B tag
    tag      BLAKE2b-128 of all before it, keyed with the tunnel's own key

    kind         stream   position                            allowance                  takes positions
    1 HELLO      0        number of the try, from 1           0                          0
    2 OPEN       number   0                                   bytes that may come up     1
    3 BYTES      number   of the first byte, from 1           the same, so far           1 a byte, 1 to CHUNK_BYTES
    4 CHECK      number   from 1: acknowledge this            the same                   1
    5 END        number   from 1: nothing follows             the same                   1
    6 ABORT      number   0: the stream is broken             0                          0
    7 CREDIT     number   0                                   the same                   0
    8 BYE        0        0: the epoch is over                0                          0

Rules:
1. Outer chooses epochs (CLOCK_REALTIME in nanoseconds) and stream numbers, both only rising: echoed, they say nothing.
   An epoch lasts while a stream is open.
2. `encode(decode(x)) == x` for all that is accepted, both ways; anything else is a TunnelError.
3. Up frames are in order and complete, or the epoch ends. Down messages may be lost, repeated and reordered.
4. What comes down is repeated until acknowledged. An ack goes up only when it says something new.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bitweir_metering import sizes
from bitweir_metering.errors import TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.keys import SHARED_KEY_BYTES
from bitweir_metering.units import AMOUNT_LIMIT, NS_PER_S

VERSION: Final = 1
# Streams at once: 2 bits of slot in every frame. People open one or two.
SLOTS: Final = 4
STREAM_LIMIT: Final = 1 << 32
# Bytes of a stream on their way, each way: what an end may have to hold for one stream.
WINDOW_BYTES: Final = 64 * 1024
# Messages of a stream on their way, at most: small ones are many.
MESSAGES_MAX: Final = 1024
# Positions beyond the window: OPEN, one CHECK, END.
MARKS_MAX: Final = 3
# With headers and tag it fits every usual path.
CHUNK_BYTES: Final = 1200
TAG_BYTES: Final = 16
EPOCH_BITS: Final = 62
_BODY: Final = struct.Struct(">BBQIQQ")
DOWN_BYTES_MAX: Final = _BODY.size + CHUNK_BYTES + TAG_BYTES
_PERSON: Final = b"bitweir tun v1"
_HEADER_BITS: Final = 7
_WIDTHS: Final = (0, 7, 12, 17)
# The smallest ack of each width.
_ACK_FROM: Final = (0, 1, 129, 4225)
ACK_MAX: Final = WINDOW_BYTES + MARKS_MAX
_REMEDY: Final = "both ends run the same version; open the connection again"
_MS: Final = NS_PER_S // 1000


@dataclass(frozen=True)
class Times:
    """How long each thing waits, in nanoseconds."""

    linger_ns: int = 5 * _MS
    """Bytes wait so long for more of them before they leave in a frame."""
    pace_ns: int = 20 * _MS
    """Between two payloads; the gate lets one frame out a slot, so take the slot of the policy."""
    ack_ns: int = 300 * _MS
    """An ack waits so long for bytes to travel with."""
    repeat_ns: int = 250 * _MS
    """What comes down is repeated after this; each time twice as long, up to 16 times."""
    ask_ns: int = 100 * _MS
    """A missing frame is asked for after this, and again after a second, two, four, ..."""
    probe_ns: int = 2 * NS_PER_S
    """After so long without a frame, the next one is asked for in case it was lost; up to 8 times as long."""
    check_ns: int = 60 * NS_PER_S
    """After so long without a frame, an ack is demanded: one frame. Doubles up to an hour while nothing is said."""
    give_up_ns: int = 30 * NS_PER_S
    """What is missing or not acknowledged for so long ends the epoch."""
    silence_ns: int = 300 * NS_PER_S
    """Inner forgets an outer end that it does not hear."""


class Up(IntEnum):
    """What an item says."""

    ACK = 0
    BYTES = 1
    LAST = 2
    GONE = 3


@dataclass(frozen=True)
class Start:
    """Inner has begun this epoch; all frames before this one belong to others."""

    epoch: int

    def __post_init__(self) -> None:
        _check(type(self.epoch) is int and 0 <= self.epoch < AMOUNT_LIMIT, f"epoch {self.epoch}")


@dataclass(frozen=True)
class Item:
    """One stream's share of a payload.

    Raises:
        TunnelError: it says nothing, or what its kind does not say.
    """

    slot: int
    what: Up
    ack: int = 0
    content: bytes = b""

    def __post_init__(self) -> None:
        is_sound = {
            Up.ACK: self.ack > 0 and not self.content,
            Up.BYTES: bool(self.content),
            Up.LAST: True,
            Up.GONE: self.ack == 0 and not self.content,
        }
        _check(0 <= self.slot < SLOTS and 0 <= self.ack <= ACK_MAX, f"slot {self.slot}, ack {self.ack}")
        _check(is_sound[self.what], f"{self.what.name} with ack {self.ack} and {len(self.content)} bytes")
        _check(len(self.content) <= content_bytes_max(self.ack), f"{len(self.content)} bytes in one frame")


def _check(is_sound: bool, message: str) -> None:
    if not is_sound:
        raise TunnelError(message, remedy=_REMEDY)


def _width_index(ack: int) -> int:
    return next(index for index in (3, 2, 1, 0) if ack >= _ACK_FROM[index])


def content_bytes_max(ack: int) -> int:
    """Return how many bytes fit in one payload beside this ack."""
    return (8 * sizes.SIZE_CLASSES[-1] - 1 - _HEADER_BITS - _WIDTHS[_width_index(ack)]) // 8


def encode_up(said: Start | Item) -> Payload:
    """Return the payload; see the top of this file."""
    if isinstance(said, Start):
        return Payload(1 << EPOCH_BITS | said.epoch, 1 + EPOCH_BITS)
    index = _width_index(said.ack)
    width, size = _WIDTHS[index], len(said.content)
    value = (said.slot << 2 | said.what) << 2 | index
    value = value << width | (said.ack - _ACK_FROM[index])
    return Payload(value << 8 * size | int.from_bytes(said.content, "big"), _HEADER_BITS + width + 8 * size)


def decode_up(payload: Payload) -> Start | Item:
    """Return what a payload says.

    Raises:
        TunnelError: not what `encode_up` makes.
    """
    value, count = payload.value, payload.count
    if count == 1 + EPOCH_BITS and value >> EPOCH_BITS:
        return Start(value & ((1 << EPOCH_BITS) - 1))
    _check(count >= _HEADER_BITS, f"a payload of {count} bits")
    header = value >> (count - _HEADER_BITS)
    index = header & 3
    rest = count - _HEADER_BITS - _WIDTHS[index]
    _check(not header >> 6 and rest >= 0 and rest % 8 == 0, f"a payload of {count} bits that begins with {header:07b}")
    ack = (value >> rest & ((1 << _WIDTHS[index]) - 1)) + _ACK_FROM[index]
    content = (value & ((1 << rest) - 1)).to_bytes(rest // 8, "big")
    return Item(header >> 4, Up(header >> 2 & 3), ack, content)


class Down(IntEnum):
    """What a message that comes down says."""

    HELLO = 1
    OPEN = 2
    BYTES = 3
    CHECK = 4
    END = 5
    ABORT = 6
    CREDIT = 7
    BYE = 8


MARKS: Final = frozenset({Down.OPEN, Down.CHECK, Down.END})


@dataclass(frozen=True)
class Message:
    """What comes down; numbers are integers from 0 to 2**62 - 1.

    Raises:
        TunnelError: a number or bytes where none belong, or out of range.
    """

    kind: Down
    epoch: int
    stream: int = 0
    position: int = 0
    allowance: int = 0
    content: bytes = b""

    def __post_init__(self) -> None:
        numbers = (self.epoch, self.stream, self.position, self.allowance)
        _check(all(type(number) is int and 0 <= number < AMOUNT_LIMIT for number in numbers), f"numbers {numbers}")
        is_of_stream = self.kind not in (Down.HELLO, Down.BYE)
        is_sound = is_of_stream == (self.stream > 0) and self.stream < STREAM_LIMIT
        is_placed = self.kind in (Down.HELLO, Down.BYTES, Down.CHECK, Down.END)
        is_sound &= is_placed == (self.position > 0)
        is_sound &= self.allowance == 0 or (is_of_stream and self.kind is not Down.ABORT)
        size = len(self.content)
        is_sound &= 0 < size <= CHUNK_BYTES if self.kind is Down.BYTES else size == 0
        _check(is_sound, f"{self.kind.name} with {numbers} and {size} bytes")

    @property
    def length(self) -> int:
        """Positions it takes in its stream."""
        return 1 if self.kind in MARKS else len(self.content)


def encode_down(message: Message, key: bytes) -> bytes:
    """Return the datagram."""
    numbers = (message.epoch, message.stream, message.position, message.allowance)
    body = _BODY.pack(VERSION, message.kind, *numbers) + message.content
    return body + _tag(body, key)


def decode_down(datagram: bytes, key: bytes) -> Message:
    """Return what a datagram says.

    Raises:
        TunnelError: damaged, forged, or not what `encode_down` makes.
    """
    _check(_BODY.size + TAG_BYTES <= len(datagram) <= DOWN_BYTES_MAX, f"a datagram of {len(datagram)} bytes")
    body = datagram[:-TAG_BYTES]
    _check(hmac.compare_digest(_tag(body, key), datagram[-TAG_BYTES:]), "a datagram with a wrong tag")
    version, kind, epoch, stream, position, allowance = _BODY.unpack_from(body)
    _check(version == VERSION and kind in set(Down), f"version {version}, kind {kind}")
    return Message(Down(kind), epoch, stream, position, allowance, body[_BODY.size :])


def _tag(body: bytes, key: bytes) -> bytes:
    _check(len(key) == SHARED_KEY_BYTES, f"a key of {len(key)} bytes")
    return hashlib.blake2b(body, digest_size=TAG_BYTES, key=key, person=_PERSON).digest()


@dataclass(frozen=True)
class Send:
    """Outer: send this datagram to the inner end."""

    datagram: bytes


@dataclass(frozen=True)
class Ask:
    """Outer: ask the gate to send this frame again."""

    sequence: int


@dataclass(frozen=True)
class Connect:
    """Inner: connect this stream to the service."""

    stream: int


@dataclass(frozen=True)
class Write:
    """Both: write these bytes to the stream's connection."""

    stream: int
    content: bytes


@dataclass(frozen=True)
class WriteEnd:
    """Both: nothing more will be written; shut the connection down for writing once all is written."""

    stream: int


@dataclass(frozen=True)
class Close:
    """Both: close the connection. With a reason, at once and with a reset; without, all was said."""

    stream: int
    reason: str = ""


Event = Send | Ask | Connect | Write | WriteEnd | Close
