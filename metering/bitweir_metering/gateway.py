"""The state machine of the door: payloads in, frames out on slot edges, nothing before it is paid for. Sans-I/O.

Whoever runs it (gate.py, the simulator) passes payloads, leases, permits, control messages and the time in, and carries
out what it asks for: reserve bits in the ledger, send bytes now.

Rules:
1. Reserve, then send. A frame leaves only out of a lease that the ledger has made durable; what a crash leaves of a
   lease is lost.
2. A frame is built and stored before the edge it leaves on, at most one an edge. It leaves if the breaker is up, the
   rate allows it and the presence of this epoch's slots has been paid; else at a later edge.
3. Missed edges, lapses, trips and the start itself are charged before the next frame leaves.
4. Frames leave in the order they came in; resends, which outer asks for, come first. A resend repeats the stored bytes.
5. Model output beyond what outer granted tokens for is refused.
6. When no lease fits any more, what is needed exactly is asked for; when that is refused too, the class is over: what
   waits of it is dropped and the others go on.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bitweir_metering import frame, slots
from bitweir_metering.breaker import Breaker, Verdict
from bitweir_metering.budget import Bucket, Totals
from bitweir_metering.errors import FullError, RefusedError
from bitweir_metering.frame import Frame, Payload, TrafficClass
from bitweir_metering.policy import Policy
from bitweir_metering.slots import SlotClock
from bitweir_metering.units import amount

# Payloads waiting: at ten slots a second a thousand wait almost two minutes. Beyond it the inner side is told to wait.
WAITING_MAX: Final = 1000
# Frames kept to be sent again.
STORED_MAX: Final = 4096
# Requests to send again that may wait; outer asks again for what it still misses.
RESENDS_WAITING_MAX: Final = 256


@dataclass(frozen=True)
class Need:
    """Ask the ledger for a lease; answer with `Gateway.lease`."""

    kind: TrafficClass
    wire_bits: int
    information_bits: int


@dataclass(frozen=True)
class Release:
    """Send these bytes now."""

    sequence: int
    content: bytes
    slot: int


@dataclass(slots=True)
class _Lease:
    """What is left of the durable reservations of a class, and what was spent of them."""

    wire_bits: int = 0
    information_bits: int = 0
    spent_wire_bits: int = 0
    spent_information_bits: int = 0
    is_asked: bool = False
    is_scarce: bool = False
    """Whole leases do not fit any more."""
    is_over: bool = False
    """Nothing fits any more."""


@dataclass(frozen=True)
class _Prepared:
    """A frame ready for the next edge after `slot`."""

    slot: int
    kind: TrafficClass
    sequence: int
    content: bytes
    information_bits: int

    @property
    def wire_bits(self) -> int:
        return frame.wire_bits(self.content)


class Gateway:
    """See the rules of this file.

    Attributes:
        breaker: whether the link is up.
    """

    def __init__(self, policy: Policy, tag_key: bytes, clock: SlotClock, *, sequence: int = 0) -> None:
        """Start down, with an empty bucket and nothing leased; the start and the end of the last run are charged.

        Args:
            policy: the one in force.
            tag_key: 32 bytes that the inner side does not know.
            clock: edges the gate keeps to, over all its restarts.
            sequence: number of the next frame.
        """
        self.breaker = Breaker()
        self._policy = policy
        self._tag_key = tag_key
        self._clock = clock
        self._sequence = sequence
        self._bucket = Bucket(policy.rate_bits_per_s, policy.burst_bits)
        self._leases = {kind: _Lease() for kind in TrafficClass}
        self._waiting: deque[tuple[TrafficClass, int, Payload]] = deque()
        self._resends: deque[int] = deque()
        self._stored: OrderedDict[int, _Prepared] = OrderedDict()
        self._sent_again: dict[int, int] = {}
        self._prepared: _Prepared | None = None
        self._model_bits_left = 0
        self._slot = -1
        self._epoch = -1
        self._lapse_count = 0
        self._was_tripped = False
        self._event_bits = slots.event_bits(policy.epoch_slots)
        self._timing_owed_bits = 2 * self._event_bits
        # The most that an epoch without events is charged.
        self._epoch_bits = slots.presence_bits(policy.epoch_slots) + slots.JITTER_BITS * policy.epoch_slots

    @property
    def next_sequence(self) -> int:
        """The number that the next new frame gets; the gate sees to it that it may have it."""
        return self._sequence

    @property
    def unspent(self) -> Mapping[TrafficClass, tuple[int, int]]:
        """Wire and information bits of each class that are leased and have not left."""
        return {kind: (lease.wire_bits, lease.information_bits) for kind, lease in self._leases.items()}

    @property
    def spent(self) -> Totals:
        """Bits that left or were charged, out of the leases."""
        leases = self._leases.values()
        return Totals(tuple(one.spent_wire_bits for one in leases), tuple(one.spent_information_bits for one in leases))

    @property
    def waiting_count(self) -> int:
        """Payloads and resends that have not left."""
        return len(self._waiting) + len(self._resends) + (self._prepared is not None)

    def submit(self, kind: TrafficClass, lane: int, payload: Payload) -> None:
        """Take a payload of the inner side.

        Raises:
            FullError: too much is waiting.
            RefusedError: not a class it may send, its budget is used up, or more output than tokens were granted for.
            FormError: no such lane.
        """
        if kind not in (TrafficClass.MODEL, TrafficClass.CONTROL, TrafficClass.TUNNEL):
            raise RefusedError(f"class {int(kind)} is not sent from inside", remedy="send model, control or tunnel")
        if len(self._waiting) >= WAITING_MAX:
            raise FullError(f"{WAITING_MAX} payloads are waiting", remedy="send more slowly")
        if self._leases[kind].is_over:
            raise RefusedError(f"the budget of class {int(kind)} is used up", remedy="only a signed policy raises it")
        if kind is TrafficClass.MODEL and payload.count > self._model_bits_left:
            raise RefusedError("more model output than tokens were granted for", remedy="answer open requests only")
        Frame(kind, lane, 0, payload)
        if kind is TrafficClass.MODEL:
            self._model_bits_left -= payload.count
        self._waiting.append((kind, lane, payload))

    def grant(self, token_count: int) -> None:
        """Outer granted so many more visible tokens."""
        self._model_bits_left += amount(token_count, "granted tokens") * self._policy.token_ceiling_bits

    def resend(self, sequence: int) -> None:
        """Outer misses a frame. Ignored where it is not kept, was sent often enough, or too much is asked for.

        One that has not left yet is on its way: outer guesses where the link is quiet, and a guess costs nothing.
        """
        ready = self._prepared
        is_to_come = ready is not None and ready.sequence == sequence and ready.kind is not TrafficClass.RESEND
        if (
            sequence in self._stored
            and not is_to_come
            and not self._leases[TrafficClass.RESEND].is_over
            and self._sent_again.get(sequence, 0) < self._policy.resends_max
            and len(self._resends) < RESENDS_WAITING_MAX
        ):
            self._sent_again[sequence] = self._sent_again.get(sequence, 0) + 1
            self._resends.append(sequence)

    def lease(self, need: Need) -> None:
        """The ledger has made a reservation durable."""
        lease = self._leases[need.kind]
        lease.wire_bits += amount(need.wire_bits, "leased wire bits")
        lease.information_bits += amount(need.information_bits, "leased information bits")
        lease.is_asked = False

    def refuse(self, need: Need) -> None:
        """The ledger has not reserved what was asked for; nothing was charged."""
        lease = self._leases[need.kind]
        lease.is_asked, lease.is_over, lease.is_scarce = False, lease.is_scarce, True
        if lease.is_over:
            self._waiting = deque(one for one in self._waiting if one[0] is not need.kind)
            if need.kind is TrafficClass.RESEND:
                self._resends.clear()

    def tick(self, now_ns: int) -> list[Need | Release]:
        """Do what is due at this time; call it at least once a slot, and after anything changed.

        Raises:
            ClockError: the time is before the first edge.
        """
        slot = self._clock.index(now_ns)
        # The bucket begins to fill with the first tick.
        self._bucket.take(0, now_ns)
        verdict = self.breaker.verdict(now_ns)
        self._charge_events(verdict)
        out: list[Need | Release] = []
        if slot > self._slot and self._clock.is_at_edge(now_ns):
            if 0 <= self._slot < slot - 1:
                self._timing_owed_bits += self._event_bits
            self._slot = slot
            if verdict is Verdict.UP and self._is_timing_paid(slot, out) and self._may_leave(now_ns):
                out.append(self._leave(slot))
        if self._prepared is None and verdict is Verdict.UP:
            self._prepare(out)
        return out

    def prepare(self, now_ns: int) -> list[Need | Release]:
        """Build the next frame ahead of its edge, if a lease holds it; nothing leaves, and no lease while down."""
        out: list[Need | Release] = []
        if self._prepared is None and self.breaker.verdict(now_ns) is Verdict.UP:
            self._prepare(out)
        return out

    def _charge_events(self, verdict: Verdict) -> None:
        """Count what a watcher can tell apart besides frames."""
        lapsed = self.breaker.lapse_count - self._lapse_count
        tripped = verdict is Verdict.TRIPPED and not self._was_tripped
        self._timing_owed_bits += (lapsed + tripped) * self._event_bits
        self._lapse_count = self.breaker.lapse_count
        self._was_tripped = verdict is Verdict.TRIPPED

    def _is_timing_paid(self, slot: int, out: list[Need | Release]) -> bool:
        """Pay for the events so far and for the presence of this epoch's slots, out of what is leased."""
        epoch = slot // self._policy.epoch_slots
        is_new = epoch > self._epoch
        due = self._timing_owed_bits + (slots.presence_bits(self._policy.epoch_slots) if is_new else 0)
        if due and not self._spend(TrafficClass.TIMING, due, due, out):
            return False
        self._timing_owed_bits = 0
        self._epoch = epoch
        ahead_bits = self._epoch_bits
        if is_new and self._leases[TrafficClass.TIMING].wire_bits < ahead_bits:
            # Ahead, or the first edge of the next epoch would wait for the ledger.
            self._ask(TrafficClass.TIMING, ahead_bits, ahead_bits, out)
        return True

    def _may_leave(self, now_ns: int) -> bool:
        """Whether the prepared frame was ready before this edge and the rate allows it; takes from the bucket."""
        ready = self._prepared
        return ready is not None and ready.slot < self._slot and self._bucket.take(ready.wire_bits, now_ns)

    def _leave(self, slot: int) -> Release:
        ready = self._prepared
        if ready is None:
            raise RefusedError("nothing is prepared", remedy="report this as a defect")
        self._prepared = None
        self._timing_owed_bits += slots.JITTER_BITS
        return Release(ready.sequence, ready.content, slot)

    def _prepare(self, out: list[Need | Release]) -> None:
        """Build the next frame and pay for it, or ask for a lease."""
        if self._resends:
            stored = self._stored[self._resends[0]]
            if self._spend(TrafficClass.RESEND, stored.wire_bits, 0, out):
                self._resends.popleft()
                self._prepared = _Prepared(self._slot, TrafficClass.RESEND, stored.sequence, stored.content, 0)
        elif self._waiting:
            kind, lane, payload = self._waiting[0]
            built = Frame(kind, lane, self._sequence, payload)
            if self._spend(kind, built.wire_bits, built.information_bits, out):
                self._waiting.popleft()
                self._sequence += 1
                content = frame.encode(built, self._tag_key)
                self._prepared = _Prepared(self._slot, kind, built.sequence, content, built.information_bits)
                self._store(self._prepared)

    def _store(self, prepared: _Prepared) -> None:
        self._stored[prepared.sequence] = prepared
        if len(self._stored) > STORED_MAX:
            gone, _ = self._stored.popitem(last=False)
            self._sent_again.pop(gone, None)
            if gone in self._resends:
                self._resends = deque(sequence for sequence in self._resends if sequence != gone)

    def _spend(self, kind: TrafficClass, wire_bits: int, information_bits: int, out: list[Need | Release]) -> bool:
        """Take from a lease; where it does not suffice, ask for another, once."""
        lease = self._leases[kind]
        if lease.wire_bits >= wire_bits and lease.information_bits >= information_bits:
            lease.wire_bits -= wire_bits
            lease.information_bits -= information_bits
            lease.spent_wire_bits += wire_bits
            lease.spent_information_bits += information_bits
            return True
        self._ask(kind, wire_bits, information_bits, out)
        return False

    def _ask(self, kind: TrafficClass, wire_bits: int, information_bits: int, out: list[Need | Release]) -> None:
        """Ask for a lease that makes so much suffice, unless one was asked for or nothing fits any more."""
        lease = self._leases[kind]
        if not lease.is_asked and not lease.is_over:
            lease.is_asked = True
            missing_bits = max(wire_bits - lease.wire_bits, information_bits - lease.information_bits)
            more = missing_bits if lease.is_scarce else max(self._lease_bits(kind), missing_bits)
            # Information is topped up to what so many wire bits can say at most; a resend says nothing new.
            most = 0 if kind is TrafficClass.RESEND else lease.wire_bits + more - lease.information_bits
            out.append(Need(kind, more, max(most, information_bits - lease.information_bits, 0)))

    def _lease_bits(self, kind: TrafficClass) -> int:
        """Return the size of a lease: whole ones of the policy; of timing what two full epochs take."""
        if kind is TrafficClass.TIMING:
            return 2 * self._epoch_bits
        return self._policy.lease_bits
