"""The gate: the only door out, a process of its own. gateway.py decides; here are its clock, ledger and sockets.

    python -m bitweir_metering.gate POLICY.toml --state DIR --inner SOCKET --listen ADDRESS:PORT --outer ADDRESS:PORT
        --witness SOCKET [--witness SOCKET ...] [--inner-user UID]

    DIR/link.ledger      made by `bitweir ledger create`
    DIR/outer.key        shared with outer: tags frames, grants, requests to send again
    DIR/reconcile.key    shared with reconcile: permits and trips

Rules:
1. One thread. Frames leave when the clock wakes it at an edge, and at no other time: inner is not read for a moment
   before an edge, and what has to be written to disk is written after the frame is out.
2. A lease, and numbers for frames, count once they are durable and cosigned (cosigned.py).
3. A trip is written to the ledger and ends the process with exit code 3; a gate whose ledger is tripped does not start.
4. An error of the ledger ends the process with exit code 1; so does a clock that was set back. Nothing is tried again.
5. stderr is for the gate's own people: one line of JSON an event, with nothing in it that inner wrote.
6. It loads this package, the standard library and cryptography, and nothing else.
"""

import argparse
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Protocol

from bitweir_metering import addresses
from bitweir_metering import policy as policies
from bitweir_metering.breaker import Verdict
from bitweir_metering.control import MESSAGE_BYTES, Control, ControlReader, Keys, TripReason
from bitweir_metering.cosigned import Book, Connection, CosignedLedger, Peer
from bitweir_metering.entries import Reservation, Trip
from bitweir_metering.errors import (
    ClockError,
    ControlError,
    CosignError,
    FormError,
    FullError,
    MeteringError,
    RefusedError,
    SocketError,
    TrippedError,
    WitnessError,
)
from bitweir_metering.gate_client import ANSWER, REQUEST_BYTES_MAX, VERSION, Status, parse_request
from bitweir_metering.gateway import Gateway, Need, Release
from bitweir_metering.keys import load_shared
from bitweir_metering.ledger import Ledger
from bitweir_metering.local_socket import LocalServer
from bitweir_metering.slots import SlotClock
from bitweir_metering.units import NS_PER_S

LEDGER_NAME: Final = "link.ledger"
OUTER_KEY_NAME: Final = "outer.key"
RECONCILE_KEY_NAME: Final = "reconcile.key"
CLIENTS_MAX: Final = 16
# A start gives up what is left of the last ones: 2**32 numbers are a million starts.
NUMBERS_AT_ONCE: Final = 4096
# The gate stands still while it waits for a witness, so it does not wait long, and not often.
WITNESS_TIMEOUT_S: Final = 0.5
WITNESS_RETRY_NS: Final = NS_PER_S
# Who holds permits back and hands them over one by one holds the link up no longer than this.
PERMIT_AGE_NS_MAX: Final = 3 * NS_PER_S
# Before an edge nothing is read for so long, or for this share of a slot, so that inner cannot time a release.
QUIET_NS_MAX: Final = 2_000_000
QUIET_SHARE: Final = 8
# Frames leave so long after their edge, or this share of a slot, whenever the gate was woken before that.
SETTLE_NS_MAX: Final = 500_000
SETTLE_SHARE: Final = 32
TRIPPED_EXIT: Final = 3
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3  # of linux/in.h; socket names them from Python 3.13 on
Say = Callable[..., None]


class Records(Book, Protocol):
    """What the gate asks of a ledger; `ledger.Ledger` is one."""

    @property
    def tripped(self) -> Trip | None:
        """The trip that nobody has reset."""

    def trip(self, reason: str) -> int:
        """Take the link down for good."""

    def event(self, note: bytes) -> int:
        """Write what is worth keeping."""

    def give_numbers(self, count: int) -> range:
        """Return the next numbers for frames."""

    def record_loss(self, loss: Reservation, note: bytes = b"") -> int:
        """Write what of the reserved bits was never sent."""


