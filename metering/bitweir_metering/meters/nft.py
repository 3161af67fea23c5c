"""Kernel meter: a counter and a quota in the netdev ingress hook of the receiving interface. Linux, root.

    python -m bitweir_metering.meters.nft SOCKET --interface NAME --source END --target END --budget-bytes N
        [--frames N --bytes N]

    L2 bytes = bytes + 14 * packets: this hook sees packets without their Ethernet header

Rules:
1. What is not the one flow is dropped, and so is the flow beyond its quota. A flush of the rules leaves `policy drop`.
2. The counter stands before the quota. Dropped packets are reported as missed: the receiver never saw them.
3. The quota lets at most `budget_bytes` L2 bytes pass, over all starts: it is never above what the smallest packets,
   which have most header, would make of it.
4. Rules are written as text by `nft -f -`, whole or not at all; counts are read by netlink: 0.01 ms, no library to
   load, and nothing to parse.
5. A start goes on from the counter that it finds in the kernel. If it finds none it begins with --frames and --bytes.
6. Counters that are gone (a flush of everything, a deleted table) are not zero: the meter cannot tell, for good.
"""

import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from bitweir_metering import sizes
from bitweir_metering.errors import MeterError
from bitweir_metering.meters import serving
from bitweir_metering.meters.reading import Reading
from bitweir_metering.units import amount
from bitweir_metering.wire import FRAME_LENGTHS, Route

