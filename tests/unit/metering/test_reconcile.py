"""Reconciliation: equal and paid for, or no permit; never a tolerance."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.control import TripReason
from bitweir_metering.errors import MeterError
from bitweir_metering.meters.reading import Reading
from bitweir_metering.reconcile import Judgement, Reconciler, Verdict

NAMES = frozenset({"application", "cable", "nft", "tap"})
MS = 1_000_000
SECOND = 1000 * MS
LONGEST = 1079


def reconciler(**changes: int) -> Reconciler:
    return Reconciler(NAMES, **{"longest": LONGEST, "stale_ns": 500 * MS, "trip_ns": SECOND, **changes})


def equal(frames: int, now_ns: int, size: int = 63) -> dict[str, Reading]:
    return {name: Reading(frames, size * frames, 0, size if frames else 0, now_ns) for name in NAMES}


def changed(readings: dict[str, Reading], name: str, **changes: int) -> dict[str, Reading]:
    return readings | {name: replace(readings[name], **changes)}


def verdict(judgement: Judgement) -> tuple[Verdict, TripReason | None]:
    return judgement.verdict, judgement.trip


def test_equal_and_paid_for_is_a_permit() -> None:
    judge = reconciler().judge
    assert judge(equal(0, 0), 0, 0) == Judgement(Verdict.PERMIT, "", None, 0, 0, 0, 0)
    assert judge(equal(10, SECOND), 630 * 8, SECOND) == Judgement(Verdict.PERMIT, "", None, 10, 630, 0, 630 * 8)


def test_one_bit_that_is_not_reserved_trips() -> None:
    judge = reconciler().judge
    judge(equal(0, 0), 0, 0)
    found = judge(equal(10, SECOND), 630 * 8 - 1, SECOND)
    assert verdict(found) == (Verdict.TRIP, TripReason.UNRESERVED)
    assert "5040 bits of 5039 reserved" in found.reason


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize(("field", "amount"), [("frames", 1), ("l2_bytes", 1), ("frames", -1), ("l2_bytes", -1)])
def test_a_difference_of_one_is_no_permit_and_trips_after_a_second(name: str, field: str, amount: int) -> None:
    judge = reconciler().judge
    judge(equal(0, 0), 0, 0)
    for now_ns in range(SECOND, 2 * SECOND, 100 * MS):
        readings = equal(10, now_ns)
        found = judge(changed(readings, name, **{field: getattr(readings[name], field) + amount}), 10**6, now_ns)
        assert verdict(found) == (Verdict.WAIT, None)
        assert "readings differ" in found.reason
    readings = equal(10, 2 * SECOND)
    found = judge(changed(readings, name, **{field: getattr(readings[name], field) + amount}), 10**6, 2 * SECOND)
    assert verdict(found) == (Verdict.TRIP, TripReason.MISMATCH)
    assert f"{name} " in found.reason
    assert found.mismatch_bytes == (field == "l2_bytes")
    # Latched: what is equal later changes nothing.
    assert verdict(judge(equal(11, 3 * SECOND), 10**6, 3 * SECOND)) == (Verdict.TRIP, TripReason.MISMATCH)


def test_packets_under_way_are_waited_for() -> None:
    judge = reconciler().judge
    judge(equal(0, 0), 0, 0)
    for round_number in range(1, 30):
        now_ns = round_number * 200 * MS
        under_way = changed(equal(round_number, now_ns), "application", frames=round_number - 1)
        assert judge(under_way, 10**6, now_ns).verdict is Verdict.WAIT
        assert judge(equal(round_number, now_ns + MS), 10**6, now_ns + MS).verdict is Verdict.PERMIT


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_silent_or_old_meter_is_no_permit(name: str) -> None:
    judge = reconciler().judge
    silent = {other: reading for other, reading in equal(0, 0).items() if other != name}
    found = judge(silent, 10**6, 0)
    assert verdict(found) == (Verdict.WAIT, None)
    assert found.reason == f"no reading of {name}"
    assert judge(equal(5, 0), 10**6, 0).verdict is Verdict.PERMIT
    assert judge(changed(equal(5, SECOND), name, time_ns=500 * MS), 10**6, SECOND).verdict is Verdict.PERMIT
    found = judge(changed(equal(5, SECOND), name, time_ns=500 * MS - 1), 10**6, SECOND)
    assert (found.verdict, found.reason) == (Verdict.WAIT, f"an old reading of {name}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drops": 1}, TripReason.DROPS),
        ({"longest": LONGEST + 1}, TripReason.LONG_FRAME),
        ({"frames": 9}, TripReason.MISMATCH),
        ({"l2_bytes": 629}, TripReason.MISMATCH),
    ],
)
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_meter_that_lost_count_trips_at_once(name: str, changes: dict[str, int], reason: TripReason) -> None:
    judge = reconciler().judge
    judge(equal(0, 0), 10**6, 0)
    judge(equal(10, MS), 10**6, MS)
    assert verdict(judge(changed(equal(10, MS), name, **changes), 10**6, MS)) == (Verdict.TRIP, reason)


def test_nobody_who_knows_about_reservations_is_no_permit() -> None:
    found = reconciler().judge(equal(0, 0), None, 0)
    assert (found.verdict, found.reason, found.reserved_bits) == (Verdict.WAIT, "no answer about reservations", None)


def test_what_meters_counted_before_is_theirs_and_what_the_link_sent_before_counts() -> None:
    judge = reconciler(carried_frames=100, carried_bytes=10_000).judge
    past = {name: Reading(number, 100 * number, 0, 70, 0) for number, name in enumerate(sorted(NAMES), start=7)}
    found = judge(past, 80_000, 0)
    assert (found.verdict, found.frames, found.l2_bytes) == (Verdict.PERMIT, 100, 10_000)
    later = {name: replace(one, frames=one.frames + 2, l2_bytes=one.l2_bytes + 126) for name, one in past.items()}
    found = judge(later, 81_008, 0)
    assert (found.verdict, found.frames, found.l2_bytes) == (Verdict.PERMIT, 102, 10_126)
    assert verdict(judge(later, 81_007, 0)) == (Verdict.TRIP, TripReason.UNRESERVED)


def test_one_meter_is_none() -> None:
    with pytest.raises(MeterError, match="agree with themselves"):
        Reconciler(frozenset({"tap"}), longest=1, stale_ns=1, trip_ns=1)


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.integers(0, 3), st.integers(0, 200)), max_size=12))
def test_a_permit_is_only_ever_for_equal_counts_within_the_reservation(steps: list[tuple[str, int, int]]) -> None:
    """Any counts at all: a permit means that all four are equal and covered."""
    judge = reconciler().judge
    judge(equal(0, 0), 0, 0)
    counts = {name: [0, 0] for name in NAMES}
    for now_ns, (name, frames, size) in enumerate(steps, start=1):
        counts[name][0] += frames
        counts[name][1] += size
        readings = {one: Reading(found[0], found[1], 0, 0, now_ns) for one, found in counts.items()}
        found = judge(readings, 1600, now_ns)
        is_equal = len({tuple(one) for one in counts.values()}) == 1
        if found.verdict is Verdict.PERMIT:
            assert is_equal
            assert 8 * max(one[1] for one in counts.values()) <= 1600
