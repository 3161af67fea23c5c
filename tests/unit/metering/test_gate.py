"""The gate without its process: what holds it up, what takes it down, and that nothing is lost or said twice."""

import pytest

from bitweir_metering import gate as gates
from bitweir_metering.breaker import Verdict
from bitweir_metering.control import Control, TripReason
from bitweir_metering.entries import EntryKind, Reservation
from bitweir_metering.errors import BudgetError, ClockError, LedgerError, TrippedError
from bitweir_metering.frame import SEQUENCE_LIMIT, Payload, TrafficClass
from bitweir_metering.gate_client import Status
from tests.unit.metering.example_gate import CONTROL, MODEL, MS, Rig, gate_policy

# A frame of few bits on the wire.
SMALL_BITS = 8 * (8 + 13 + 42)
RETRY_MS = gates.WITNESS_RETRY_NS // MS


def submitted(rig: Rig, count: int, kind: TrafficClass = CONTROL) -> list[int]:
    """Hand over payloads that can be told apart; return their values."""
    for value in range(count):
        assert rig.submit(Payload(value, 16), kind) is Status.TAKEN
    return list(range(count))


def values(rig: Rig) -> list[int]:
    return [one.payload.value for one in rig.frames]


# Down until it is up.


def test_payloads_leave_in_order_with_permit_lease_and_numbers() -> None:
    rig = Rig()
    sent = submitted(rig, 5)
    rig.run(0, 200)
    assert values(rig) == sent
    assert [one.sequence for one in rig.frames] == [0, 1, 2, 3, 4]
    assert rig.said[0][0] == "started"
    assert rig.said[0][1] == {"policy": rig.rules.digest().hex(), "serial": 1, "numbers_from": 0}
    assert [event for event, _ in rig.said] == ["started"]
    (started,) = rig.book.notes(EntryKind.EVENT)
    assert started.startswith(b"gate started 18")


def test_nothing_leaves_before_a_permit() -> None:
    rig = Rig()
    submitted(rig, 3)
    assert rig.run(0, 1000, permits=False) == []
    assert rig.gate.verdict(1000 * MS) is Verdict.DOWN
    assert len(rig.run(1000, 1100)) == 3


def test_nothing_leaves_before_it_is_cosigned() -> None:
    rig = Rig()
    rig.peers[0].is_silent = True
    submitted(rig, 3)
    assert rig.run(0, 990) == []
    assert rig.gate.verdict(985 * MS) is Verdict.UP
    # It asks once in a while, not at every step, for each time it stands still.
    assert len(rig.events("not cosigned")) == 1
    # Before a witness knows of the numbers, nothing is reserved that a restart would waste.
    assert rig.book.head.totals.wire_bits == 0
    rig.run(990, 990 + RETRY_MS)
    assert len(rig.events("not cosigned")) == 2
    rig.peers[0].is_silent = False
    assert len(rig.run(2 * RETRY_MS, 2 * RETRY_MS + 100)) == 3


def test_a_permit_runs_out_and_the_next_one_holds_again() -> None:
    rig = Rig()
    rig.run(0, 1000)  # the last permit came at 995 ms
    submitted(rig, 1)
    assert len(rig.run(1000, 1100, permits=False)) == 1
    assert rig.gate.verdict(1994 * MS) is Verdict.UP
    rig.run(1100, 1995, permits=False)
    sent = submitted(rig, 2)
    assert rig.run(1995, 4000, permits=False) == []
    assert rig.gate.verdict(1995 * MS) is Verdict.LAPSED
    assert rig.events("lapsed") == [{"count": 1}]
    assert [one.payload.value for one in rig.run(4000, 4100)] == sent
    rig.run(5200, 5300, permits=False)
    assert rig.events("lapsed") == [{"count": 1}, {"count": 2}]
    # A run with lapses is not tripped.
    assert rig.book.tripped is None


