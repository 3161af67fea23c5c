"""The gate's process in virtual time: turns, clocks, faults and ends. The world around it is link_world.py.

Rules:
1. The gate's own time runs ahead while it waits for disk and witnesses; others do not wait for it.
2. It may crash at every effect: before and after a commit, a question, an answer, a frame.
3. What ends a process of gate.py ends it here too; people, who are not of this file, start it again.
"""

import hashlib
import heapq
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from bitweir_metering.control import Keys
from bitweir_metering.errors import ClockError, LedgerError, TrippedError
from bitweir_metering.frame import Frame
from bitweir_metering.gate import Gate
from bitweir_metering.gate_client import Status
from bitweir_metering.policy import NS_PER_MS, Policy
from bitweir_metering.units import NS_PER_S
from tests.simulation.link_oracle import Oracle, law
from tests.simulation.link_parts import Chance, CrashError, Disk, Pipe, SimLedger, WitnessLine

KEYS = Keys(bytes(range(32)), bytes(range(32, 64)))
SLOT_NS = 20 * NS_PER_MS
REAL_NS = 10**18


@dataclass(frozen=True)
class Submission:
    """What inner says to the gate: bytes, what they ask for if anything, and who waits for the answer."""

    content: bytes
    asks: Frame | None
    then: Callable[[Status], None] = lambda _: None