class Gate:
    """Everything of the gate but its sockets and clocks. See the rules of this file.

    Args:
        ledger: open, nobody else's, its policy the one to keep to.
        witnesses: those the policy names, or enough of them.
        keys: outer's and reconcile's.
        realtime_ns: CLOCK_REALTIME now; older messages are refused.
        send: hands a frame to the link; an OSError is a frame that was lost.
        say: called with the name of an event and its fields.

    Raises:
        TrippedError: the ledger is tripped.
        LedgerError: it is closed, or there are no numbers left.
    """

    def __init__(
        self,
        ledger: Records,
        witnesses: Sequence[Peer],
        keys: Keys,
        *,
        realtime_ns: int,
        send: Callable[[bytes], object],
        say: Say,
    ) -> None:
        if ledger.tripped:
            raise TrippedError(
                f"the link is tripped: {ledger.tripped.reason}", remedy="bitweir gate propose, sign, reset"
            )
        self._ledger = ledger
        self._cosigned = CosignedLedger(ledger, witnesses)
        self._control = ControlReader(keys, realtime_ns)
        self._send = send
        self._say = say
        # With the time, so that no start can be made again to look like another.
        ledger.event(b"gate started %d" % realtime_ns)
        numbers = ledger.give_numbers(NUMBERS_AT_ONCE)
        self._numbers_end, self._usable_end = numbers.stop, numbers.start
        policy = ledger.policy
        self._gateway = Gateway(policy, keys.outer, SlotClock(0, policy.slot_ns), sequence=numbers.start)
        self._granted: int | None = None
        self._now_ns = 0
        self._is_under_way = False
        self._ask_witness_ns = 0
        self._lapse_count = 0
        self._damaged_count = 0
        self._unsent_count = 0
        self._is_stopped = False
        self._asked: list[Need | Release] = []
        say("started", policy=policy.digest().hex(), serial=policy.serial, numbers_from=numbers.start)

    def submit(self, content: bytes) -> Status:
        """Take a request of the inner side; return what it is told."""
        try:
            self._gateway.submit(*parse_request(content))
        except FormError:
            return Status.DAMAGED
        except FullError:
            return Status.FULL
        except RefusedError:
            return Status.REFUSED
        return Status.TAKEN

    def control(self, content: bytes, now_ns: int, realtime_ns: int) -> None:
        """Do what a message of the receiving side says; one that is none is counted.

        Args:
            content: a datagram.
            now_ns: CLOCK_MONOTONIC, as for `step`.
            realtime_ns: CLOCK_REALTIME, which tells how old a permit is.

        Raises:
            TrippedError: it says trip, and the ledger has it.
        """
        try:
            message = self._control.read(content)
            age_ns = realtime_ns - message.time_ns
            if message.kind is Control.PERMIT and abs(age_ns) > PERMIT_AGE_NS_MAX:
                raise ControlError(f"a permit {age_ns} ns old", remedy="the clocks of both sides must agree")
        except ControlError as error:
            self._damaged_count += 1
            if not self._damaged_count & (self._damaged_count - 1):
                self._say("control ignored", reason=str(error), count=self._damaged_count)
            return
        if message.kind is Control.PERMIT:
            self._gateway.breaker.permit(now_ns + self._ledger.policy.permit_ns - max(0, age_ns))
        elif message.kind is Control.TRIP:
            self.trip(f"reconcile: {TripReason(message.first).name.lower()}")
        elif message.kind is Control.RESEND:
            self._gateway.resend(message.first)
        else:
            # The first sum heard after a start counts for what is still outstanding of it.
            before = message.first - message.second if self._granted is None else self._granted
            self._gateway.grant(max(0, message.first - before))
            self._granted = max(before, message.first)

    def prepare(self, now_ns: int) -> None:
        """Build the next frame; call it just before an edge. The lease it may need is asked for after that edge."""
        if not self._is_stopped and self._gateway.next_sequence < self._usable_end:
            self._asked += self._gateway.prepare(now_ns)

    def step(self, now_ns: int) -> None:
        """Do what is due at this time; call it at every edge, and at no other time.

        Raises:
            TrippedError: a witness refuses; the ledger has the trip.
            LedgerError: the ledger is closed for good.
            ClockError: the clock was set back.
        """
        if now_ns < self._now_ns:
            raise ClockError(f"the clock was set back by {self._now_ns - now_ns} ns", remedy="restart the gate")
        self._now_ns = now_ns
        # Once witnesses have been waited for, `now_ns` is over: a frame that is ready then leaves in a later step.
        is_timely = self._gateway.next_sequence < self._usable_end or not self._is_under_way
        is_changed = not self._is_stopped
        while is_changed:
            if is_timely and self._gateway.next_sequence < self._usable_end:
                self._is_under_way = True
                self._carry_out(self._gateway.tick(now_ns))
            if self._gateway.next_sequence > self._numbers_end - NUMBERS_AT_ONCE // 2:
                self._numbers_end = self._ledger.give_numbers(NUMBERS_AT_ONCE).stop
            is_changed = self._cosign(now_ns)
        lapse_count = self._gateway.breaker.lapse_count
        if lapse_count > self._lapse_count:
            self._lapse_count = lapse_count
            self._say("lapsed", count=lapse_count)

    def verdict(self, now_ns: int) -> Verdict:
        """Return whether a frame may leave now."""
        return self._gateway.breaker.verdict(now_ns)

    def trip(self, reason: str) -> None:
        """Take the link down for good.

        Raises:
            TrippedError: always, when the ledger has it; witnesses are told if they answer.
            LedgerError: the ledger is closed; nothing leaves either.
        """
        self._gateway.breaker.trip(reason)
        self._ledger.trip(reason)
        try:
            self._cosigned.cosign()
        except WitnessError as error:
            self._say("trip not cosigned", reason=str(error))
        raise TrippedError(f"the link is tripped: {reason}", remedy="bitweir gate propose, sign, reset")

    def stop(self) -> None:
        """Write down what will never be sent. Nothing leaves after this.

        Raises:
            LedgerError: the ledger is closed.
        """
        self._is_stopped = True
        lost_bits = 0
        unspent = [(kind, *bits) for kind, bits in self._gateway.unspent.items()]
        unspent += [(one.kind, one.wire_bits, one.information_bits) for one in self._cosigned.waiting]
        for kind, wire_bits, information_bits in unspent:
            if wire_bits:
                # Where frames said less than they weigh, more information than wire bits is left.
                self._ledger.record_loss(Reservation(kind, wire_bits, min(wire_bits, information_bits)), b"stopped")
                lost_bits += wire_bits
        self._ledger.event(b"gate stopped")
        self._say("stopped", waiting=self._gateway.waiting_count, lost_bits=lost_bits)

    def _carry_out(self, asked: Iterable[Need | Release]) -> None:
        needs: list[Need] = []
        before, self._asked = self._asked, []
        for one in (*before, *asked):
            if isinstance(one, Need):
                needs.append(one)
                continue
            try:
                self._send(one.content)
            except OSError as error:
                self._unsent_count += 1
                self._say("not sent", sequence=one.sequence, reason=str(error), count=self._unsent_count)
        if not needs:
            return
        refusals = self._cosigned.reserve(
            [Reservation(need.kind, need.wire_bits, need.information_bits) for need in needs]
        )
        for need, refusal in zip(needs, refusals, strict=True):
            if refusal:
                self._say("refused", reason=str(refusal))
                self._gateway.refuse(need)

    def _cosign(self, now_ns: int) -> bool:
        """Have the newest entries signed, if there are any; return whether more may leave than before."""
        if not self._cosigned.is_behind or now_ns < self._ask_witness_ns:
            return False
        try:
            leases = self._cosigned.cosign()
        except CosignError as error:
            self.trip(f"witness: {error}")
        except WitnessError as error:
            self._ask_witness_ns = now_ns + WITNESS_RETRY_NS
            self._say("not cosigned", reason=str(error))
            return False
        self._usable_end = self._numbers_end
        for lease in leases:
            granted = lease.reservation
            self._gateway.lease(Need(granted.kind, granted.wire_bits, granted.information_bits))
        return True


