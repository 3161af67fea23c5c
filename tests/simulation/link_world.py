"""The whole link in virtual time: one seed, one world. A failure is a seed.

    python -m tests.simulation.link_world --seeds 10000 [--first N] [--processes P]

    inner --requests--> GATE --frames--> bad network --> outer, reconcile (counts bits)
                        |  ^                                  |
          ledger, witnesses \\-------- bad network <----------/   permits, trips, grants, requests to send again

Rules:
1. The gate is `gate.Gate`, the ledger `ledger.Ledger` over a disk in memory, witnesses are `witness.Witness`.
2. A gate that ended starts again on what its disk holds, or, where somebody puts one there, on an older copy or a fork.
3. link_oracle.py looks at every effect and every frame. After a while faults end: what inner then submits must arrive.
4. Nothing but the seed decides: two runs of a seed end in the same digest.
"""

import argparse
import copy
import dataclasses
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import gate as gate_module
from bitweir_metering import gateway as gateway_module
from bitweir_metering.control import Message
from bitweir_metering.entries import EntryKind, policy_note
from bitweir_metering.errors import LedgerError, PolicyError
from bitweir_metering.frame import Frame, TrafficClass
from bitweir_metering.gate import Gate
from bitweir_metering.gate_client import Status, request
from bitweir_metering.keys import public_key
from bitweir_metering.merkle import Tree, leaf_hash
from bitweir_metering.policy import FRAME_BITS_MAX, NS_PER_MS, Policy, Quorum
from bitweir_metering.units import NS_PER_S
from bitweir_metering.witness import Checkpoint, Witness
from tests.simulation.link_host import KEYS, REAL_NS, SLOT_NS, GateHost, Submission
from tests.simulation.link_oracle import law
from tests.simulation.link_parts import CrashError, Disk, Pipe, SimLedger, WitnessLine
from tests.simulation.link_people import Inner, Outer, Reconcile, tagged
from tests.unit.metering.example_ledger import signed_reset
from tests.unit.metering.example_policy import policy, signed

WITNESSES = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(101, 120)]
FAULTS_NS = 5 * NS_PER_S
SETTLE_NS = 3 * NS_PER_S
ARRIVE_NS = 40 * NS_PER_S