class GateHost(ABC):
    """One process of the gate after another.

    Args:
        random: decides everything.
        rules: the first policy.
        disk: what the ledger is on.
        gate: the gate, or a broken one.
    """

    def __init__(self, random: Random, rules: Policy, disk: Disk, gate: type[Gate]) -> None:
        self.random = random
        self.counts: Counter[str] = Counter()
        self.chance = Chance(random, self.counts)
        self.digest = hashlib.sha256()
        self.oracle = Oracle(rules, KEYS.outer)
        self.disk = disk
        self.lines: list[WitnessLine] = []
        self.now_ns = 0
        self._gate_class = gate
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._local_ns = 0
        self._offset_ns = random.randrange(10 * NS_PER_S)
        self._skew_ns = random.randrange(-20, 20) * NS_PER_MS
        self._start = 0
        self._gate: Gate | None = None
        self._inbox: list[Submission | bytes] = []
        self._is_gate_running = False
        self._is_clock_new = False
        self._is_refused = False
        self._is_calm = False
        self._up = Pipe(self.chance, "frame", lambda after_ns, content: self._at_local(after_ns, self._arrive, content))

    @abstractmethod
    def _people(self) -> None:
        """Start the gate again."""

    @abstractmethod
    def _arrive(self, content: bytes) -> None:
        """A frame, or something else, comes out of the network."""

    def _hand_in(self, one: Submission | bytes) -> None:
        if self._gate is not None:
            self._inbox.append(one)
            self._at(0, self._turn, self._start, False)

    # What the parts ask of their world.

    def effect(self, place: str, took_ns: int) -> None:
        self._local_ns += took_ns
        if self._is_gate_running and self.chance.strikes("crash"):
            self.counts[f"crash: {place}"] += 1
            raise CrashError(place)

    def written(self) -> None:
        self.digest.update(self.disk.chain.head.entry_hash)
        self.oracle.written(self.disk)

    def _send(self, content: bytes) -> None:
        self.effect("before a frame", 0)
        is_again = self.oracle.sent(content, self._clock(), self.disk, self.lines)
        self.counts["frame"] += 1
        self.counts["frame again"] += is_again
        self.digest.update(content + self._local_ns.to_bytes(8, "big"))
        if self.chance.strikes("frame not sent"):
            raise OSError(105, "simulated")
        self._up.send(content)
        self.effect("after a frame", 0)

    def _say(self, event: str, **fields: object) -> None:
        self.counts[f"said: {event}"] += 1
        self._is_refused |= event == "refused"
        self.oracle.said(event, fields)

    # Time.

    def _clock(self) -> int:
        """The gate's CLOCK_MONOTONIC."""
        return self._local_ns + self._offset_ns

    def _stamp(self) -> int:
        """CLOCK_REALTIME of the receiving side, no moment twice."""
        self._time_ns = max(self._time_ns + 1, REAL_NS + self.now_ns)
        return self._time_ns

    def _at(self, after_ns: int, do: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._queue, (self.now_ns + after_ns, next(self._order), do, arguments))

    def _at_local(self, after_ns: int, do: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._queue, (self._local_ns + after_ns, next(self._order), do, arguments))

    def _every(self, period_ns: int, do: Callable[[], None]) -> None:
        do()
        self._at(self.random.randrange(period_ns // 2, period_ns * 3 // 2), self._every, period_ns, do)

    def _until(self, end_ns: int) -> None:
        while self._queue[0][0] <= end_ns:
            self.now_ns, _, do, arguments = heapq.heappop(self._queue)
            do(*arguments)
        self.now_ns = end_ns

    # The gate's process.

    def _turn(self, start: int, is_edge: bool) -> None:
        """Do what gate.serve does in one round: take what has come, then what is due; sleep until the next edge."""
        if start != self._start or self._gate is None:
            return
        if self.now_ns < self._local_ns:
            self._at_local(0, self._turn, start, is_edge)
            return
        self._local_ns = self.now_ns
        chance = self.chance
        if chance.strikes("stall"):
            self._local_ns += self.random.randrange(500 * NS_PER_MS)
        if chance.strikes("clock jump"):
            self._offset_ns += self.random.randrange(NS_PER_S)
        # Before its first step a gate has no time to compare with: to it such a clock is one after a reboot.
        has_stepped = self._gate is not None and self._gate._now_ns > 0
        if has_stepped and self._clock() > NS_PER_S and chance.strikes("clock back"):
            self._offset_ns -= self.random.randrange(NS_PER_S)
            self._is_clock_new = True
        self._work(self._one_round)
        if is_edge and self._gate is not None:
            self._at_local(self._to_edge_ns(), self._turn, start, True)

    def _to_edge_ns(self) -> int:
        late_ns = 50_000
        if not self._is_calm and self.random.random() < 0.1:
            late_ns = self.random.choice((0, 1, SLOT_NS // 8, SLOT_NS // 8 + 1, SLOT_NS // 2))
        return SLOT_NS - self._clock() % SLOT_NS + late_ns

    def _one_round(self) -> None:
        gate, inbox, self._inbox = self._running(), self._inbox, []
        for one in inbox:
            if isinstance(one, bytes):
                self.oracle.heard(one, self._clock())
                gate.control(one, self._clock(), REAL_NS + self._local_ns + self._skew_ns)
            else:
                status = gate.submit(one.content)
                self.counts[f"inner hears {status.name}"] += 1
                self.oracle.submitted(status, one.asks, one.content, self._clock())
                one.then(status)
        self.oracle.stepped(self._clock())
        gate.step(self._clock())
        law(not (self.oracle.life and self.oracle.life.is_set_back), "the clock was set back and the gate goes on")
        if self.chance.strikes("term signal"):
            self._stop()
        if self.chance.strikes("kill"):
            raise CrashError("killed")

    def _stop(self) -> None:
        self._running().stop()
        raise CrashError("stopped")

    def _running(self) -> Gate:
        if self._gate is None:
            raise CrashError("there is no gate")
        return self._gate

    def _work(self, do: Callable[[], None]) -> None:
        """Run the gate; when its process ends, people start it again after a while."""
        self._is_gate_running = True
        try:
            do()
        except (CrashError, TrippedError, LedgerError, ClockError) as error:
            self.counts[f"gate ended: {type(error).__name__}"] += 1
            self.disk.crash(self.random)
            self.oracle.survived(self.disk)
            self.oracle.ended()
            self._gate = None
            self._inbox = []
            self._at_local(self.random.randrange(20, 500) * NS_PER_MS, self._people)
        finally:
            self._is_gate_running = False

    def _launch(self, ledger: SimLedger) -> None:
        self._gate = self._gate_class(
            ledger,
            self.lines,
            KEYS,
            realtime_ns=REAL_NS + self._local_ns + self._skew_ns,
            send=self._send,
            say=self._say,
        )
        self._at_local(self._to_edge_ns(), self._turn, self._start, True)