def serve(
    gate: Gate,
    server: LocalServer,
    control: socket.socket,
    slot_ns: int,
    *,
    is_over: Callable[[], bool],
    clock: Callable[[], int] = time.monotonic_ns,
    realtime: Callable[[], int] = time.time_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run the gate until it is over.

    Raises:
        MeteringError: what ended it before; see `Gate.step`.
    """
    server.watch(control)
    edge_ns = _next_edge_ns(clock(), slot_ns)
    while not is_over():
        quiet_ns = edge_ns - min(QUIET_NS_MAX, slot_ns // QUIET_SHARE)
        now_ns = clock()
        if now_ns < quiet_ns:
            for ready in server.ready((quiet_ns - now_ns) / NS_PER_S):
                if ready is not control:
                    _serve_one(gate, server, ready)
                elif (content := _received(ready)) is not None:
                    gate.control(content, clock(), realtime())
            continue
        gate.prepare(now_ns)
        sleep(max(0, edge_ns - clock()) / NS_PER_S)
        # How long waking takes depends on who else is on this machine; a moment later all wakes look alike.
        while (now_ns := clock()) < edge_ns + min(SETTLE_NS_MAX, slot_ns // SETTLE_SHARE):
            pass
        gate.step(now_ns)
        edge_ns = _next_edge_ns(clock(), slot_ns)


def _next_edge_ns(now_ns: int, slot_ns: int) -> int:
    return (now_ns // slot_ns + 1) * slot_ns


def _received(ready: socket.socket) -> bytes | None:
    """Return a message; None where there is none after all."""
    try:
        return ready.recv(max(MESSAGE_BYTES, REQUEST_BYTES_MAX) + 1)
    except OSError:
        return None


def _serve_one(gate: Gate, server: LocalServer, ready: socket.socket) -> None:
    content = _received(ready)
    if not content:
        server.drop(ready)
        return
    status = gate.submit(content)
    server.send(ready, ANSWER.pack(VERSION, status))
    if status is Status.DAMAGED:
        server.drop(ready)


def say(event: str, *, clock: Callable[[], int] = time.monotonic_ns, **fields: object) -> None:
    """Write a line for the gate's own people."""
    sys.stderr.write(json.dumps({"event": event, "monotonic_ns": clock(), **fields}) + "\n")


def main(arguments: Sequence[str] | None = None, realtime: Callable[[], int] = time.time_ns) -> None:
    """Let through the link what POLICY.toml allows, until SIGTERM (exit 0), an error (1) or a trip (3)."""
    words = _parsed(arguments)
    os.umask(0o077)
    # A core would hold the keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    try:
        with ExitStack() as stack:
            keys = Keys(load_shared(words.state / OUTER_KEY_NAME), load_shared(words.state / RECONCILE_KEY_NAME))
            ledger = stack.enter_context(_opened(words))
            witnesses = [Connection(path, ledger.policy, timeout_s=WITNESS_TIMEOUT_S) for path in words.witness]
            control = stack.enter_context(_bound(words.listen))
            server = LocalServer(words.inner, CLIENTS_MAX, user=words.inner_user)
            stack.enter_context(closing(server))
            gate = Gate(
                ledger,
                witnesses,
                keys,
                realtime_ns=realtime(),
                send=lambda content: control.sendto(content, words.outer),
                say=say,
            )
            if words.allow_filesystem:
                say("not durable", reason=f"a ledger on {words.allow_filesystem} may lose what was reserved")
            if words.inner_user in (None, os.getuid()):
                say("not isolated", reason="inner runs as the gate's own user: it could read the keys")
            serve(gate, server, control, ledger.policy.slot_ns, is_over=lambda: bool(stopped))
            gate.stop()
    except MeteringError as error:
        say("ended", reason=str(error), remedy=error.remedy)
        sys.exit(TRIPPED_EXIT if isinstance(error, TrippedError) else 1)


def _opened(words: argparse.Namespace) -> Ledger:
    """Open the ledger, and let the policy of the file hold if it is the next one."""
    policy, signatures = policies.read(words.policy)
    ledger = Ledger.open(words.state / LEDGER_NAME, allow_filesystem=words.allow_filesystem)
    try:
        if policy.digest() != ledger.policy.digest():
            ledger.replace_policy(policy, signatures)
    except MeteringError:
        ledger.close()
        raise
    return ledger


def _bound(address: tuple[str, int]) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # Otherwise the kernel numbers the packets: 16 bits in each that nothing counts, and that no cable passes.
        found.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        found.bind(address)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise SocketError(f"cannot listen at {address[0]}:{address[1]}: {error}", remedy="name another") from error
    return found


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.gate", description=main.__doc__)
    parser.add_argument("policy", type=Path, metavar="POLICY.toml")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="ledger and keys")
    parser.add_argument("--inner", type=Path, required=True, metavar="SOCKET", help="where inner hands payloads over")
    parser.add_argument(
        "--listen", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="control messages"
    )
    parser.add_argument("--outer", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="where frames go")
    parser.add_argument("--witness", type=Path, action="append", required=True, metavar="SOCKET")
    parser.add_argument("--inner-user", type=int, metavar="UID", help="who may use --inner; default: the gate's user")
    parser.add_argument("--allow-filesystem", default="", metavar="TYPE", help="for tests: let the ledger lie on it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
