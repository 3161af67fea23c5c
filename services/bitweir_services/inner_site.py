"""The inner site's end of the link: datagrams of outer in, the engine at work, payloads to the gate. A thin shell.

Rules:
1. Payloads are handed to the gate in order. One that the gate does not take yet is kept and tried again; the session
   makes no more than it may have in flight, so this cannot grow.
2. Nothing leaves but through the gate's local socket. What goes wrong with a message of outer is counted, not told.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitweir_compression.coder import Bits
from bitweir_metering.errors import FullError, RefusedError
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gate_client import GateClient
from bitweir_services import messages
from bitweir_services.down import DownReceiver
from bitweir_services.errors import MessageError
from bitweir_services.inner import InnerLane

DATAGRAM_BYTES_MAX: Final = 2048
IDLE_S: Final = 0.05
RETRY_NS: Final = 20_000_000
NS_PER_S: Final = 1_000_000_000
# Datagrams read before the engine writes its next token.
DATAGRAMS_AT_ONCE: Final = 512


@dataclass(frozen=True)
class InnerPlace:
    """Where this site is.

    Attributes:
        listen: UDP address for what comes down.
        gate: the gate's local socket.
        lane: this lane's number, 0 to 7.
    """

    listen: tuple[str, int]
    gate: Path
    lane: int = 0


class InnerSite:
    """One lane's inner end with its sockets; see the rules of this file.

    Args:
        lane: the lane.
        place: where it is.
        latency_ns: after so long without a frame what there is goes up, if less than a frame's worth.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self,
        lane: InnerLane,
        place: InnerPlace,
        *,
        latency_ns: int = NS_PER_S // 2,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lane = lane
        self._place = place
        self._latency_ns = latency_ns
        self._clock = clock
        self._down = DownReceiver()
        self._waiting: deque[Bits] = deque()
        self._framed_ns = clock()
        self._retry_ns = 0
        self.refused_count = 0
        """Messages that were none, or did not fit this lane."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(place.listen)
        self._socket.setblocking(False)
        self._gate = GateClient(place.gate)

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._gate.close()

    def serve(self, is_over: Callable[[], bool]) -> None:
        """Serve until it is over.

        Raises:
            SocketError: the gate is gone.
        """
        while not is_over():
            self.step()

    def step(self) -> None:
        """Take what came, write a token for each request, and hand over what is ready."""
        is_busy = bool(self._lane.in_flight_count)
        readable, _, _ = select.select([self._socket], [], [], 0 if is_busy else IDLE_S)
        if readable:
            self._read()
        if self._lane.in_flight_count:
            self._lane.step()
        now_ns = self._clock()
        if not self._waiting:
            frames = self._lane.frames(is_urgent=now_ns - self._framed_ns >= self._latency_ns)
            if frames:
                self._waiting += frames
                self._framed_ns = now_ns
        if self._waiting and now_ns >= self._retry_ns:
            self._hand_over(now_ns)

    def _read(self) -> None:
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            content = self._down.take(datagram)
            if content is None:
                continue
            try:
                self._lane.receive(messages.decode(content))
            except MessageError:
                self.refused_count += 1

    def _hand_over(self, now_ns: int) -> None:
        while self._waiting:
            bits = self._waiting[0]
            try:
                self._gate.submit(TrafficClass.MODEL, self._place.lane, Payload(bits.value, bits.count))
            except (FullError, RefusedError):
                # Full for now, or the gate has not heard of the grants yet.
                self._retry_ns = now_ns + RETRY_NS
                return
            self._waiting.popleft()
