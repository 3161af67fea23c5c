"""The two processes of an operator tunnel: people outside reach a TCP service inside, and every bit up is charged.

    python -m bitweir_metering.tunnel_ends inner --gate SOCKET --listen ADDRESS:PORT --to ADDRESS:PORT --key FILE
    python -m bitweir_metering.tunnel_ends outer --listen ADDRESS:PORT --frames ADDRESS:PORT --gate ADDRESS:PORT
        --down ADDRESS:PORT --frame-key FILE --key FILE

    inner   --gate     the gate's local socket              --listen   UDP, what the outer end sends down
            --to       the service, sshd for example        --key      the tunnel's own key
    outer   --listen   TCP, where people connect            --frames   UDP, where the gate's frames arrive
            --gate     UDP, the gate's control port         --down     UDP, where the inner end listens
            --frame-key  outer.key of the gate: frames are checked and asked for again with it

Rules:
1. The outer end takes the whole frame stream of its link, of which only class TUNNEL means something to it: use a link
   that carries nothing else. A link with more hands its frames to `tunnel_outer.OuterEnd`, which knows no sockets.
2. Whoever reaches --listen of the outer end reaches the service: keep it on the loopback address.
3. An error of a stream resets its connections; an error of the gate resets all. Nothing is sent past the gate.
4. stderr has one line of JSON an event.
"""

import argparse
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from bitweir_metering import addresses, control, frame
from bitweir_metering.control import Control
from bitweir_metering.errors import FormError, FullError, MeteringError, RefusedError, SocketError, TunnelError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.gate_client import GateClient
from bitweir_metering.keys import load_shared
from bitweir_metering.tunnel import DOWN_BYTES_MAX, SLOTS, Ask, Close, Connect, Event, Send, Times
from bitweir_metering.tunnel_connections import Broke, Connections, Ended, Happening, Said, bound
from bitweir_metering.tunnel_inner import InnerEnd
from bitweir_metering.tunnel_outer import OuterEnd
from bitweir_metering.units import NS_PER_S

LANE: Final = 0
FRAME_BYTES_MAX: Final = 2048
CONNECTIONS_MAX: Final = 4 * SLOTS
# Datagrams of one round; the rest waits for the next.
DATAGRAMS_MAX: Final = 256
WAIT_MAX_S: Final = 0.25
BUSY_WAIT_S: Final = 0.01
RECEIVE_BUFFER_BYTES: Final = 1 << 20
_MS: Final = NS_PER_S // 1000
Clock = Callable[[], int]


class Ignored:
    """Counts what is ignored; says so at the first, second, fourth, ... that nobody may fill a log."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, error: MeteringError) -> None:
        """One more, and why."""
        self._count += 1
        if not self._count & (self._count - 1):
            say("ignored", reason=str(error), count=self._count)


def say(event: str, **fields: object) -> None:
    """Write a line for the people who run this end."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()


