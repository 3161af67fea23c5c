"""The process that reads all meters and holds the link up, or does not. reconcile.py judges; here are the sockets.

    python -m bitweir_metering.reconciler POLICY.toml --key FILE --gate ADDRESS:PORT --meter NAME=SOCKET ...
        --witness SOCKET [--witness SOCKET ...] --status FILE --state FILE [--carried FRAMES BYTES]

Rules:
1. The meters are read first and the witnesses after them. What a quorum of witnesses has signed is what is reserved;
   a witness that does not answer is no permit.
2. A permit is sent several times in `permit_ns`, each after a judgement of its own. A trip is sent as often, for good:
   the gate may have missed it.
3. Readings that differ are read again at once, a few times: packets may have been under way.
4. What was counted is carried over a restart (carried.py). Whoever starts it for a new link says so: --carried 0 0.
5. It runs on the receiving side. Nothing of it, and nothing it says, is on the gate's side but the datagrams.
6. An error of its own ends it: then there are no permits.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitweir_metering import addresses, carried, control, status
from bitweir_metering import policy as policies
from bitweir_metering.budget import Totals
from bitweir_metering.carried import Carried
from bitweir_metering.control import Control, Message, TripReason
from bitweir_metering.cosigned import Connection
from bitweir_metering.errors import MeterError, MeteringError, WitnessError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.keys import load_shared
from bitweir_metering.meters.reading import Meter, MeterClient, Reading
from bitweir_metering.policy import Policy
from bitweir_metering.reconcile import Judgement, Reconciler, Verdict
from bitweir_metering.status import MeterStatus, PolicyFacts, Status
from bitweir_metering.units import NS_PER_S
from bitweir_metering.wire import PACKET_BYTES_MAX

ROUNDS_A_PERMIT: Final = 6
TRIES_A_ROUND: Final = 8
"""Of reading meters that differ."""
TRY_AGAIN_S: Final = 0.002


def reserved_bits(totals: Totals | None) -> int | None:
    """Return what the wire may be at most: all classes but timing, which is no packets."""
    return None if totals is None else sum(totals.wire) - totals.wire[TrafficClass.TIMING]


def signed_totals(witnesses: Sequence[Connection], threshold: int) -> Totals | None:
    """Return the largest totals that a quorum has signed; None if one of the witnesses does not answer."""
    found = []
    for witness in witnesses:
        try:
            found.append(witness.latest())
        except WitnessError:
            return None
        finally:
            # It keeps its last answer as long as it is connected; this one has to be of now.
            witness.close()
    if len(found) < threshold:
        return None
    return sorted(found, key=lambda one: one.size, reverse=True)[threshold - 1].totals


class Reconciliation:
    """Judges readings over restarts. Pure.

    Args:
        names: of the meters.
        policy: in force.
        before: what was carried over.
    """

    def __init__(self, names: frozenset[str], policy: Policy, before: Carried) -> None:
        self._names, self._permit_ns, self._before = names, policy.permit_ns, before
        self._reconciler: Reconciler | None = None
        self._differ_since_ns: int | None = None
        self._offsets: dict[str, tuple[int, int]] = {}
        self.carried = before
        """What to keep, after each judgement."""

    def judge(self, readings: Mapping[str, Reading], reserved: int | None, now_ns: int) -> Judgement:
        """Judge one set of readings; see `reconcile.Reconciler.judge`.

        Raises:
            MeterError: after a restart, no meter counts on.
        """
        if self._before.trip:
            return self._unjudged(Verdict.TRIP, self._before.trip, TripReason.MISMATCH, reserved)
        if self._reconciler is None:
            missing = sorted(self._names - set(readings))
            if missing:
                return self._unjudged(Verdict.WAIT, f"no reading of {', '.join(missing)}", None, reserved)
            resumed = self._before.resumed(readings)
            if resumed is None:
                return self._differing(readings, reserved, now_ns)
            self._start(resumed, readings)
        judgement = self._judged(readings, reserved, now_ns)
        if judgement.verdict is Verdict.PERMIT:
            said = {name: (one.frames, one.l2_bytes) for name, one in readings.items()}
            self.carried = Carried(judgement.frames, judgement.l2_bytes, said)
        elif judgement.verdict is Verdict.TRIP:
            self.carried = Carried(
                self.carried.frames, self.carried.l2_bytes, self.carried.meters, status.printable(judgement.reason)
            )
        return judgement

    def life(self, name: str, reading: Reading) -> tuple[int, int]:
        """Return a meter's frames and bytes of the link's whole life."""
        frames, l2_bytes = self._offsets.get(name, (0, 0))
        return max(0, reading.frames + frames), max(0, reading.l2_bytes + l2_bytes)

    def _start(self, sent: tuple[int, int], readings: Mapping[str, Reading]) -> None:
        self._offsets = {
            name: (sent[0] - reading.frames, sent[1] - reading.l2_bytes) for name, reading in readings.items()
        }
        self._reconciler = Reconciler(
            self._names,
            longest=PACKET_BYTES_MAX,
            stale_ns=self._permit_ns // 2,
            trip_ns=self._permit_ns,
            carried_frames=sent[0],
            carried_bytes=sent[1],
        )

    def _judged(self, readings: Mapping[str, Reading], reserved: int | None, now_ns: int) -> Judgement:
        if self._reconciler is None:
            raise MeterError("no readings yet", remedy="report this as a defect")
        return self._reconciler.judge(readings, reserved, now_ns)

    def _differing(self, readings: Mapping[str, Reading], reserved: int | None, now_ns: int) -> Judgement:
        if self._differ_since_ns is None:
            self._differ_since_ns = now_ns
        text = ", ".join(f"{name} {one.frames} packets {one.l2_bytes} bytes" for name, one in sorted(readings.items()))
        text = f"since the last judgement meters disagree: {text}"
        if now_ns - self._differ_since_ns < self._permit_ns:
            return self._unjudged(Verdict.WAIT, text, None, reserved)
        old = self._before
        self._before = self.carried = Carried(old.frames, old.l2_bytes, old.meters, status.printable(text))
        return self._unjudged(Verdict.TRIP, text, TripReason.MISMATCH, reserved)

    def _unjudged(self, verdict: Verdict, reason: str, trip: TripReason | None, reserved: int | None) -> Judgement:
        before = self._before
        return Judgement(verdict, reason, trip, before.frames, before.l2_bytes, 0, reserved)


@dataclass
class Clocks:
    """Where time comes from, in nanoseconds; and how so many seconds go by."""

    monotonic: Callable[[], int] = time.monotonic_ns
    realtime: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep


class Rounds:
    """One round after the other: read, judge, tell the gate, write down.

    Args:
        reconciliation: judges.
        policy: in force.
        meters: by name.
        totals: asks the witnesses.
        tell: sends a message to the gate; an OSError is a message that was lost.
        status_path: for displays.
        state_path: see carried.py.
        clocks: the process's.
    """

    def __init__(
        self,
        reconciliation: Reconciliation,
        policy: Policy,
        *,
        meters: Mapping[str, Meter],
        totals: Callable[[], Totals | None],
        tell: Callable[[Message], object],
        status_path: Path,
        state_path: Path,
        clocks: Clocks,
    ) -> None:
        self._reconciliation, self._policy, self._meters, self._totals = reconciliation, policy, meters, totals
        self._tell, self._status_path, self._state_path, self._clocks = tell, status_path, state_path, clocks
        self._facts = PolicyFacts.of(policy)
        self._told_ns = 0
        self._permit_count = self._trip_count = self._lapse_count = 0
        self._permitted_ns: int | None = None
        self._last_success_ns: int | None = None
        self._latest: dict[str, Reading] = {}

    def once(self) -> Judgement:
        """Do one round.

        Raises:
            MeteringError: what ends the process; the gate hears nothing more.
        """
        judgement, totals = self._judged()
        for _ in range(TRIES_A_ROUND):
            if judgement.verdict is not Verdict.WAIT or not judgement.mismatch_bytes:
                break
            self._clocks.sleep(TRY_AGAIN_S)
            judgement, totals = self._judged()
        # What is kept is never behind what the gate was told.
        carried.keep(self._state_path, self._reconciliation.carried)
        if judgement.verdict is Verdict.PERMIT:
            self._say(Control.PERMIT)
            self._permitted()
        elif judgement.verdict is Verdict.TRIP:
            self._trip_count = 1
            self._say(Control.TRIP, int(judgement.trip or TripReason.MISMATCH))
        status.write(self._status_path, self._status(judgement, totals))
        return judgement

    def _judged(self) -> tuple[Judgement, Totals | None]:
        readings: dict[str, Reading] = {}
        for name, meter in self._meters.items():
            try:
                readings[name] = meter.read()
            except MeterError:
                continue
        totals = self._totals()
        self._latest.update(readings)
        return self._reconciliation.judge(readings, reserved_bits(totals), self._clocks.monotonic()), totals

    def _say(self, kind: Control, first: int = 0) -> None:
        # The gate takes only what is newer than the last.
        self._told_ns = max(self._told_ns + 1, self._clocks.realtime())
        try:
            self._tell(Message(kind, self._told_ns, first))
        except OSError:
            return  # Said again in the next round.

    def _permitted(self) -> None:
        now_ns = self._clocks.monotonic()
        if self._permitted_ns is not None and now_ns - self._permitted_ns > self._policy.permit_ns:
            self._lapse_count += 1
        self._permitted_ns, self._last_success_ns = now_ns, self._clocks.realtime()
        self._permit_count += 1

    def _status(self, judgement: Judgement, totals: Totals | None) -> Status:
        now_ns = self._clocks.monotonic()
        meters: dict[str, MeterStatus | None] = dict.fromkeys(self._meters)
        for name, one in self._latest.items():
            age_ns = max(0, now_ns - one.time_ns)
            meters[name] = MeterStatus(*self._reconciliation.life(name, one), one.drops, one.longest, age_ns)
        return Status(
            lineage=self._policy.lineage,
            link=self._policy.link,
            written_ns=self._clocks.realtime(),
            policy=self._facts,
            meters=meters,
            reserved=totals,
            verdict=judgement.verdict,
            reason=status.printable(judgement.reason),
            mismatch_bytes=judgement.mismatch_bytes,
            last_success_ns=self._last_success_ns,
            permit_count=self._permit_count,
            trip_count=self._trip_count,
            lapse_count=self._lapse_count,
        )


def _started(words: argparse.Namespace, control_socket: socket.socket, clocks: Clocks) -> tuple[Rounds, float]:
    policy, _ = policies.read(words.policy)
    key = load_shared(words.key)
    period_s = policy.permit_ns / NS_PER_S / ROUNDS_A_PERMIT
    witnesses = [Connection(path, policy, timeout_s=period_s) for path in words.witness]
    if len(witnesses) < policy.witnesses.threshold:
        raise WitnessError(f"{len(witnesses)} witnesses named", remedy=f"name {policy.witnesses.threshold} or more")
    before = Carried(*words.carried) if words.carried else carried.load(words.state)
    meters = {name: MeterClient(path, timeout_s=period_s) for name, path in words.meter}
    rounds = Rounds(
        Reconciliation(frozenset(meters), policy, before),
        policy,
        meters=meters,
        totals=lambda: signed_totals(witnesses, policy.witnesses.threshold),
        tell=lambda message: control_socket.sendto(control.encode(message, key), words.gate),
        status_path=words.status,
        state_path=words.state,
        clocks=clocks,
    )
    return rounds, period_s


def main(arguments: Sequence[str] | None = None, clocks: Clocks | None = None) -> None:
    """Hold the link up while its meters agree and are paid for, until SIGTERM (exit 0) or an error (1)."""
    words = _parsed(arguments)
    clocks = clocks or Clocks()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as control_socket:
            control_socket.setblocking(False)
            rounds, period_s = _started(words, control_socket, clocks)
            verdict = None
            while True:
                judgement = rounds.once()
                if judgement.verdict is not verdict:
                    verdict = judgement.verdict
                    sys.stderr.write(f"{verdict}: {judgement.reason}\n")
                clocks.sleep(period_s)
    except MeteringError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")


def _meter(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not NAME=SOCKET")
    return name, Path(path)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.reconciler", description=main.__doc__)
    parser.add_argument("policy", type=Path, metavar="POLICY.toml")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="reconcile.key, shared with the gate")
    parser.add_argument("--gate", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help="its control port")
    parser.add_argument("--meter", type=_meter, action="append", required=True, metavar="NAME=SOCKET")
    parser.add_argument("--witness", type=Path, action="append", required=True, metavar="SOCKET")
    parser.add_argument("--status", type=Path, required=True, metavar="FILE", help="written after every judgement")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE", help="carried over a restart")
    parser.add_argument(
        "--carried", type=int, nargs=2, metavar=("FRAMES", "BYTES"), help="what the link had sent, if people say so"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
