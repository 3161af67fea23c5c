"""The real gateway and the real ledger, on disk, in any order of what can happen to them.

I1: of each class, what left since the start is at most what was leased since the start, and that is durable; timing is
counted here again. I2: reserved never falls, and a limit rises only by a signed policy. I4: what leaves is canonical.
I6: without a permit, after a trip and without a lease nothing leaves. A crash goes on from a copy of the files.
"""

import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bitweir_metering import entries, frame, slots
from bitweir_metering.breaker import Breaker, Verdict
from bitweir_metering.entries import Chain, Reservation
from bitweir_metering.errors import BudgetError, LedgerError, PolicyError, RefusedError
from bitweir_metering.frame import Frame, Payload, TrafficClass
from bitweir_metering.gateway import Gateway, Need, Release
from bitweir_metering.ledger import Lease, Ledger
from bitweir_metering.slots import SlotClock
from tests.unit.metering.door import KEY
from tests.unit.metering.example_ledger import copied, created, opened, raised, signed_reset, small_policy
from tests.unit.metering.example_policy import signed

NUMBERS_AT_ONCE = 16
RESEND, TIMING = TrafficClass.RESEND, TrafficClass.TIMING


class DoorMachine(RuleBasedStateMachine):
    """A door, its ledger, and an observer who keeps a list of both."""

    ledger: Ledger

    @initialize()
    def create(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bitweir-door-"))
        self.copies = 0
        self.path = self.root / "link.ledger"
        self.frames: dict[int, bytes] = {}
        self.wire = dict.fromkeys(TrafficClass, 0)
        self.reserved_bits = 0
        self.now_ns = 0
        self.is_tripped = False
        self.ledger = created(self.path, small_policy(epoch_slots=10))
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.ledger.close()
            shutil.rmtree(self.root)

    def start(self) -> None:
        """A gate starts: what was leased before is lost, and so is every promise."""
        self.policy = self.ledger.policy
        self.numbers = self.ledger.give_numbers(NUMBERS_AT_ONCE)
        clock = SlotClock(0, self.policy.slot_ns)
        self.gateway = Gateway(self.policy, KEY, clock, sequence=self.numbers.start)
        self.needs: list[Need] = []
        self.leased = {kind: [0, 0] for kind in TrafficClass}
        self.left = {kind: [0, 0] for kind in TrafficClass}
        self.waiting: list[Frame] = []
        self.times: dict[int, int] = {}
        self.epochs: set[int] = set()
        self.permit_ns = -1
        self.last_slot = -1
        self.tokens = self.model_bits = 0

    @rule(kind=st.sampled_from(TrafficClass), lane=st.integers(0, 7), count=st.sampled_from([0, 60, 500, 8000]))
    def submit(self, kind: TrafficClass, lane: int, count: int) -> None:
        payload = Payload((1 << count) - 1, count)
        try:
            self.gateway.submit(kind, lane, payload)
        except RefusedError:
            return
        assert kind not in (RESEND, TIMING)
        self.waiting.append(Frame(kind, lane, 0, payload))

    @rule(tokens=st.integers(0, 400))
    def grant(self, tokens: int) -> None:
        self.gateway.grant(tokens)
        self.tokens += tokens

    @rule(sequence=st.integers(0, 3 * NUMBERS_AT_ONCE))
    def resend(self, sequence: int) -> None:
        self.gateway.resend(sequence)

    @rule(share=st.sampled_from([0.1, 1, 1, 3]))
    def permit(self, share: float) -> None:
        self.permit_ns = max(self.permit_ns, self.now_ns + int(self.policy.permit_ns * share))
        self.gateway.breaker.permit(self.permit_ns)

    @rule(
        edges=st.integers(1, 8),
        skipped=st.sampled_from([0, 0, 0, 1, 12]),
        late=st.sampled_from([0.0, 0.0, 0.1, 0.125, 0.2]),
    )
    def tick(self, edges: int, skipped: int, late: float) -> None:
        """Some edges pass, of which the gate sleeps through some, and wakes late for the others."""
        slot = self.now_ns // self.policy.slot_ns + skipped
        for edge in range(slot + 1, slot + 1 + edges):
            self.now_ns = edge * self.policy.slot_ns + int(late * self.policy.slot_ns)
            self.once()

    @rule()
    def tick_again(self) -> None:
        self.once()

    @rule()
    def lapse(self) -> None:
        self.now_ns = max(self.now_ns, self.permit_ns)
        self.once()

    def once(self) -> None:
        if self.gateway.next_sequence >= self.numbers.stop:
            given = self.ledger.give_numbers(NUMBERS_AT_ONCE)
            # Numbers follow each other, because this is the ledger's only gate.
            assert given.start == self.numbers.stop
            self.numbers = range(self.numbers.start, given.stop)
        for one in self.gateway.tick(self.now_ns):
            if isinstance(one, Need):
                self.needs.append(one)
            else:
                self.leave(one)

    def leave(self, one: Release) -> None:
        assert self.now_ns < self.permit_ns
        assert not self.is_tripped
        slot, late_ns = divmod(self.now_ns, self.policy.slot_ns)
        assert (one.slot, late_ns * 8 <= self.policy.slot_ns) == (slot, True)
        assert slot > self.last_slot
        self.last_slot = slot
        self.epochs.add(slot // self.policy.epoch_slots)
        said = frame.decode(one.content, KEY)
        assert frame.encode(said, KEY) == one.content
        assert said.sequence == one.sequence in self.numbers
        assert self.frames.setdefault(one.sequence, one.content) == one.content
        is_again = one.sequence in self.times
        self.times[one.sequence] = self.times.get(one.sequence, -1) + 1
        assert self.times[one.sequence] <= self.policy.resends_max
        kind = RESEND if is_again else said.kind
        self.left[kind][0] += said.wire_bits
        self.left[kind][1] += 0 if is_again else said.information_bits
        self.wire[kind] += said.wire_bits
        if not is_again:
            while (self.waiting[0].kind, self.waiting[0].lane, self.waiting[0].payload) != (
                said.kind,
                said.lane,
                said.payload,
            ):
                self.waiting.pop(0)
            self.waiting.pop(0)
            self.model_bits += said.payload.count if said.kind is TrafficClass.MODEL else 0

    @precondition(lambda self: self.needs)
    @rule()
    def ledger_answers(self) -> None:
        need = self.needs.pop(0)
        (answer,) = self.ledger.reserve([Reservation(need.kind, need.wire_bits, need.information_bits)])
        if isinstance(answer, Lease):
            self.leased[need.kind][0] += need.wire_bits
            self.leased[need.kind][1] += need.information_bits
            self.gateway.lease(need)
        else:
            assert isinstance(answer, BudgetError)
            self.gateway.refuse(need)

    @rule(kind=st.sampled_from([TrafficClass.MODEL, TrafficClass.CONTROL]))
    def all_goes_well_for_a_while(self, kind: TrafficClass) -> None:
        """More is submitted than leaves meanwhile."""
        if self.is_tripped:
            self.reset(True)
        self.grant(100)
        for lane in range(6):
            self.submit(kind, lane, 60)
        for _ in range(4):
            while self.needs:
                self.ledger_answers()
            self.permit(1)
            self.tick(2, 0, 0.0)

    @rule()
    def trip(self) -> None:
        self.gateway.breaker.trip("meters disagree")
        self.ledger.trip("meters disagree")
        self.is_tripped = True

    @precondition(lambda self: self.is_tripped)
    @rule(is_signed=st.booleans())
    def reset(self, is_signed: bool) -> None:
        if not is_signed:
            with pytest.raises(PolicyError):
                self.ledger.reset(*signed_reset(self.ledger, 0))
            return
        self.ledger.reset(*signed_reset(self.ledger))
        self.gateway.breaker.reset()
        self.permit_ns = -1
        self.is_tripped = False

    @rule(is_signed=st.booleans())
    def raise_limits(self, is_signed: bool) -> None:
        """A new policy holds for the ledger at once, for the door when it starts again."""
        limit_bits = self.ledger.policy.limit_bits
        later = raised(self.ledger.policy.serial + 1, limit_bits + 500_000)
        if is_signed:
            self.ledger.replace_policy(later, signed(later, 0, 1))
            self.start()
            return
        with pytest.raises(PolicyError):
            self.ledger.replace_policy(later, signed(later, 2, 3, 4))
        assert self.ledger.policy.limit_bits == limit_bits

    @rule()
    def crash(self) -> None:
        """Go on from a copy of the files as they are."""
        self.copies += 1
        copy = copied(self.path, self.root / f"after-crash-{self.copies}")
        head, trip = self.ledger.head, self.ledger.tripped
        assert (trip is not None) is self.is_tripped
        self.ledger.close()
        self.path = copy
        self.ledger = opened(copy)
        assert (self.ledger.head, self.ledger.tripped) == (head, trip)
        self.start()
        if trip:
            self.gateway.breaker.trip(trip.reason)

    @invariant()
    def what_left_was_leased_and_is_durable(self) -> None:
        """I1, I6: in this start out of this start's leases; over all starts out of what is reserved."""
        frame_count = sum(times + 1 for times in self.times.values())
        if frame_count:
            event_bits = slots.event_bits(self.policy.epoch_slots)
            presence_bits = len(self.epochs) * slots.presence_bits(self.policy.epoch_slots)
            due_bits = 2 * event_bits + presence_bits + (frame_count - 1) * slots.JITTER_BITS
            self.left[TIMING] = [due_bits, due_bits]
        for kind in TrafficClass:
            assert all(left <= leased for left, leased in zip(self.left[kind], self.leased[kind], strict=True))
            assert self.wire[kind] <= self.ledger.totals.wire[kind]
        assert self.model_bits <= self.tokens * self.policy.token_ceiling_bits

    @invariant()
    def reserved_never_falls_or_passes_the_limit(self) -> None:
        """I2."""
        totals, policy = self.ledger.totals, self.ledger.policy
        assert self.reserved_bits <= totals.wire_bits <= policy.limit_bits
        assert all(totals.wire[kind] <= policy.class_limits[kind] for kind in TrafficClass)
        self.reserved_bits = totals.wire_bits


DoorMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestDoor = DoorMachine.TestCase


def _always(*_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Gateway, "_is_timing_paid", _always),
        (Gateway, "_spend", _always),
        (Breaker, "verdict", lambda *_: Verdict.UP),
        (SlotClock, "is_at_edge", _always),
        (Gateway, "refuse", Gateway.lease),
        (Chain, "trip", None),
        (Chain, "numbers_end", 0),
        (entries, "check_signed", _always),
    ],
    ids=["free timing", "free frames", "no permit", "no edges", "never over", "no trip", "old numbers", "unsigned"],
)
def test_the_machine_finds_what_is_broken(owner: object, name: str, broken: object) -> None:
    few = settings(max_examples=25, stateful_step_count=40, phases=[Phase.generate], database=None)
    # LedgerError: a broken chain does not fit what is stored.
    with patch.object(owner, name, broken), pytest.raises((AssertionError, LedgerError, pytest.fail.Exception)):
        run_state_machine_as_test(DoorMachine, settings=few)