class Inner:
    """The inner process: see `main`.

    Args:
        gate: the gate's socket.
        listen: what comes down arrives here.
        service: where each stream is connected to.
        key: the tunnel's.
        times: how long things wait.
        clock: CLOCK_MONOTONIC.
        realtime_ns: CLOCK_REALTIME now.
    """

    def __init__(
        self,
        gate: Path,
        listen: socket.socket,
        service: tuple[str, int],
        key: bytes,
        *,
        times: Times,
        clock: Clock,
        realtime_ns: int,
    ) -> None:
        self._gate_path, self._listen, self._service, self._clock, self._times = gate, listen, service, clock, times
        self._gate: GateClient | None = None
        self._ignored = Ignored()
        self._end = InnerEnd(key, realtime_ns=realtime_ns, now_ns=clock(), times=times)
        self._connections = Connections()
        self._connections.watch(listen)

    def round(self) -> None:
        """Wait for something to happen, and do what follows."""
        due_ns = self._end.due_ns()
        wait_s = WAIT_MAX_S if due_ns is None else min(WAIT_MAX_S, max(0, due_ns - self._clock()) / NS_PER_S)
        rooms = {stream: self._end.room_bytes(stream) for stream in self._end.streams}
        ready, happened = self._connections.wait(wait_s, rooms)
        now_ns = self._clock()
        for one in happened:
            self._tell(one, now_ns)
        if ready:
            for datagram in _datagrams(self._listen, DOWN_BYTES_MAX + 1):
                try:
                    self._end.receive(datagram, now_ns)
                except TunnelError as error:
                    self._ignored.add(error)
        self._end.step(now_ns)
        self._carry_out()
        self._submit(now_ns)
        self._carry_out()

    def close(self) -> None:
        """Reset all connections."""
        self._connections.close()
        self._hang_up()

    def _tell(self, one: Happening, now_ns: int) -> None:
        if isinstance(one, Said):
            self._end.say(one.stream, one.content, now_ns)
        elif isinstance(one, Ended):
            self._end.end(one.stream, now_ns)
        elif isinstance(one, Broke):
            say("broke", stream=one.stream, side="service")
            self._end.broken(one.stream)
        else:
            self._end.written(one.stream, one.count, now_ns)

    def _carry_out(self) -> None:
        for event in self._end.events():
            if isinstance(event, Connect):
                say("open", stream=event.stream)
                self._connections.connect(event.stream, self._service)
            else:
                _do(self._connections, event)

    def _submit(self, now_ns: int) -> None:
        payload = self._end.offer(now_ns)
        if payload is None:
            return
        is_starting = self._end.is_starting
        try:
            if is_starting or self._gate is None:
                self._hang_up()
                self._gate = GateClient(self._gate_path)
            self._gate.submit(TrafficClass.TUNNEL, LANE, payload)
        except FullError:
            self._end.put_off(now_ns + self._times.pace_ns)
        except RefusedError as error:
            say("refused", reason=str(error))
            self._end.fail(str(error))
        except SocketError as error:
            say("no gate", reason=str(error))
            self._hang_up()
            if is_starting:
                self._end.put_off(now_ns + NS_PER_S)
            else:
                # It may have taken the payload or not: nobody can go on from there.
                self._end.fail(str(error))
        else:
            self._end.taken(now_ns)

    def _hang_up(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None


class Outer:
    """The outer process: see `main`.

    Args:
        listen: where people connect.
        frames: the gate's frames arrive here.
        gate: its control port.
        down: the inner end.
        frame_key: the gate's outer.key.
        key: the tunnel's.
        times: how long things wait.
        clock: CLOCK_MONOTONIC.
        realtime: CLOCK_REALTIME.
    """

    def __init__(
        self,
        listen: socket.socket,
        frames: socket.socket,
        gate: tuple[str, int],
        down: tuple[str, int],
        *,
        frame_key: bytes,
        key: bytes,
        times: Times,
        clock: Clock,
        realtime: Clock,
    ) -> None:
        self._listen, self._frames, self._gate, self._down = listen, frames, gate, down
        self._frame_key, self._clock, self._realtime = frame_key, clock, realtime
        self._told_ns = 0
        self._ignored = Ignored()
        self._end = OuterEnd(key, times=times)
        self._connections = Connections()
        self._connections.watch(listen)
        self._connections.watch(frames)

    def round(self) -> None:
        """Wait for something to happen, and do what follows."""
        rooms = {stream: self._end.room_bytes(stream) for stream in self._end.streams}
        ready, happened = self._connections.wait(BUSY_WAIT_S if rooms else WAIT_MAX_S, rooms)
        now_ns = self._clock()
        for one in happened:
            self._tell(one)
        if self._frames in ready:
            for content in _datagrams(self._frames, FRAME_BYTES_MAX):
                self._take(content, now_ns)
        if self._listen in ready:
            self._accept(now_ns)
        self._carry_out(now_ns)

    def close(self) -> None:
        """Reset all connections and tell the inner end."""
        self._end.fail("the outer end stops")
        self._carry_out(self._clock())
        self._connections.close()

    def _tell(self, one: Happening) -> None:
        if isinstance(one, Said):
            self._end.say(one.stream, one.content)
        elif isinstance(one, Ended):
            self._end.end(one.stream)
        elif isinstance(one, Broke):
            say("broke", stream=one.stream, side="person")
            self._end.broken(one.stream)
        else:
            self._end.written(one.stream, one.count)

    def _take(self, content: bytes, now_ns: int) -> None:
        try:
            one = frame.decode(content, self._frame_key)
        except FormError as error:
            self._ignored.add(error)
            return
        self._end.frame(one.sequence, one.payload if one.kind is TrafficClass.TUNNEL else None, now_ns)

    def _accept(self, now_ns: int) -> None:
        try:
            connected, _ = self._listen.accept()
        except OSError:  # it went away again
            return
        try:
            if len(self._connections) >= CONNECTIONS_MAX:
                raise FullError("too many connections", remedy="close one")
            stream = self._end.open(now_ns, self._realtime())
        except FullError as error:
            say("turned away", reason=str(error))
            connected.close()
            return
        say("open", stream=stream)
        self._connections.add(stream, connected)

    def _carry_out(self, now_ns: int) -> None:
        for event in self._end.step(now_ns):
            try:
                if isinstance(event, Send):
                    self._frames.sendto(event.datagram, self._down)
                elif isinstance(event, Ask):
                    # The gate refuses a message that is not newer than the last.
                    self._told_ns = max(self._realtime(), self._told_ns + 1)
                    message = control.Message(Control.RESEND, self._told_ns, event.sequence)
                    self._frames.sendto(control.encode(message, self._frame_key), self._gate)
                else:
                    _do(self._connections, event)
            except OSError as error:
                # A datagram that was lost: it is said again.
                say("not sent", reason=str(error))


def _do(connections: Connections, event: Event) -> None:
    if isinstance(event, Send | Ask | Connect):
        raise TunnelError(f"{type(event).__name__} at the wrong end", remedy="report this as a defect")
    if isinstance(event, Close):
        say("closed", stream=event.stream, reason=event.reason)
    connections.do(event)


def _datagrams(source: socket.socket, size_max: int) -> list[bytes]:
    found = []
    for _ in range(DATAGRAMS_MAX):
        try:
            found.append(source.recv(size_max))
        except OSError:  # nothing more, or the echo of a datagram that nobody took
            break
    return found


def main(
    arguments: Sequence[str] | None = None, clock: Clock = time.monotonic_ns, realtime: Clock = time.time_ns
) -> None:
    """Run one end of an operator tunnel until SIGTERM (exit 0) or an error (1)."""
    words = _parsed(arguments)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    try:
        with ExitStack() as stack:
            end = stack.enter_context(closing(_made(words, stack, clock, realtime)))
            say("ready", end=words.end)
            while not stopped:
                end.round()
    except MeteringError as error:
        say("ended", reason=str(error), remedy=error.remedy)
        sys.exit(1)


def _made(words: argparse.Namespace, stack: ExitStack, clock: Clock, realtime: Clock) -> Inner | Outer:
    times = Times(pace_ns=words.pace_ms * _MS, check_ns=words.check_s * NS_PER_S, give_up_ns=words.give_up_s * NS_PER_S)
    key = load_shared(words.key)
    if words.end == "inner":
        down = _roomy(stack.enter_context(bound(socket.SOCK_DGRAM, words.listen)))
        return Inner(words.gate, down, words.to, key, times=times, clock=clock, realtime_ns=realtime())
    frames = _roomy(stack.enter_context(bound(socket.SOCK_DGRAM, words.frames)))
    people = stack.enter_context(bound(socket.SOCK_STREAM, words.listen, backlog=SLOTS))
    frame_key = load_shared(words.frame_key)
    return Outer(
        people,
        frames,
        words.gate,
        words.down,
        frame_key=frame_key,
        key=key,
        times=times,
        clock=clock,
        realtime=realtime,
    )


def _roomy(found: socket.socket) -> socket.socket:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**6:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no whole number from 1 to 999999")
    return int(text)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.tunnel_ends", description=main.__doc__)
    ends = parser.add_subparsers(dest="end", required=True)
    inner = ends.add_parser("inner", help="beside the service")
    inner.add_argument("--gate", type=Path, required=True, metavar="SOCKET", help="the gate's local socket")
    inner.add_argument("--listen", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="UDP, from outer")
    inner.add_argument("--to", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="TCP, the service")
    outer = ends.add_parser("outer", help="beside the people")
    outer.add_argument("--listen", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="TCP, for people")
    outer.add_argument("--frames", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="UDP, frames")
    outer.add_argument("--gate", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="UDP, its control")
    outer.add_argument("--down", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="UDP, the inner end")
    outer.add_argument("--frame-key", type=Path, required=True, metavar="FILE", help="the gate's outer.key")
    for end in (inner, outer):
        end.add_argument("--key", type=Path, required=True, metavar="FILE", help="bitweir keys shared makes one")
        end.add_argument("--pace-ms", type=_positive, default=20, metavar="N", help="slot_ms of the policy (20)")
        end.add_argument("--check-s", type=_positive, default=60, metavar="N", help="silence before a check (60)")
        end.add_argument("--give-up-s", type=_positive, default=30, metavar="N", help="wait for an answer (30)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