def test_outers_key_holds_nothing_up() -> None:
    rig = Rig()
    submitted(rig, 1)
    for now_ms in range(0, 500, 5):
        rig.tell(Control.GRANTS, 1000, 1000, now_ms=now_ms)
        rig.tell(Control.RESEND, 0, now_ms=now_ms)
        rig.gate.step(now_ms * MS)
    assert rig.sent == []
    assert rig.gate.verdict(500 * MS) is Verdict.DOWN


def test_a_lease_that_is_asked_for_is_there_in_the_same_step() -> None:
    """A frame that had to wait a step for each of numbers, lease and building would miss edges."""
    rig = Rig()
    rig.tell(Control.PERMIT, now_ms=0)
    submitted(rig, 1)
    rig.gate.step(0)
    assert rig.cosigned.wire[CONTROL] == rig.rules.lease_bits
    assert rig.sent == []
    rig.gate.step(10 * MS)
    assert len(rig.sent) == 1


def test_a_clock_before_its_start_ends_it() -> None:
    with pytest.raises(ClockError):
        Rig().gate.step(-1)


def test_a_clock_that_was_set_back_ends_it() -> None:
    """A permit would hold longer than it says."""
    rig = Rig()
    rig.run(0, 100)
    rig.gate.step(95 * MS)
    with pytest.raises(ClockError, match="set back by 1 ns") as caught:
        rig.gate.step(95 * MS - 1)
    assert caught.value.remedy


# Trips.


@pytest.mark.parametrize("reason", TripReason)
def test_reconcile_trips_it_for_good(reason: TripReason) -> None:
    rig = Rig()
    rig.run(0, 100)
    submitted(rig, 5)
    with pytest.raises(TrippedError, match=f"reconcile: {reason.name.lower()}") as caught:
        rig.tell(Control.TRIP, int(reason))
    assert caught.value.remedy
    assert rig.book.tripped is not None
    assert rig.book.tripped.reason == f"reconcile: {reason.name.lower()}"
    # The witness knows of it too, so no older copy of the ledger can be used instead.
    assert rig.peers[0].size == rig.book.head.entry_count
    # Were its process to go on all the same, nothing would leave.
    assert rig.run(100, 2000) == []
    assert rig.gate.verdict(2000 * MS) is Verdict.TRIPPED
    assert isinstance(rig.book.reserve([Reservation(CONTROL, 1, 1)])[0], BudgetError)


def test_a_tripped_ledger_starts_no_gate_until_people_have_signed() -> None:
    rig = Rig()
    with pytest.raises(TrippedError):
        rig.tell(Control.TRIP, int(TripReason.DROPS))
    entries = len(rig.book.rows)
    for _ in range(2):
        with pytest.raises(TrippedError, match="the link is tripped: reconcile: drops") as caught:
            rig.start()
        assert "bitweir gate" in caught.value.remedy
    assert len(rig.book.rows) == entries
    rig.book.reset()
    rig.start()
    sent = submitted(rig, 2)
    rig.run(0, 100)
    assert values(rig) == sent


def test_a_trip_counts_though_no_witness_answers() -> None:
    rig = Rig()
    rig.run(0, 100)
    rig.peers[0].is_silent = True
    with pytest.raises(TrippedError):
        rig.tell(Control.TRIP, int(TripReason.MISMATCH))
    assert rig.book.tripped is not None
    (said,) = rig.events("trip not cosigned")
    assert "does not answer" in str(said["reason"])
    assert rig.run(100, 1000) == []


def test_leases_that_come_with_the_cosigned_trip_are_not_given_out() -> None:
    rig = Rig()
    rig.run(0, 100)
    rig.peers[0].is_silent = True
    submitted(rig, 3)
    rig.run(100, 200)
    assert rig.book.head.totals.wire[CONTROL] == rig.rules.lease_bits
    rig.peers[0].is_silent = False
    with pytest.raises(TrippedError):
        rig.tell(Control.TRIP, int(TripReason.MISMATCH))
    assert rig.run(200, 1500) == []


