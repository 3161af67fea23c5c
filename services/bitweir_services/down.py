"""Messages that go down one way: in datagrams, with enough redundancy that nobody has to answer. Sans-I/O.

    datagram, 20 bytes and a block    version (= 1), k, m, index, 8 B number of the message, 8 B its bytes    big endian

A message is cut into k blocks, from which m are made (zfec's erasure code: any k of the m bring it back).
Acknowledging what came down would be an upload, so nobody does.

Rules:
1. Messages may arrive in any order, twice, or never; whoever sends one that matters says it again.
2. A message is given out once, while it is among the last `REMEMBERED` numbers.
3. Datagrams that do not fit each other or the limits are dropped; nothing that is stored grows without bound.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from zfec.easyfec import Decoder, Encoder

from bitweir_services.errors import RequestError

VERSION: Final = 1
HEADER: Final = struct.Struct(">BBBBQQ")
BLOCK_BYTES: Final = 1_200  # with all headers inside an Ethernet frame
BLOCKS_MAX: Final = 160  # before redundancy; with it below zfec's 256
MESSAGE_BYTES_MAX: Final = BLOCKS_MAX * BLOCK_BYTES
REDUNDANCY_MIN: Final = 1
REDUNDANCY_SHARE: Final = 4  # one block more for so many
UNFINISHED_MAX: Final = 256
REMEMBERED: Final = 1 << 16
NUMBERS: Final = 1 << 62


class DownSender:
    """Makes datagrams of messages, numbered from a start that grows over restarts (a clock, say)."""

    def __init__(self, number: int) -> None:
        """Number the first message so."""
        self._number = number

    def datagrams(self, message: bytes) -> list[bytes]:
        """Return the datagrams of one message.

        Raises:
            RequestError: empty or too long.
        """
        if not 0 < len(message) <= MESSAGE_BYTES_MAX:
            raise RequestError(f"a message of {len(message)} bytes", remedy=f"1 to {MESSAGE_BYTES_MAX}; shorten it")
        count = -(-len(message) // BLOCK_BYTES)
        total = count + max(REDUNDANCY_MIN, -(-count // REDUNDANCY_SHARE))
        number, self._number = self._number, self._number + 1
        blocks = Encoder(count, total).encode(message)
        head = (VERSION, count, total)
        return [HEADER.pack(*head, index, number, len(message)) + block for index, block in enumerate(blocks)]


@dataclass
class _Unfinished:
    shape: tuple[int, int, int]
    """k, m and bytes of the message."""
    blocks: dict[int, bytes] = field(default_factory=dict)


class DownReceiver:
    """Makes messages of datagrams again.

    Attributes:
        dropped_count: datagrams that were none, or came too late.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.dropped_count = 0
        self._unfinished: OrderedDict[int, _Unfinished] = OrderedDict()
        self._done: OrderedDict[int, None] = OrderedDict()

    def take(self, datagram: bytes) -> bytes | None:
        """Return the message that this datagram completes, if it does."""
        found = _parsed(datagram)
        if found is None:
            self.dropped_count += 1
            return None
        number, index, shape, block = found
        if number in self._done:
            return None
        message = self._unfinished.setdefault(number, _Unfinished(shape))
        if message.shape != shape:
            self.dropped_count += 1
            return None
        message.blocks[index] = block
        count, total, size = shape
        if len(message.blocks) < count:
            if len(self._unfinished) > UNFINISHED_MAX:
                self._unfinished.popitem(last=False)
                self.dropped_count += 1
            return None
        del self._unfinished[number]
        self._done[number] = None
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        indices = sorted(message.blocks)[:count]
        padding = count * len(block) - size
        return bytes(Decoder(count, total).decode([message.blocks[one] for one in indices], indices, padding))


def _parsed(datagram: bytes) -> tuple[int, int, tuple[int, int, int], bytes] | None:
    """Return number, index, shape and block; None for what `DownSender` does not make."""
    if len(datagram) <= HEADER.size:
        return None
    version, count, total, index, number, size = HEADER.unpack_from(datagram)
    block = datagram[HEADER.size :]
    if version != VERSION or not 0 < count <= BLOCKS_MAX or not index < total or number >= NUMBERS:
        return None
    if total != count + max(REDUNDANCY_MIN, -(-count // REDUNDANCY_SHARE)):
        return None
    if not 0 < size <= MESSAGE_BYTES_MAX or -(-size // BLOCK_BYTES) != count or len(block) != -(-size // count):
        return None
    return number, index, (count, total, size), block