def first_policy(random: Random) -> Policy:
    """Small limits in some worlds, so that they are reached; a quorum of which two always share a witness."""
    witness_count, threshold = random.choice(((1, 1), (2, 2), (3, 2), (3, 2), (3, 3)))
    limit_bits = random.choice((100_000, 300_000, 10**8))
    class_limits = {kind: limit_bits // random.choice((1, 1, 4)) for kind in TrafficClass}
    class_limits[TrafficClass.TIMING] = random.choice((400, 5000, limit_bits))
    return policy(
        limit_bits=limit_bits, class_limits=class_limits, rate_bits_per_s=random.choice((50_000, 200_000, 10**6)),
        burst_bits=random.choice((FRAME_BITS_MAX, 30_000)), lease_bits=random.choice((FRAME_BITS_MAX, 40_000)),
        min_days=0, slot_ns=SLOT_NS, epoch_slots=random.choice((5, 50)), permit_ns=300 * NS_PER_MS, resends_max=2,
        witnesses=Quorum(threshold, tuple(map(public_key, WITNESSES[:witness_count]))),
    )  # fmt: skip


class World(GateHost):
    """See the rules of this file.

    Args:
        seed: decides everything.
        gate: the gate, or a broken one.
        ledger: its ledger, or one that lies.
        disk: what the ledger is on.
    """

    def __init__(
        self, seed: int, *, gate: type[Gate] = Gate, ledger: type[SimLedger] = SimLedger, disk: type[Disk] = Disk
    ) -> None:
        random = Random(seed)
        rules = first_policy(random)
        super().__init__(random, rules, disk(), gate)
        self._ledger_class = ledger
        self._time_ns = REAL_NS
        self._true_disk: Disk | None = None
        self._spare_keys = iter(WITNESSES[3:])
        self._permits_from_ns = 0
        chain = copy.copy(self.disk.chain)
        self.disk.commit([chain.extend(EntryKind.POLICY, policy_note(rules, signed(rules, 0, 1)))], chain)
        self.lines += [self._line(private) for private in WITNESSES if public_key(private) in rules.witnesses.keys]
        self.oracle.written(self.disk)
        self._down = Pipe(self.chance, "message", lambda after_ns, content: self._at(after_ns, self._hand_in, content))
        self.inner = Inner(random)
        self.outer = Outer(KEYS, self._tell, self._stamp, self.counts)
        self.reconcile = Reconcile(self._tell, self._stamp, self.counts)

    def run(self) -> Counter[str]:
        """Live through it; return how often what happened.

        Raises:
            BrokenLawError: something that must never be true was true.
        """
        sizes = {"STORED_MAX": 4096, "RESENDS_WAITING_MAX": 256, "WAITING_MAX": 1000}
        numbers = {"NUMBERS_AT_ONCE": 4096}
        if self.random.random() < 0.5:
            sizes = {"STORED_MAX": 8, "RESENDS_WAITING_MAX": 4, "WAITING_MAX": 30}
            numbers = {"NUMBERS_AT_ONCE": self.random.choice((8, 64))}
        with patch.multiple(gateway_module, **sizes), patch.multiple(gate_module, **numbers):
            for every_ms, do in (
                (97, self._poll),
                (211, self._outer_acts),
                (61, self._inner_acts),
                (130, self._change),
            ):
                self._every(every_ms * NS_PER_MS, do)
            self._at(0, self._people)
            self._until(FAULTS_NS)
            self._end_faults()
            self._until(self.now_ns + SETTLE_NS)
            self._probe()
        self.oracle.finish(self.disk)
        return self.counts

    # People.

    def _people(self) -> None:
        """Start the gate again; reset, raise, or put an older ledger in its place before."""
        if self._gate is not None:
            return
        self._local_ns = max(self._local_ns, self.now_ns)
        try:
            if self._true_disk:
                self._put_back(self._true_disk)
            elif (signed_rows := self._signed_reservations()) and self.chance.strikes("rolled back"):
                self._roll_back(signed_rows[-1])
            ledger = self._ledger_class(self.disk, self)
            if not self._true_disk:
                self._maintain(ledger)
        except LedgerError:
            self._at(50 * NS_PER_MS, self._people)
            return
        if self.chance.strikes("reboot"):
            self._is_clock_new = True
            self._offset_ns = self.random.randrange(NS_PER_S) - self._local_ns
        self.oracle.began(
            self.disk,
            REAL_NS + self._local_ns + self._skew_ns,
            is_rolled_back=self._true_disk is not None,
            is_rebooted=self._is_clock_new,
        )
        self._start += 1
        self._is_clock_new = self._is_refused = False
        self._work(lambda: self._launch(ledger))

    def _maintain(self, ledger: SimLedger) -> None:
        if ledger.tripped:
            self._unsigned(ledger, lambda: ledger.reset(*signed_reset(ledger, 0)))
            ledger.reset(*signed_reset(ledger))
            self.counts["reset"] += 1
            self.reconcile.reset(self.disk.chain.head.totals.wire_bits)
        rules = ledger.policy
        more = {kind: bits + 100_000 for kind, bits in rules.class_limits.items()}
        if self._is_calm:
            more = dict.fromkeys(TrafficClass, 10**8)
        higher = dataclasses.replace(
            rules, serial=rules.serial + 1, class_limits=more, limit_bits=max(rules.limit_bits, *more.values())
        )
        self._unsigned(ledger, lambda: ledger.replace_policy(higher, signed(higher, 1, 3, 4)))
        if self._is_calm or self.chance.strikes("raise"):
            self._replace(ledger, higher)

    def _unsigned(self, ledger: SimLedger, do: Callable[[], object]) -> None:
        if not self.chance.strikes("unsigned"):
            return
        head = ledger.head
        try:
            do()
        except PolicyError:
            law(ledger.head == head, "a refused policy or reset left something behind")
            return
        law(False, "too few signatures were enough")

    def _replace(self, ledger: SimLedger, following: Policy) -> None:
        self.oracle.allow(following)
        ledger.replace_policy(following, signed(following, 0, 1))

    def _signed_reservations(self) -> list[int]:
        """Return the entries with leases that a quorum has signed for."""
        sizes = sorted((line.witness.last.size for line in self.lines), reverse=True)
        rows = self.disk.rows[: sizes[self.disk.chain.policy.witnesses.threshold - 1]]
        return [number for number, row in enumerate(rows) if row[1] == EntryKind.RESERVE]

    def _roll_back(self, last_reservation: int) -> None:
        """Put an older copy, or a fork of one, in the ledger's place, for a while."""
        self._true_disk = self.disk
        self.disk = Disk(self.disk.rows[: self.random.randint(1, last_reservation)])
        if self.chance.strikes("fork"):
            for number in range(self.random.randrange(1, 20)):
                chain = copy.copy(self.disk.chain)
                self.disk.commit([chain.extend(EntryKind.EVENT, b"fork %d" % number)], chain)
        start = self._start + 1
        self._at(self.random.randrange(200, 1500) * NS_PER_MS, self._end_attack, start)

    def _end_attack(self, start: int) -> None:
        if self._start == start and self._gate is not None:
            self._work(self._killed)

    def _killed(self) -> None:
        raise CrashError("killed")

    def _put_back(self, true_disk: Disk) -> None:
        self.disk, self._true_disk = true_disk, None
        tree = Tree(leaf_hash(bytes(row[-1])) for row in self.disk.rows)
        self.reconcile.reset(self.disk.chain.head.totals.wire_bits)
        for place, line in enumerate(self.lines):
            last = line.witness.last
            if last.size > tree.size or (last.size and tree.root(last.size) != last.root):
                # It has signed the fork: it is retired with its key.
                self.counts["witness retired"] += 1
                self.lines[place] = self._line(next(self._spare_keys))
        keys = tuple(line.witness.key for line in self.lines)
        rules = self.disk.chain.policy
        if set(keys) != set(rules.witnesses.keys):
            quorum = Quorum(rules.witnesses.threshold, keys)
            ledger = SimLedger(self.disk, self)
            self._replace(ledger, dataclasses.replace(rules, serial=rules.serial + 1, witnesses=quorum))

    def _line(self, private: Ed25519PrivateKey) -> WitnessLine:
        return WitnessLine(Witness(private, Checkpoint.empty("example", "inner-outer")), self)

    # The others.

    def _tell(self, message: Message) -> None:
        content = tagged(message, KEYS)
        self.oracle.authentic[content] = message
        self.oracle.granted_tokens = self.outer.granted_tokens
        self._down.send(content)

    def _arrive(self, content: bytes) -> None:
        self.reconcile.arrive(content)
        self.outer.arrive(content)

    def _poll(self) -> None:
        if self.chance.strikes("late permit"):
            self._permits_from_ns = self.now_ns + self.random.randrange(NS_PER_S)
        if self.now_ns >= self._permits_from_ns and not self.chance.strikes("ledger not asked"):
            is_false_alarm = self.chance.strikes("false alarm")
            self.reconcile.poll(lambda: self.disk.chain.head.totals.wire_bits, is_false_alarm=is_false_alarm)

    def _outer_acts(self) -> None:
        self.outer.look()
        if not self._is_calm:
            self.outer.grant(self.random.randrange(40))
            self.outer.ask(self.random.randrange(100))

    def _inner_acts(self) -> None:
        if self._is_calm:
            return
        for _ in range(self.random.choice((0, 0, 1, 1, 1, 2, 12))):
            content, asks = self.inner.request()
            self._hand_in(Submission(content, asks))

    def _change(self) -> None:
        for line in self.lines:
            if line.is_up and self.chance.strikes("witness down"):
                line.is_up = False
                self._at(self.random.randrange(3 * NS_PER_S), setattr, line, "is_up", True)

    def _stamp(self) -> int:
        """CLOCK_REALTIME of the receiving side, no moment twice."""
        self._time_ns = max(self._time_ns + 1, REAL_NS + self.now_ns)
        return self._time_ns

    # When all is well again.

    def _end_faults(self) -> None:
        self.chance.end()
        self._is_calm = True
        for line in self.lines:
            line.is_up = True
        totals, rules = self.disk.chain.head.totals, self.disk.chain.policy
        room = [rules.class_limits[kind] - totals.wire[kind] for kind in TrafficClass]
        room.append(rules.limit_bits - totals.wire_bits)
        if self._gate is None:
            return
        if self._true_disk:
            self._work(self._killed)
        elif self._is_refused or min(room) < 10**6 or self.random.random() < 0.5:
            self._work(self._stop)
        else:
            self.counts["went on without a new start"] += 1

    def _probe(self) -> None:
        """Submit, and wait until it has arrived."""
        law(self._gate is not None, "the gate does not come back")
        self.outer.grant(1000)
        self._until(self.now_ns + 100 * NS_PER_MS)
        kinds = (TrafficClass.CONTROL, TrafficClass.MODEL, TrafficClass.CONTROL, TrafficClass.TUNNEL)
        due = [Frame(kind, number, 0, self.inner.payload(500)) for number, kind in enumerate(kinds)]
        before = set(self.outer.received)
        for one in due:
            self._insist(one)
            self._until(self.now_ns + 70 * NS_PER_MS)
        end_ns = self.now_ns + ARRIVE_NS
        while self.now_ns < end_ns and self._gate is not None:
            new = [self.outer.received[number] for number in sorted(set(self.outer.received) - before)]
            if [(one.kind, one.lane, one.payload) for one in new[-len(due) :]] == [
                (one.kind, one.lane, one.payload) for one in due
            ]:
                self.counts["all arrived"] += 1
                return
            self._until(self.now_ns + 100 * NS_PER_MS)
        law(False, "what was submitted after the last fault did not arrive, or not in order")

    def _insist(self, one: Frame) -> None:
        """Submit until it is taken."""

        def then(status: Status) -> None:
            law(status in (Status.TAKEN, Status.FULL), f"a sound payload is {status.name}")
            if status is Status.FULL:
                self._at(50 * NS_PER_MS, self._insist, one)

        self._hand_in(Submission(request(one.kind, one.lane, one.payload), one, then))


def live(seed: int, **parts: Any) -> Counter[str]:
    """Live through one world; see `World`. An error says how to see it again."""
    try:
        return World(seed, **parts).run()
    except Exception as error:
        error.add_note(f"seed {seed}; again: python -m tests.simulation.link_world --first {seed} --seeds 1")
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through many worlds; 1 where a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.link_world")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count(), help="how many at once")
    words = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    done = 0
    seeds = range(words.first, words.first + words.seeds)
    with multiprocessing.Pool(min(words.processes, len(seeds)), _ignore_interrupt) as pool:
        try:
            for lived in pool.imap_unordered(live, seeds, chunksize=4):
                counts += lived
                done += 1
                if done % 100 == 0:
                    sys.stderr.write(f"\r{done} of {len(seeds)} worlds, {counts['frame']} frames")
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.stderr.write("\ninterrupted")
        finally:
            sys.stderr.write(f"\n{done} of {len(seeds)} worlds from seed {words.first} on\n")
            sys.stdout.write("".join(f"{count:10d}  {name}\n" for name, count in sorted(counts.items())))
    return 0 if done == len(seeds) else 1


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