def test_an_old_copy_of_the_ledger_trips_it() -> None:
    rig = Rig()
    rig.run(0, 100)
    old = rig.book.copied()
    sent = submitted(rig, 2)
    rig.run(100, 200)
    rig.book = old
    rig.start()
    submitted(rig, 2)
    with pytest.raises(TrippedError, match="witness: "):
        rig.run(200, 300)
    assert values(rig) == sent
    assert rig.book.tripped is not None
    assert rig.book.tripped.reason.startswith("witness: ")
    assert rig.events("trip not cosigned")
    with pytest.raises(TrippedError):
        rig.start()


def test_a_ledger_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.run(0, 100)
    submitted(rig, 2)

    def failed(*_: object) -> None:
        raise LedgerError("a commit failed", remedy="look")

    for name in ("reserve", "trip", "record_loss", "event"):
        monkeypatch.setattr(rig.book, name, failed)
    with pytest.raises(LedgerError):
        rig.run(100, 200)
    for call in (lambda: rig.gate.trip("test"), rig.gate.stop):
        with pytest.raises(LedgerError):
            call()
    # The trip took the link down before it asked the ledger.
    assert rig.gate.verdict(100 * MS) is Verdict.TRIPPED
    assert rig.sent == []


# Numbers.


def test_numbers_never_repeat_over_starts() -> None:
    rig = Rig()
    for number in range(12):
        submitted(rig, 2)
        rig.run(100 * number, 100 * number + (15 if number % 3 else 100))
        rig.start()
    sequences = [one.sequence for one in rig.frames]
    assert len(sequences) > 12
    assert len(set(sequences)) == len(sequences)
    assert sequences == sorted(sequences)
    assert rig.events("started")[-1]["numbers_from"] == 12 * gates.NUMBERS_AT_ONCE


def test_it_asks_for_numbers_before_they_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "NUMBERS_AT_ONCE", 8)
    rig = Rig()
    sent = submitted(rig, 30)
    left = rig.run(0, 340)
    assert [one.sequence for one in left] == sent
    # Half of them were left when the next ones were asked for.
    given = rig.book.chain.numbers_end
    assert given == 8 * len(rig.book.notes(EntryKind.NUMBERS))
    assert 30 + 4 <= given <= 30 + 12


def test_it_stalls_rather_than_use_numbers_that_no_witness_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "NUMBERS_AT_ONCE", 8)
    rig = Rig()
    rig.run(0, 50)
    sent = submitted(rig, 30)
    rig.run(50, 60)  # it has a lease for more frames than numbers
    rig.peers[0].is_silent = True
    rig.run(60, 900)
    assert [one.sequence for one in rig.frames][-1] < 8
    assert rig.cosigned.wire[CONTROL] > 8 * SMALL_BITS
    stalled = len(rig.sent)
    rig.peers[0].is_silent = False
    rig.run(900, 2500)
    assert stalled < len(rig.sent)
    assert values(rig) == sent
    assert [one.sequence for one in rig.frames] == sent


def test_without_numbers_it_does_not_start() -> None:
    rig = Rig()
    rig.book.give_numbers(SEQUENCE_LIMIT - rig.book.chain.numbers_end - gates.NUMBERS_AT_ONCE)
    assert rig.start()
    with pytest.raises(LedgerError, match="numbers up to"):
        rig.start()


# A witness that is away.


def test_what_was_cosigned_may_be_spent_and_nothing_more_and_nothing_is_lost() -> None:
    rig = Rig()
    sent = submitted(rig, 100)
    rig.run(0, 50)
    rig.peers[0].is_silent = True
    rig.run(50, 1500)
    leased = rig.rules.lease_bits // SMALL_BITS
    assert 4 < len(rig.sent) <= leased
    reserved = rig.book.head.totals.wire[CONTROL]
    assert reserved == 2 * rig.rules.lease_bits
    rig.run(1500, 4000)
    assert len(rig.sent) <= leased
    # Waiting costs nothing: it is reserved once, however often a witness is asked.
    assert rig.book.head.totals.wire[CONTROL] == reserved
    assert len(rig.events("not cosigned")) >= 3
    rig.peers[0].is_silent = False
    rig.run(4000, 6500)
    assert values(rig) == sent
    assert rig.book.tripped is None


