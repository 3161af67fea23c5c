"""The software cable: between the gate's TAP interface and the receiver's it is the only copper. Linux, root.

    python -m bitweir_metering.meters.cable SOCKET --gate-tap NAMESPACE/NAME --outer-tap NAMESPACE/NAME
        --gate END --outer END --line-rate "100 Mbit/s"

    up      gate's TAP -> here -> receiver's TAP     the link's packets alone, counted before they are written
    down    receiver's TAP -> here -> gate's TAP     UDP to the gate's control port alone, of any length, not counted

Rules:
1. Up, whatever is not the one form that wire.py has for a frame is not copied. It is reported as missed (`drops`), so
   that reconcile trips the link: on the gate's side somebody is at work who is not the gate.
2. A packet that was counted and then could not be written is reported likewise.
3. In any time w at most line_rate * (w + 2 ms) bits and one packet go up. What comes faster waits in the gate's TAP.
4. When the process ends, both interfaces lose their carrier: there is no other way across.
"""

import argparse
import ctypes
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from bitweir_metering import sizes
from bitweir_metering.errors import MeterError
from bitweir_metering.meters import serving
from bitweir_metering.meters.reading import Reading
from bitweir_metering.units import NS_PER_S, parse_rate, positive
from bitweir_metering.wire import FRAME_LENGTHS, Route, Sieve

SLACK_NS: Final = 2_000_000
PACKET_BYTES_MAX: Final = 1514
"""Ethernet's longest; of the down direction."""
_AT_ONCE: Final = 64
_READ_BYTES: Final = 4096
_TUNSETIFF: Final = 0x400454CA
_INTERFACE: Final = struct.Struct("16sH22x")
_TAP_WITHOUT_HEADER: Final = 0x1002
_CLONE_NEWNET: Final = 0x40000000
_IPV4_UDP: Final = (b"\x08\x00\x45", 17)
_FRAGMENT: Final = 0x3FFF
_NAMESPACES: Final = Path("/run/netns")


