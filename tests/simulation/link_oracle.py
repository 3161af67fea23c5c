"""What must be true of the link at every instant, found out without the gate's own bookkeeping. See link_world.py.

The oracle sees what is durable, what each witness has signed, what arrives at the gate and what leaves it.

Laws:
1. Of each class, bits that left are at most bits reserved, durable, and signed by a quorum, all since the gate's last
   start; what an earlier start left over counts for nothing. Timing is counted here again, from below. (I1, I6)
2. Durable entries stay, totals never fall, and stay within a policy that was signed. (I2)
3. A frame is canonical and holds, in order, what inner submitted before its edge. (I4)
4. No number has two contents, over all starts; a number comes from a durable, signed range; a resend is the same bytes.
5. Nothing leaves without a permit in force, after a trip, on a ledger that was rolled back, or with a clock set back.
6. One frame an edge, near it; over any window at most rate * window + burst.
7. The gate's own log holds nothing that inner wrote.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitweir_metering import frame, sizes, slots
from bitweir_metering.budget import Totals
from bitweir_metering.control import OUTER, Control, Message
from bitweir_metering.entries import EntryKind
from bitweir_metering.errors import FormError
from bitweir_metering.frame import Frame, TrafficClass
from bitweir_metering.gate_client import Status
from bitweir_metering.policy import Policy
from bitweir_metering.units import NS_PER_S
from tests.simulation.link_parts import Disk, WitnessLine

_RESEND, _TIMING = TrafficClass.RESEND, TrafficClass.TIMING


class BrokenLawError(Exception):
    """Something that must never be true was true."""


def law(holds: bool, text: str) -> None:
    if not holds:
        raise BrokenLawError(text)


def zeros() -> list[int]:
    return [0] * len(TrafficClass)


@dataclass
class Life:
    """One start of the gate, as an observer with access to everything sees it."""

    policy: Policy
    next_row: int
    start_real_ns: int
    is_rolled_back: bool
    taken: list[tuple[int, Frame]] = field(default_factory=list)
    next_taken: int = 0
    granted_wire: list[int] = field(default_factory=zeros)
    granted_information: list[int] = field(default_factory=zeros)
    spent_wire: list[int] = field(default_factory=zeros)
    spent_information: list[int] = field(default_factory=zeros)
    numbers_end: int = 0
    left: dict[int, int] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)
    frame_count: int = 0
    event_count: int = 2
    lapse_count: int = 0
    model_bits: int = 0
    permit_until_ns: int = -1
    is_tripped: bool = False
    is_set_back: bool = False
    last_slot: int = -1
    edge_slot: int = -1
    is_edge_missed: bool = False
    step_ns: int = 0
    latest_ns: dict[bool, int] = field(default_factory=dict)

    @property
    def timing_bits(self) -> int:
        """What release times must be charged at least."""
        epoch_slots = self.policy.epoch_slots
        events = (self.event_count + self.lapse_count) * slots.event_bits(epoch_slots)
        presence = len(self.epochs) * slots.presence_bits(epoch_slots)
        # The bit of the newest frame is due with the next edge.
        return events + presence + slots.JITTER_BITS * max(0, self.frame_count - 1)


class Oracle:
    """See the laws of this file."""

    def __init__(self, policy: Policy, tag_key: bytes) -> None:
        self.frames: dict[int, bytes] = {}
        self.life: Life | None = None
        self.authentic: dict[bytes, Message] = {}
        self.granted_tokens = 0
        self.log: list[str] = []
        self._tag_key = tag_key
        self._signed = {policy.digest()}
        self._checked: Policy | None = None
        self._written: list[bytes] = []
        self._totals = Totals()
        self._wire = zeros()
        self._timing_before = 0
        self._entry_count = 0
        self._bucket_level = policy.burst_bits * NS_PER_S
        self._bucket_ns = 0
        self._slots_before: int = -1

    def allow(self, policy: Policy) -> None:
        """Enough people have signed this policy."""
        self._signed.add(policy.digest())

    def began(self, disk: Disk, real_ns: int, *, is_rolled_back: bool, is_rebooted: bool) -> None:
        """A gate starts from what is on the disk."""
        self.ended()
        if is_rebooted:
            self._bucket_ns, self._slots_before = 0, -1
        life = Life(disk.chain.policy, len(disk.rows), real_ns, is_rolled_back, latest_ns={})
        life.latest_ns = {True: real_ns, False: real_ns}
        self.life = life

    def ended(self) -> None:
        """The gate is gone; what happened after its last frame is not paid any more."""
        if self.life:
            self._timing_before += self.life.spent_wire[_TIMING]
        self.life = None

    def heard(self, content: bytes, clock_ns: int) -> None:
        """The gate gets these bytes from the receiving side."""
        message, life = self.authentic.get(content), self.life
        if message is None or life is None:
            return
        is_outer = message.kind in OUTER
        if message.time_ns <= life.latest_ns[is_outer]:
            return
        life.latest_ns[is_outer] = message.time_ns
        if message.kind is Control.PERMIT:
            life.permit_until_ns = max(life.permit_until_ns, clock_ns + life.policy.permit_ns)
        life.is_tripped |= message.kind is Control.TRIP

    def submitted(self, status: Status, request: Frame | None, content: bytes, clock_ns: int) -> None:
        """The gate has answered inner; `request` is what these bytes ask for, if anything."""
        if len(content) >= 16:
            self._written.append(content)
        if status is Status.TAKEN and self.life:
            law(request is not None, f"took what is no request: {content[:40].hex()}")
            law(request.kind not in (_RESEND, _TIMING), f"took class {request.kind}")
            self.life.taken.append((clock_ns, request))

    def said(self, event: str, fields: dict[str, object]) -> None:
        self.log.append(json.dumps({"event": event, **fields}))
        if event == "lapsed" and self.life:
            self.life.lapse_count += 1

    def stepped(self, clock_ns: int) -> None:
        """The gate is about to do what is due."""
        life = self.life
        if life is None:
            return
        life.is_set_back |= clock_ns < life.step_ns
        life.step_ns = clock_ns
        slot, late_ns = divmod(clock_ns, life.policy.slot_ns)
        if late_ns <= life.policy.slot_ns // slots.TOLERANCE_SHARE:
            life.is_edge_missed |= slot > life.edge_slot + 1
            life.edge_slot = slot

    def written(self, disk: Disk) -> None:
        """Something has become durable."""
        chain = disk.chain
        if chain.policy is not self._checked:
            law(chain.policy.digest() in self._signed, "a policy that nobody signed is in force")
            self._checked = chain.policy
        if self.life and self.life.is_rolled_back:
            return
        head = chain.head
        law(head.entry_count > self._entry_count, "fewer entries than before")
        law(head.totals.holds(self._totals), "a total has fallen")
        limits = chain.policy.class_limits
        law(head.totals.wire_bits <= chain.policy.limit_bits, "more reserved than the limit")
        law(all(head.totals.wire[kind] <= limits[kind] for kind in TrafficClass), "more reserved than a sub-cap")
        self._totals, self._entry_count = head.totals, head.entry_count
        if chain.trip and self.life:
            self.life.is_tripped = True

    def survived(self, disk: Disk) -> None:
        """The gate has crashed; this is left."""
        if self.life is None or not self.life.is_rolled_back:
            law(len(disk.rows) == disk.chain.head.entry_count == self._entry_count, "a crash lost durable entries")

    def sent(self, content: bytes, clock_ns: int, disk: Disk, lines: Sequence[WitnessLine]) -> bool:
        """These bytes leave the gate; returns whether they left before."""
        life = self.life
        if life is None:
            raise BrokenLawError("a frame of no gate")
        law(not life.is_rolled_back, "a frame out of a ledger that was rolled back")
        law(not life.is_tripped, "a frame after a trip")
        law(not life.is_set_back, "a frame after the clock was set back")
        law(clock_ns < life.permit_until_ns, "a frame without a permit")
        try:
            said = frame.decode(content, self._tag_key)
        except FormError as error:
            raise BrokenLawError(f"no frame left: {error}") from error
        law(frame.encode(said, self._tag_key) == content, "a frame that is not canonical")
        slot = self._check_slot(life, clock_ns)
        self._count_cosigned(life, disk, lines)
        is_again = self._check_number(life, said, content, slot)
        kind = _RESEND if is_again else said.kind
        bits, information_bits = frame.wire_bits(content), 0 if is_again else sizes.information_bits(said.payload.count)
        life.spent_wire[kind] += bits
        life.spent_information[kind] += information_bits
        self._wire[kind] += bits
        life.epochs.add(slot // life.policy.epoch_slots)
        life.frame_count += 1
        self._check_paid(life, disk)
        self._check_rate(life.policy, bits, clock_ns)
        return is_again

    def finish(self, disk: Disk) -> None:
        """The world ends: what it left is a sound ledger, and the log says nothing of inner's."""
        law(Disk(disk.rows).chain.head == disk.chain.head, "the ledger is not sound")
        log = "\n".join(self.log)
        for content in self._written:
            middle = content[6:14]
            for text in (middle.hex(), str(int.from_bytes(content[5:], "big")), middle.decode("latin-1"), repr(middle)):
                law(len(text) < 8 or text not in log, "the gate's log holds what inner wrote")

    def _check_slot(self, life: Life, clock_ns: int) -> int:
        slot, late_ns = divmod(clock_ns, life.policy.slot_ns)
        law(late_ns <= life.policy.slot_ns // slots.TOLERANCE_SHARE, f"a frame {late_ns} ns after its edge")
        law(slot > max(life.last_slot, self._slots_before), "two frames on one edge")
        if life.is_edge_missed and life.frame_count:
            life.event_count += 1
        life.is_edge_missed = False
        life.last_slot = self._slots_before = slot
        return slot

    def _count_cosigned(self, life: Life, disk: Disk, lines: Sequence[WitnessLine]) -> None:
        """Add up what is durable and signed by a quorum since this start."""
        by_key = {line.witness.key: line.witness.last.size for line in lines}
        signed = sorted((by_key.get(key, 0) for key in life.policy.witnesses.keys), reverse=True)
        end = min(signed[life.policy.witnesses.threshold - 1], len(disk.rows))
        while life.next_row < end:
            _, kind, traffic, wire_bits, information_bits, *_, note, _, _ = disk.rows[life.next_row]
            if kind == EntryKind.RESERVE:
                life.granted_wire[int(traffic)] += int(wire_bits)
                life.granted_information[int(traffic)] += int(information_bits)
            elif kind == EntryKind.NUMBERS:
                life.numbers_end = int(note)
            life.next_row += 1

    def _check_number(self, life: Life, said: Frame, content: bytes, slot: int) -> bool:
        known = self.frames.get(said.sequence)
        law(known in (None, content), f"two frames with number {said.sequence}")
        law(said.sequence < life.numbers_end, f"number {said.sequence} was not durably given out, or not signed for")
        life.left[said.sequence] = life.left.get(said.sequence, -1) + 1
        if known is not None:
            law(1 <= life.left[said.sequence] <= life.policy.resends_max, "sent again too often, or by another start")
            return True
        law(said.sequence > max(self.frames, default=-1), "a number out of order")
        self.frames[said.sequence] = content
        while life.next_taken < len(life.taken):
            taken_ns, request = life.taken[life.next_taken]
            life.next_taken += 1
            if (request.kind, request.lane, request.payload) == (said.kind, said.lane, said.payload):
                law(taken_ns < slot * life.policy.slot_ns, "a frame that was not ready before its edge")
                break
        else:
            raise BrokenLawError(f"frame {said.sequence} holds what nobody submitted, or again, or out of order")
        if said.kind is TrafficClass.MODEL:
            life.model_bits += said.payload.count
            most_bits = self.granted_tokens * life.policy.token_ceiling_bits
            law(life.model_bits <= most_bits, "more model output than was granted")
        return False

    def _check_paid(self, life: Life, disk: Disk) -> None:
        life.spent_wire[_TIMING] = life.spent_information[_TIMING] = life.timing_bits
        durable = disk.chain.head.totals.wire
        for kind in TrafficClass:
            left = self._wire[kind] if kind is not _TIMING else self._timing_before + life.timing_bits
            law(left <= durable[kind], f"{kind.name}: {left} bits left, {durable[kind]} are reserved")
            law(life.spent_wire[kind] <= life.granted_wire[kind], f"{kind.name}: more left than is signed for")
            law(life.spent_information[kind] <= life.granted_information[kind], f"{kind.name}: more was said than paid")

    def _check_rate(self, policy: Policy, bits: int, clock_ns: int) -> None:
        """A full bucket that is never short is the same as the bound for every window."""
        elapsed_ns, self._bucket_ns = clock_ns - self._bucket_ns, clock_ns
        full = policy.burst_bits * NS_PER_S
        self._bucket_level = min(full, self._bucket_level + elapsed_ns * policy.rate_bits_per_s) - bits * NS_PER_S
        law(self._bucket_level >= 0, "faster than rate * window + burst")
