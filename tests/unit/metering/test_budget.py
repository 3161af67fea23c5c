"""What fits and what does not: limits, sub-caps, totals, and a bucket that a clock cannot fill."""

import pytest

from bitweir_metering.budget import Bucket, Budget, Totals
from bitweir_metering.errors import BudgetError, UnitError
from bitweir_metering.frame import TrafficClass
from tests.unit.metering.example_policy import policy

LIMIT_BITS = 8 * 10**9
CONTROL_BITS = 4 * 10**8
NOT_AMOUNTS = [True, -1, 1.0, float("nan"), "1", None, 1 << 62]
NO_CLASS = [0, 5, "model", None]


def totals(*wire: int) -> Totals:
    return Totals((*wire, *(0,) * (5 - len(wire))))


def test_nothing_is_charged_at_first() -> None:
    budget = Budget(policy(), Totals())
    assert budget.totals == Totals((0,) * 5, (0,) * 5)
    assert (budget.totals.wire_bits, budget.totals.information_bits) == (0, 0)
    assert budget.remaining_bits == LIMIT_BITS


def test_charges_add_up_by_class() -> None:
    budget = Budget(policy(), Totals())
    budget.add(TrafficClass.MODEL, 100, 60)
    budget.add(TrafficClass.MODEL, 10, 10)
    budget.add(TrafficClass.TIMING, 7, 0)
    assert budget.totals == Totals((110, 0, 0, 0, 7), (70, 0, 0, 0, 0))
    assert (budget.totals.wire_bits, budget.totals.information_bits) == (117, 70)
    assert budget.remaining_bits == LIMIT_BITS - 117


def test_the_lifetime_limit_holds_to_the_bit() -> None:
    budget = Budget(policy(), totals(LIMIT_BITS - 50, 20))
    assert budget.remaining_bits == 30
    assert budget.refusal(TrafficClass.CONTROL, 30) == ""
    assert budget.refusal(TrafficClass.CONTROL, 31).startswith("the lifetime limit is 8000000000 bits, 7999999970 are")
    with pytest.raises(BudgetError, match="the lifetime limit") as caught:
        budget.add(TrafficClass.CONTROL, 31, 0)
    assert caught.value.remedy
    assert budget.totals == totals(LIMIT_BITS - 50, 20)
    budget.add(TrafficClass.CONTROL, 30, 0)
    assert budget.remaining_bits == 0
    assert budget.refusal(TrafficClass.CONTROL, 0) == ""
    assert budget.refusal(TrafficClass.CONTROL, 1)


def test_the_sub_cap_holds_to_the_bit() -> None:
    budget = Budget(policy(), totals(0, CONTROL_BITS - 5))
    assert budget.refusal(TrafficClass.CONTROL, 5) == ""
    refusal = f"the sub-cap of control is {CONTROL_BITS} bits, {CONTROL_BITS - 5} are charged, 6 more do not fit"
    assert budget.refusal(TrafficClass.CONTROL, 6) == refusal
    with pytest.raises(BudgetError, match="the sub-cap of control"):
        budget.add(TrafficClass.CONTROL, 6, 6)
    assert budget.totals == totals(0, CONTROL_BITS - 5)
    budget.add(TrafficClass.CONTROL, 5, 5)
    # Other classes go on; one with a sub-cap of 0 never starts.
    assert budget.refusal(TrafficClass.MODEL, 1000) == ""
    assert budget.refusal(TrafficClass.TUNNEL, 1)


def test_under_a_lower_limit_than_was_charged_nothing_fits() -> None:
    budget = Budget(policy(), totals(LIMIT_BITS + 1))
    assert budget.remaining_bits == 0
    assert budget.refusal(TrafficClass.CONTROL, 0)
    with pytest.raises(BudgetError):
        budget.add(TrafficClass.CONTROL, 0, 0)


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_charges_that_are_no_amounts(value: object) -> None:
    budget = Budget(policy(), totals(8))
    with pytest.raises(UnitError):
        budget.refusal(TrafficClass.MODEL, value)
    with pytest.raises(UnitError):
        budget.add(TrafficClass.MODEL, value, 0)
    with pytest.raises(UnitError):
        budget.add(TrafficClass.MODEL, 8, value)
    assert budget.totals == totals(8)
    for wire_bits, information_bits in ((value, 0), (8, value)):
        with pytest.raises(UnitError):
            Totals().plus(TrafficClass.MODEL, wire_bits, information_bits)


@pytest.mark.parametrize("kind", NO_CLASS, ids=repr)
def test_charges_of_no_class(kind: object) -> None:
    budget = Budget(policy(), Totals())
    for call in (
        lambda: budget.refusal(kind, 1),
        lambda: budget.add(kind, 1, 1),
        lambda: Totals().plus(kind, 1, 1),
    ):
        with pytest.raises(BudgetError, match="is no traffic class"):
            call()


