"""Laws of budgets and buckets, against brute force: the window law, monotone totals, never over a limit."""

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitweir_metering.budget import Bucket, Budget, Totals
from bitweir_metering.errors import BudgetError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import FRAME_BITS_MAX
from tests.unit.metering.example_policy import policy

NS_PER_S = 10**9
# Steps of the clock, back as well as forward, each with how many bits somebody then wants.
STEPS = st.lists(st.tuples(st.integers(-(10**9), 3 * 10**9) | st.integers(-3, 3), st.integers(0, 3000)), max_size=60)
RATES = st.integers(1, 2000) | st.sampled_from([1, 3, 7, 999_999_937, 10**11])
BURSTS = st.integers(1, 3000)


class FractionBucket:
    """The same bucket in rational bits, written from the law and not from the code."""

    def __init__(self, rate_bits_per_s: int, burst_bits: int) -> None:
        self.rate, self.burst = Fraction(rate_bits_per_s, NS_PER_S), Fraction(burst_bits)
        self.level, self.seen = Fraction(0), []

    def take(self, bits: int, now_ns: int) -> bool:
        if self.seen and now_ns > max(self.seen):
            self.level = min(self.burst, self.level + self.rate * (now_ns - max(self.seen)))
        self.seen.append(now_ns)
        granted = self.level >= bits
        self.level -= bits if granted else 0
        return granted


@settings(max_examples=400)
@given(RATES, BURSTS, STEPS)
@example(999_999_937, 3000, [(1, 1)] * 60)
def test_in_any_window_a_bucket_lets_at_most_rate_times_window_plus_burst_through(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket, oracle = Bucket(rate, burst), FractionBucket(rate, burst)
    now_ns = latest_ns = start_ns = 10**12
    bucket.take(0, now_ns)
    oracle.take(0, now_ns)
    taken: list[tuple[int, int]] = []
    for step_ns, bits in steps:
        now_ns = max(0, now_ns + step_ns)
        latest_ns = max(latest_ns, now_ns)
        granted = bucket.take(bits, now_ns)
        assert granted == oracle.take(bits, now_ns)
        if granted:
            taken.append((latest_ns, bits))
    for first in range(len(taken)):
        window_bits = 0
        for time_ns, bits in taken[first:]:
            window_bits += bits
            window_ns = time_ns - taken[first][0]
            assert window_bits * NS_PER_S <= rate * window_ns + burst * NS_PER_S
    # From the start on there is no burst to begin with.
    total_bits = 0
    for time_ns, bits in taken:
        total_bits += bits
        assert total_bits * NS_PER_S <= rate * (time_ns - start_ns)


@given(RATES, BURSTS, st.lists(st.integers(0, 10**9), max_size=30), st.integers(0, 10**12))
def test_looking_more_often_does_not_change_what_is_there(rate: int, burst: int, looks: list[int], end_ns: int) -> None:
    often, once = Bucket(rate, burst), Bucket(rate, burst)
    often.take(0, 0)
    once.take(0, 0)
    for now_ns in sorted(min(look, end_ns) for look in looks):
        often.take(0, now_ns)
    there = min(burst, rate * end_ns // NS_PER_S)
    assert not often.take(there + 1, end_ns)
    assert often.take(there, end_ns)
    assert once.take(there, end_ns)


CHARGES = st.lists(
    st.tuples(st.sampled_from(TrafficClass), st.integers(0, 60_000), st.integers(0, 60_000)), max_size=60
)
LIMITS = st.integers(FRAME_BITS_MAX, 100_000)
CLASS_LIMITS = st.integers(600, 100_000)


@given(LIMITS, st.lists(CLASS_LIMITS, min_size=5, max_size=5), CHARGES)
def test_totals_only_grow_and_no_limit_is_passed(
    limit: int, class_limits: list[int], charges: list[tuple[TrafficClass, int, int]]
) -> None:
    class_limits = [min(limit, bits) for bits in class_limits]
    rules = policy(limit_bits=limit, class_limits=dict(zip(TrafficClass, class_limits, strict=True)), lease_bits=limit)
    budget = Budget(rules, Totals())
    wire, information = [0] * 5, [0] * 5
    for kind, wire_bits, information_bits in charges:
        before = budget.totals
        fits = sum(wire) + wire_bits <= limit and wire[kind] + wire_bits <= class_limits[kind]
        assert (budget.refusal(kind, wire_bits) == "") == fits
        assert budget.totals is before
        try:
            budget.add(kind, wire_bits, information_bits)
        except BudgetError:
            assert not fits or information_bits > wire_bits
            assert budget.totals is before
        else:
            assert fits
            wire[kind] += wire_bits
            information[kind] += information_bits
        assert budget.totals == Totals(tuple(wire), tuple(information))
        assert budget.totals.holds(before)
        assert budget.totals.information_bits <= budget.totals.wire_bits <= limit
        assert budget.remaining_bits == limit - sum(wire)
        assert all(budget.totals.wire[other] <= rules.class_limits[other] for other in TrafficClass)