TABLE: Final = "bitweir"
ETHERNET_BYTES: Final = 14
_LINK, _REFUSED = "link", "refused"
_SMALLEST_L2: Final = sizes.WIRE_HEADER_BYTES + min(FRAME_LENGTHS)
# Of linux/netlink.h, netfilter/nfnetlink.h and netfilter/nf_tables.h.
_NETFILTER, _REQUEST_FLAG, _ERROR = 12, 1, 2
_GET_OBJECT, _NEW_OBJECT = 10 << 8 | 19, 10 << 8 | 18
_FAMILY_NETDEV, _COUNTER_TYPE = 5, 1
_TABLE, _NAME, _TYPE, _DATA = 1, 2, 3, 4
_BYTES, _PACKETS = 1, 2
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct(">BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_TIMEOUT_S: Final = 0.5


@dataclass(frozen=True)
class Counts:
    """Packets, and their bytes on Ethernet."""

    frames: int = 0
    l2_bytes: int = 0

    def __post_init__(self) -> None:
        if amount(self.l2_bytes, "bytes") < ETHERNET_BYTES * amount(self.frames, "frames"):
            raise MeterError(f"{self.frames} frames of {self.l2_bytes} bytes", remedy="name both as they were counted")

    @property
    def l3_bytes(self) -> int:
        """Their bytes without Ethernet's header."""
        return self.l2_bytes - ETHERNET_BYTES * self.frames


def quota_bytes(budget_l2_bytes: int) -> int:
    """Return the L3 bytes that are never more than so many L2 bytes, whatever sizes packets have."""
    return amount(budget_l2_bytes, "budget_bytes") * (_SMALLEST_L2 - ETHERNET_BYTES) // _SMALLEST_L2


def rules(interface: str, route: Route, budget_l2_bytes: int, counted: Counts, refused: Counts) -> str:
    """Return the text for `nft -f -`; it replaces a table of an earlier start in one step.

    Raises:
        MeterError: an interface that has no name.
        UnitError: a number is no amount.
    """
    if not interface or not interface.isascii() or not interface.replace("-", "").replace(".", "").isalnum():
        raise MeterError(f"{interface!r:.40} is no interface", remedy="use letters, digits, dot and hyphen")
    source, target = route.source, route.target
    quota = quota_bytes(budget_l2_bytes)
    flow = [
        f"ether saddr {source.mac.hex(':')} ether daddr {target.mac.hex(':')}",
        f"ip saddr {source.address} ip daddr {target.address} ip version 4 ip hdrlength 5 ip frag-off & 0x3fff == 0",
        f"udp sport {source.port} udp dport {target.port}",
    ]
    return f"""table netdev {TABLE}
delete table netdev {TABLE}
table netdev {TABLE} {{
    counter {_LINK} {{ packets {counted.frames} bytes {counted.l3_bytes} }}
    counter {_REFUSED} {{ packets {refused.frames} bytes {refused.l3_bytes} }}
    quota budget {{ until {quota} bytes used {min(counted.l3_bytes, quota)} bytes }}
    chain up {{
        type filter hook ingress device "{interface}" priority 0; policy drop;
        {" ".join(flow)} counter name {_LINK} quota name budget accept
        counter name {_REFUSED}
    }}
}}
"""


def load(text: str) -> None:
    """Put rules into the kernel, whole or not at all.

    Raises:
        MeterError: nft is missing, or refuses.
    """
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise MeterError("there is no nft", remedy="install nftables")
    done = subprocess.run([program, "-f", "-"], input=text, capture_output=True, text=True, check=False)  # noqa: S603 - our own rules
    if done.returncode:
        raise MeterError(f"nft refuses: {done.stderr.strip():.200}", remedy="be root in the receiver's namespace")


class Counters:
    """Reads named counters of the table by netlink."""

    def __init__(self) -> None:
        self._number = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        self._socket.settimeout(_TIMEOUT_S)

    def read(self, name: str) -> Counts | None:
        """Return a counter's counts; None if there is no such counter.

        Raises:
            MeterError: the kernel does not answer.
        """
        self._number += 1
        body = _FAMILY.pack(_FAMILY_NETDEV, 0, 0) + _attribute(_TABLE, TABLE.encode() + b"\0")
        body += _attribute(_NAME, name.encode() + b"\0") + _attribute(_TYPE, struct.pack(">I", _COUNTER_TYPE))
        header = _HEADER.pack(_HEADER.size + len(body), _GET_OBJECT, _REQUEST_FLAG, self._number, 0)
        try:
            self._socket.sendto(header + body, (0, 0))
            content = self._socket.recv(1 << 16)
        except OSError as error:
            raise MeterError(f"no netlink: {error}", remedy="be root in the receiver's namespace") from error
        _, kind, _, number, _ = _HEADER.unpack_from(content)
        if number != self._number or kind not in (_NEW_OBJECT, _ERROR):
            raise MeterError(f"netlink answers {kind} to {number}", remedy="report this as a defect")
        return _counts(content) if kind == _NEW_OBJECT else None

    def close(self) -> None:
        """End it."""
        self._socket.close()


class NftMeter:
    """Answers with the counter of the rules, as long as they are there.

    Args:
        counters: where to read.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(self, counters: Counters, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._counters = counters
        self._clock = clock
        self._is_blind = False

    def read(self) -> Reading:
        """Return what the kernel counted.

        Raises:
            MeterError: the counter is gone, or was once.
        """
        counted, refused = self._counters.read(_LINK), self._counters.read(_REFUSED)
        if counted is None or refused is None or self._is_blind:
            self._is_blind = True
            raise MeterError("the counters were taken away", remedy="find out who did it; then start the meter again")
        return Reading(counted.frames, counted.l2_bytes, refused.frames, 0, self._clock())


def _attribute(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) % 4)


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    while len(content) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(content)
        yield kind & _TYPE_MASK, content[_ATTRIBUTE.size : length]
        content = content[max(_ATTRIBUTE.size, (length + 3) & ~3) :]


def _counts(content: bytes) -> Counts:
    data = dict(_attributes(content[_HEADER.size + _FAMILY.size :])).get(_DATA, b"")
    numbers = {kind: int.from_bytes(value, "big") for kind, value in _attributes(data)}
    if {_BYTES, _PACKETS} - set(numbers):
        raise MeterError("a counter without counts", remedy="report this as a defect")
    return Counts(numbers[_PACKETS], numbers[_BYTES] + ETHERNET_BYTES * numbers[_PACKETS])


def main(arguments: Sequence[str] | None = None) -> None:
    """Count the link's packets in the kernel, drop all others, and answer at SOCKET."""
    parser = serving.parser("nft", main.__doc__)
    parser.add_argument("--interface", required=True, metavar="NAME")
    parser.add_argument("--source", type=serving.end, required=True, metavar="MAC,ADDRESS,PORT", help="the gate's end")
    parser.add_argument("--target", type=serving.end, required=True, metavar="MAC,ADDRESS,PORT", help="the receiver's")
    parser.add_argument(
        "--budget-bytes", type=int, required=True, metavar="N", help="L2 bytes of the link's whole life"
    )
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="that the link had sent before")
    parser.add_argument("--bytes", type=int, default=0, metavar="N", help="likewise, L2 bytes")
    words = parser.parse_args(arguments)

    def work() -> None:
        with closing(Counters()) as counters:
            counted = counters.read(_LINK) or Counts(words.frames, words.bytes)
            refused = counters.read(_REFUSED) or Counts()
            load(rules(words.interface, Route(words.source, words.target), words.budget_bytes, counted, refused))
            server = serving.MeterServer(words.socket, NftMeter(counters), client_user=words.client_user)
            with closing(server):
                while True:
                    server.serve(None)

    serving.run(work)


if __name__ == "__main__":
    main()