def test_one_of_three_witnesses_may_be_away_where_two_are_enough() -> None:
    rig = Rig(gate_policy(2, 3), witness_count=3)
    rig.peers[0].is_silent = True
    sent = submitted(rig, 60)
    rig.run(0, 1000)
    assert values(rig) == sent
    assert rig.events("not cosigned") == []
    rig.peers[0].is_silent, rig.peers[1].is_silent = False, True
    submitted(rig, 60)
    rig.run(1000, 2000)
    assert values(rig) == sent * 2


def test_permits_that_were_held_back_hold_nothing_up() -> None:
    rig = Rig()
    sent = submitted(rig, 10)
    hoard = [rig.message(Control.PERMIT) for _ in range(10)]
    hoarded_ns = rig.realtime_ns
    for number, permit in enumerate(hoard):
        rig.gate.control(permit, number * MS, hoarded_ns + gates.PERMIT_AGE_NS_MAX + 1)
    rig.run(20, 1000, permits=False)
    assert rig.sent == []
    assert "old" in str(rig.events("control ignored")[0])
    rig.run(1000, 2000)
    assert values(rig) == sent


# Grants.


def model(rig: Rig, count: int) -> Status:
    return rig.submit(Payload(0, count), MODEL)


def test_model_output_needs_grants() -> None:
    rig = Rig()
    assert model(rig, 1) is Status.REFUSED
    rig.tell(Control.GRANTS, 10, 10)
    assert model(rig, 240) is Status.TAKEN
    assert model(rig, 1) is Status.REFUSED


def test_grants_are_sums() -> None:
    rig = Rig()
    rig.tell(Control.GRANTS, 10, 10)
    # The one of 12 got lost, the one of 20 came three times.
    for _ in range(3):
        rig.tell(Control.GRANTS, 20, 20)
    assert model(rig, 20 * 24 + 1) is Status.REFUSED
    assert model(rig, 20 * 24) is Status.TAKEN
    assert model(rig, 1) is Status.REFUSED


def test_the_first_sum_after_a_start_counts_for_what_is_outstanding() -> None:
    rig = Rig()
    rig.tell(Control.GRANTS, 1000, 1000)
    rig.start()
    rig.tell(Control.GRANTS, 1000, 3)
    assert model(rig, 73) is Status.REFUSED
    assert model(rig, 72) is Status.TAKEN
    # From then on only what is new counts, whatever is outstanding.
    rig.tell(Control.GRANTS, 1001, 1001)
    assert model(rig, 25) is Status.REFUSED
    assert model(rig, 24) is Status.TAKEN


def test_repeated_old_and_smaller_sums_grant_nothing() -> None:
    rig = Rig()
    early, late = rig.message(Control.GRANTS, 5, 5), rig.message(Control.GRANTS, 9, 4)
    rig.gate.control(late, 0, rig.realtime_ns)
    for content in (early, late, late):
        rig.gate.control(content, 0, rig.realtime_ns)
    rig.tell(Control.GRANTS, 2, 2)
    rig.tell(Control.GRANTS, 9, 9)
    assert model(rig, 4 * 24 + 1) is Status.REFUSED
    assert model(rig, 4 * 24) is Status.TAKEN
    assert rig.events("control ignored")[-1]["count"] == 2
    rig.tell(Control.GRANTS, 10, 10)
    assert model(rig, 24) is Status.TAKEN


def test_the_largest_sums_are_no_error() -> None:
    rig = Rig()
    most = (1 << 62) - 1
    rig.tell(Control.GRANTS, 0, 0)
    rig.tell(Control.GRANTS, most, most)
    assert model(rig, 8191) is Status.TAKEN
    rig.tell(Control.RESEND, most)
    assert len(rig.run(0, 100)) == 1