def test_more_information_than_wire_bits() -> None:
    budget = Budget(policy(), totals(8))
    with pytest.raises(BudgetError, match="9 bits of information in 8"):
        budget.add(TrafficClass.MODEL, 8, 9)
    assert budget.totals == totals(8)
    budget.add(TrafficClass.MODEL, 8, 8)
    with pytest.raises(BudgetError, match="more information than wire bits"):
        Totals((1, 1, 0, 0, 0), (0, 2, 0, 0, 0))


@pytest.mark.parametrize("bits", [(0,) * 4, (0,) * 6, (), [0] * 5, None], ids=repr)
def test_totals_of_other_classes(bits: object) -> None:
    with pytest.raises(BudgetError, match="wire totals of other classes"):
        Totals(bits)
    with pytest.raises(BudgetError, match="information totals of other classes"):
        Totals((9,) * 5, bits)


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_totals_that_are_no_amounts(value: object) -> None:
    with pytest.raises(UnitError, match="the wire total of resend"):
        Totals((0, 0, value, 0, 0))
    with pytest.raises(UnitError, match="the information total of resend"):
        Totals((9, 9, 9, 9, 9), (0, 0, value, 0, 0))


def test_a_sum_that_fits_no_column() -> None:
    half = 1 << 61
    assert Totals((half - 1, half, 0, 0, 0)).wire_bits == (1 << 62) - 1
    with pytest.raises(UnitError, match="the wire total is"):
        Totals((half, half, 0, 0, 0))
    with pytest.raises(UnitError):
        Totals((half, half - 1, 0, 0, 0)).plus(TrafficClass.TIMING, 1, 0)


def test_totals_hold_earlier_ones() -> None:
    now = Totals((5, 5, 5, 5, 5), (3, 3, 3, 3, 3))
    assert now.holds(now)
    assert now.holds(Totals())
    assert not Totals().holds(now)
    for kind in TrafficClass:
        more = [5] * 5
        more[kind] = 6
        assert not now.holds(Totals(tuple(more), now.information))
        more = [3] * 5
        more[kind] = 4
        assert not now.holds(Totals(now.wire, tuple(more)))


def test_a_bucket_starts_empty_and_at_its_first_call() -> None:
    bucket = Bucket(1000, 500)
    assert not bucket.take(1, 10**15)
    assert bucket.take(0, 10**15)
    assert not bucket.take(1, 10**15 + 999_999)
    assert bucket.take(1, 10**15 + 1_000_000)
    assert not bucket.take(1, 10**15 + 1_000_000)
    # Not a billionth of a bit is there to begin with.
    nearly = Bucket(999_999_999, 500)
    nearly.take(0, 0)
    assert not nearly.take(1, 1)
    assert nearly.take(1, 2)


def test_a_bucket_holds_the_burst_and_no_more() -> None:
    bucket = Bucket(1000, 500)
    bucket.take(0, 0)
    assert not bucket.take(501, 10**18)
    assert bucket.take(500, 10**18)
    assert not bucket.take(1, 10**18)


def test_a_refused_take_takes_nothing() -> None:
    bucket = Bucket(1000, 500)
    bucket.take(0, 0)
    assert not bucket.take(301, 3 * 10**8)
    assert bucket.take(300, 3 * 10**8)


def test_a_clock_that_goes_back_adds_nothing() -> None:
    bucket = Bucket(1000, 500)
    bucket.take(0, 10**9)
    assert bucket.take(100, 11 * 10**8)
    for _ in range(100):
        assert not bucket.take(1, 0)
        assert not bucket.take(1, 11 * 10**8)
    assert not bucket.take(2, 11 * 10**8 + 10**6)
    assert bucket.take(1, 11 * 10**8 + 10**6)


def test_a_bucket_does_not_drift() -> None:
    # A third of a bit each step: rounding in either direction would show.
    bucket = Bucket(333_333_333, 10**6)
    bucket.take(0, 0)
    taken = sum(bucket.take(1, now_ns) for now_ns in range(1, 300_001))
    assert taken == 333_333_333 * 300_000 // 10**9


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_a_bucket_of_what_is_no_amount(value: object) -> None:
    for call in (lambda: Bucket(value, 1), lambda: Bucket(1, value)):
        with pytest.raises(UnitError):
            call()
    bucket = Bucket(1000, 500)
    bucket.take(0, 10**9)
    for call in (lambda: bucket.take(value, 2 * 10**9), lambda: bucket.take(1, value)):
        with pytest.raises(UnitError):
            call()
    with pytest.raises(UnitError):
        Bucket(1000, 500).take(0, value)
    # Nothing came in and nothing moved the clock.
    assert bucket.take(500, 15 * 10**8)


def test_a_bucket_of_nothing() -> None:
    for rate, burst in ((0, 1), (1, 0)):
        with pytest.raises(UnitError):
            Bucket(rate, burst)
