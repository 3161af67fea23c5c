"""The ledger against a model of it that is only numbers: any order of calls, crashes and reopenings.

I1: what is durable covers what was granted. I2: it never falls and never passes the limit in force. After every step a
copy of the files, which is what a crash would leave, is sound and holds exactly what was granted.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bitweir_metering import ledger as ledger_module
from bitweir_metering.errors import BudgetError, LedgerError, PolicyError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import Lease, Ledger, Reservation, verify
from bitweir_metering.policy import Policy
from tests.unit.metering.example_ledger import copied, created, opened, raised, signed_reset, small_policy
from tests.unit.metering.example_policy import signed

BITS = st.one_of(st.integers(1, 200_000), st.sampled_from([1, 20_000, 20_001, 10**6, 10**6 + 1, (1 << 62) - 1]))
REQUESTS = st.builds(
    lambda kind, wire, share: Reservation(kind, wire, wire * share // 8),
    st.sampled_from(TrafficClass),
    BITS,
    st.integers(0, 8),
)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger, and what a person with a pencil would know of it."""

    ledger: Ledger

    @initialize()
    def create(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bitweir-ledger-"))
        self.copies = 0
        self.path = self.root / "link.ledger"
        self.policy: Policy = small_policy()
        self.wire = dict.fromkeys(TrafficClass, 0)
        self.information = dict.fromkeys(TrafficClass, 0)
        self.lost = dict.fromkeys(TrafficClass, 0)
        self.entries = 1
        self.numbers = 0
        self.hashes: list[bytes] = []
        self.highest = 0
        self.ledger = created(self.path)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.ledger.close()
            shutil.rmtree(self.root)

    def fits(self, request: Reservation) -> bool:
        if self.ledger.tripped:
            return False
        in_class = self.wire[request.kind] + request.wire_bits <= self.policy.class_limits[request.kind]
        return in_class and sum(self.wire.values()) + request.wire_bits <= self.policy.limit_bits

    @rule(requests=st.lists(REQUESTS, max_size=4))
    def reserve(self, requests: list[Reservation]) -> None:
        answers = self.ledger.reserve(requests)
        assert len(answers) == len(requests)
        for request, answer in zip(requests, answers, strict=True):
            if self.fits(request):
                assert answer == Lease(self.entries, request)
                self.wire[request.kind] += request.wire_bits
                self.information[request.kind] += request.information_bits
                self.entries += 1
            else:
                assert isinstance(answer, BudgetError)

    @rule(note=st.binary(max_size=300))
    def event(self, note: bytes) -> None:
        assert self.ledger.event(note) == self.entries
        self.entries += 1

    @rule(count=st.integers(1, 1000))
    def give_numbers(self, count: int) -> None:
        given = self.ledger.give_numbers(count)
        assert (given.start, len(given)) == (self.numbers, count)
        self.numbers = given.stop
        self.entries += 1

    @rule(reason=st.text(max_size=300))
    def trip(self, reason: str) -> None:
        assert self.ledger.trip(reason) == self.entries
        self.entries += 1

    @precondition(lambda self: self.ledger.tripped is not None)
    @rule()
    def reset(self) -> None:
        assert self.ledger.reset(*signed_reset(self.ledger)) == self.entries
        self.entries += 1

    @rule(loss=REQUESTS)
    def lose(self, loss: Reservation) -> None:
        information = self.ledger.losses.information[loss.kind] + loss.information_bits
        is_covered = self.lost[loss.kind] + loss.wire_bits <= self.wire[loss.kind]
        if is_covered and information <= self.information[loss.kind]:
            self.ledger.record_loss(loss)
            self.lost[loss.kind] += loss.wire_bits
            self.entries += 1
        else:
            with pytest.raises((LedgerError, UnitError)):
                self.ledger.record_loss(loss)

    @rule(limit_bits=st.integers(100_000, 2 * 10**6), signers=st.sets(st.integers(0, 4)))
    def replace_policy(self, limit_bits: int, signers: set[int]) -> None:
        later = raised(self.policy.serial + 1, limit_bits)
        if len(signers & {0, 1, 2}) >= 2:
            self.ledger.replace_policy(later, signed(later, *signers))
            self.policy = later
            self.entries += 1
        else:
            with pytest.raises(PolicyError):
                self.ledger.replace_policy(later, signed(later, *signers))

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = opened(self.path)

    @rule()
    def crash(self) -> None:
        """Go on from a copy of the files as they are, and leave the old ones to themselves."""
        self.copies += 1
        copy = copied(self.path, self.root / f"after-crash-{self.copies}")
        self.ledger.close()
        self.path = copy
        self.ledger = opened(copy)

    @precondition(lambda self: self.entries > 1)
    @rule()
    def open_twice(self) -> None:
        with pytest.raises(LedgerError):
            opened(self.path)

    @invariant()
    def what_a_crash_leaves_is_sound_and_is_what_was_granted(self) -> None:
        report = verify(copied(self.path, self.root / "copy"))
        assert report.ok, report.problems
        assert report.head == self.ledger.head
        assert report.trip == self.ledger.tripped
        assert report.policy == self.ledger.policy == self.policy
        assert report.entry_count == self.entries
        assert report.totals.wire == tuple(self.wire.values())
        assert report.totals.information == tuple(self.information.values())
        assert report.losses.wire == tuple(self.lost.values())

    @invariant()
    def reserved_never_falls_and_entries_never_change(self) -> None:
        reserved_bits = self.ledger.totals.wire_bits
        assert reserved_bits >= self.highest
        self.highest = reserved_bits
        hashes = self.ledger.hashes(0, self.entries + 1)
        assert len(hashes) == self.entries
        assert hashes[: len(self.hashes)] == self.hashes
        self.hashes = hashes


@pytest.fixture(autouse=True)
def _few_entries_between_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CHECKPOINT_ENTRIES", 7)


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestLedger = LedgerMachine.TestCase