class Relay:
    """What the cable copies and counts, without the cable. Pure.

    Args:
        up: from the gate to the receiver.
        line_bits_per_s: of the up direction.
    """

    def __init__(self, up: Route, line_bits_per_s: int) -> None:
        self._passes = Sieve(up).passes
        rate = positive(line_bits_per_s, "line rate")
        lengths = [sizes.WIRE_HEADER_BYTES + length for length in FRAME_LENGTHS]
        self._line_ns = {length: -(-8 * NS_PER_S * length // rate) for length in lengths}
        gate, outer = up.source, up.target
        self._down_start = gate.mac + outer.mac + _IPV4_UDP[0]
        self._down_addresses = outer.packed + gate.packed
        self._down_port = gate.port.to_bytes(2, "big")
        self._frames = self._l2_bytes = self._refused = self._longest = 0
        self.due_ns = 0
        """Nothing may go up before."""

    def up(self, packet: bytes, now_ns: int) -> bool:
        """Count a packet; return whether it is copied. Not to be called before `due_ns`."""
        if not self._passes(packet):
            self._refused += 1
            return False
        length = len(packet)
        self._frames += 1
        self._l2_bytes += length
        self._longest = max(self._longest, length)
        earliest_ns, due_ns = now_ns - SLACK_NS, self.due_ns
        self.due_ns = (due_ns if due_ns > earliest_ns else earliest_ns) + self._line_ns[length]
        return True

    def lost(self) -> None:
        """Count a packet that was copied and then not written."""
        self._refused += 1

    def down(self, packet: bytes) -> bool:
        """Return whether a packet towards the gate is copied: whole UDP over plain IPv4, to the control port."""
        return (
            len(packet) <= PACKET_BYTES_MAX
            and packet.startswith(self._down_start)
            and packet[23:24] == b"\x11"
            and not int.from_bytes(packet[20:22], "big") & _FRAGMENT
            and packet[26:34] == self._down_addresses
            and packet[36:38] == self._down_port
        )

    def reading(self, now_ns: int) -> Reading:
        """Return the counts of the up direction."""
        return Reading(self._frames, self._l2_bytes, self._refused, self._longest, now_ns)


class Cable:
    """Copies between two TAP interfaces as `Relay` says.

    Args:
        relay: decides and counts.
        gate_tap: descriptor of the gate's TAP interface.
        outer_tap: likewise, the receiver's.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self, relay: Relay, gate_tap: int, outer_tap: int, *, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._relay, self._gate_tap, self._outer_tap, self._clock = relay, gate_tap, outer_tap, clock
        for tap in (gate_tap, outer_tap):
            os.set_blocking(tap, False)
        self._poll = select.epoll()
        self._is_waiting_for_gate = True
        self._poll.register(gate_tap, select.EPOLLIN)
        self._poll.register(outer_tap, select.EPOLLIN)

    def read(self) -> Reading:
        """Return the counts of the up direction."""
        return self._relay.reading(self._clock())

    def serve(self, server: serving.MeterServer) -> None:
        """Copy and answer, until the process ends."""
        self._poll.register(server.fileno(), select.EPOLLIN)
        while True:
            # Towards a packet that must wait for the line nothing is read, so that it waits in the interface.
            wait_ns = self._relay.due_ns - self._clock()
            self._wait_for_gate(wait_ns <= 0)
            ready = {descriptor for descriptor, _ in self._poll.poll(wait_ns / NS_PER_S if wait_ns > 0 else None)}
            if server.fileno() in ready:
                server.serve(0)
            if self._outer_tap in ready:
                self._copy_down()
            if self._gate_tap in ready:
                self._copy_up()

    def write_up(self, packet: bytes) -> None:
        """Hand a packet that was counted to the receiver's side."""
        try:
            os.write(self._outer_tap, packet)
        except OSError:
            self._relay.lost()

    def _wait_for_gate(self, is_due: bool) -> None:
        if is_due != self._is_waiting_for_gate:
            self._is_waiting_for_gate = is_due
            self._poll.modify(self._gate_tap, select.EPOLLIN if is_due else 0)

    def _copy_up(self) -> None:
        relay, clock, write_up = self._relay, self._clock, self.write_up
        for _ in range(_AT_ONCE):
            now_ns = clock()
            if now_ns < relay.due_ns:
                return
            packet = _read(self._gate_tap)
            if packet is None:
                return
            if relay.up(packet, now_ns):
                write_up(packet)

    def _copy_down(self) -> None:
        for _ in range(_AT_ONCE):
            packet = _read(self._outer_tap)
            if packet is None:
                return
            if self._relay.down(packet):
                try:
                    os.write(self._gate_tap, packet)
                except OSError:
                    return  # The down direction is said again by who needs it.


def _read(tap: int) -> bytes | None:
    """Return the next packet; None if there is none now.

    Raises:
        MeterError: the interface is gone.
    """
    try:
        return os.read(tap, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        raise MeterError(f"an interface of the cable is gone: {error}", remedy="set the lab up again") from error


def open_tap(namespace: str, name: str) -> int:
    """Return the descriptor of a TAP interface of a named network namespace; "" is this process's own.

    Raises:
        MeterError: no such interface, or somebody else holds it.
    """
    try:
        with Path("/proc/self/ns/net").open("rb") as own:
            if namespace:
                with (_NAMESPACES / namespace).open("rb") as other:
                    _enter(other.fileno())
            try:
                descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
                fcntl.ioctl(descriptor, _TUNSETIFF, _INTERFACE.pack(name.encode(), _TAP_WITHOUT_HEADER))
            finally:
                _enter(own.fileno())
    except OSError as error:
        raise MeterError(f"no TAP {name} in {namespace or 'here'}: {error}", remedy="set the lab up as root") from error
    return descriptor


def _enter(descriptor: int) -> None:
    """Move this process to a network namespace; os.setns comes with Python 3.12."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def words_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the cable's arguments; a faulty one of tests has the same."""
    parser = serving.parser("cable", main.__doc__)
    for side in ("gate", "outer"):
        parser.add_argument(f"--{side}-tap", required=True, metavar="NAMESPACE/NAME")
        parser.add_argument(f"--{side}", type=serving.end, required=True, metavar="MAC,ADDRESS,PORT")
    parser.add_argument("--line-rate", required=True, metavar="RATE", help="of the up direction, e.g. 100 Mbit/s")
    return parser.parse_args(arguments)


def work(words: argparse.Namespace, kind: type[Cable] = Cable) -> None:
    """Be the cable that the arguments describe."""
    relay = Relay(Route(words.gate, words.outer), parse_rate(words.line_rate))
    taps = [open_tap(*name.rpartition("/")[::2]) for name in (words.gate_tap, words.outer_tap)]
    cable = kind(relay, *taps)
    with closing(serving.MeterServer(words.socket, cable, client_user=words.client_user)) as server:
        cable.serve(server)


def main(arguments: Sequence[str] | None = None) -> None:
    """Be the only way from the gate to the receiver, and answer at SOCKET."""
    words = words_of(arguments)
    serving.run(lambda: work(words))


if __name__ == "__main__":
    main()
