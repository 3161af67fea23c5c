"""What has been charged, what still fits, and how fast it may leave. Pure: no files, no clock.

Rules:
1. Totals only grow. Nothing that was charged is given back, by no call of this file.
2. The wire total of all classes stays within the policy's lifetime limit, that of each class within its sub-cap.
3. No charge holds more information than wire bits, so the limits hold for the information totals too.
4. In any window of w nanoseconds a bucket lets at most rate * w / 10**9 + burst bits through, exactly.
"""

from dataclasses import dataclass
from typing import Final

from bitweir_metering.errors import BudgetError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import CLASS_NAMES, Policy
from bitweir_metering.units import NS_PER_S, amount, positive

_NOTHING: Final = (0,) * len(TrafficClass)


@dataclass(frozen=True)
class Totals:
    """Bits charged since the lineage began: one amount for each `TrafficClass`, in its order.

    Args:
        wire: bits on the wire, headers included; for timing, the bits that release times can carry.
        information: the bits of these that an observer can read; never more than `wire` in any class.

    Raises:
        BudgetError: not one amount for each class, or more information than wire bits.
        UnitError: a number is no amount, or a sum is 2**62 or more.
    """

    wire: tuple[int, ...] = _NOTHING
    information: tuple[int, ...] = _NOTHING

    def __post_init__(self) -> None:
        for name, bits in (("wire", self.wire), ("information", self.information)):
            if type(bits) is not tuple or len(bits) != len(TrafficClass):
                raise BudgetError(f"{name} totals of other classes", remedy="give one number for each traffic class")
            for kind in TrafficClass:
                amount(bits[kind], f"the {name} total of {CLASS_NAMES[kind]}")
        amount(sum(self.wire), "the wire total")
        if any(known > sent for known, sent in zip(self.information, self.wire, strict=True)):
            raise BudgetError("more information than wire bits", remedy="a frame cannot say more than it holds")

    @property
    def wire_bits(self) -> int:
        """Bits on the wire, all classes: the headline number."""
        return sum(self.wire)

    @property
    def information_bits(self) -> int:
        """Bits an observer can read, all classes."""
        return sum(self.information)

    def plus(self, kind: TrafficClass, wire_bits: int, information_bits: int) -> "Totals":
        """Return the totals after one more charge.

        Raises:
            BudgetError: not a traffic class, or more information than wire bits.
            UnitError: a number is no amount, or a total would be 2**62 or more.
        """
        _checked(kind)
        if amount(information_bits, "information_bits") > amount(wire_bits, "wire_bits"):
            raise BudgetError(
                f"{information_bits} bits of information in {wire_bits} on the wire",
                remedy="a frame cannot say more than it holds",
            )
        wire, information = list(self.wire), list(self.information)
        wire[kind] += wire_bits
        information[kind] += information_bits
        return Totals(tuple(wire), tuple(information))

    def holds(self, earlier: "Totals") -> bool:
        """Return whether no total of these is below that of `earlier`."""
        pairs = zip(self.wire + self.information, earlier.wire + earlier.information, strict=True)
        return all(now >= before for now, before in pairs)


class Budget:
    """A policy's limits and what is charged against them.

    Args:
        policy: the limits.
        totals: what was charged before. They may lie above the limits of a newer policy; then nothing more fits.
    """

    def __init__(self, policy: Policy, totals: Totals) -> None:
        self._policy = policy
        self._totals = totals

    @property
    def totals(self) -> Totals:
        """What has been charged so far."""
        return self._totals

    @property
    def remaining_bits(self) -> int:
        """Wire bits that still fit the lifetime limit; a sub-cap may be nearer."""
        return max(0, self._policy.limit_bits - self._totals.wire_bits)

    def refusal(self, kind: TrafficClass, wire_bits: int) -> str:
        """Return why a charge does not fit; empty if it does.

        Raises:
            BudgetError: not a traffic class.
            UnitError: not an amount.
        """
        _checked(kind)
        amount(wire_bits, "wire_bits")
        limits = (
            ("the lifetime limit", self._totals.wire_bits, self._policy.limit_bits),
            (f"the sub-cap of {CLASS_NAMES[kind]}", self._totals.wire[kind], self._policy.class_limits[kind]),
        )
        for name, charged_bits, limit_bits in limits:
            if charged_bits + wire_bits > limit_bits:
                return f"{name} is {limit_bits} bits, {charged_bits} are charged, {wire_bits} more do not fit"
        return ""

    def add(self, kind: TrafficClass, wire_bits: int, information_bits: int) -> None:
        """Charge; all of it or, with an error, nothing.

        Raises:
            BudgetError: it does not fit, is not a traffic class, or holds more information than wire bits.
            UnitError: a number is no amount.
        """
        refusal = self.refusal(kind, wire_bits)
        if refusal:
            raise BudgetError(refusal, remedy="only a newer policy, signed by the signers of this one, raises a limit")
        self._totals = self._totals.plus(kind, wire_bits, information_bits)


class Bucket:
    """A token bucket in exact integers. It starts empty, so a restart buys nothing.

    Args:
        rate_bits_per_s: what flows in, above 0.
        burst_bits: what it holds at most, above 0.

    Raises:
        UnitError: a number is no amount above 0.
    """

    def __init__(self, rate_bits_per_s: int, burst_bits: int) -> None:
        self._rate_bits_per_s = positive(rate_bits_per_s, "rate_bits_per_s")
        # One bit is NS_PER_S of these, so that a nanosecond adds a whole number and nothing is ever rounded.
        self._full = positive(burst_bits, "burst_bits") * NS_PER_S
        self._level = 0
        self._latest_ns: int | None = None

    def take(self, bits: int, now_ns: int) -> bool:
        """Take the bits if they are there; all or nothing. More than the burst is never there.

        Args:
            bits: how many, from 0.
            now_ns: a monotonic clock. The first call starts the inflow; a clock that went back adds nothing until it
                is past the latest time seen.

        Raises:
            UnitError: a number is no amount.
        """
        wanted, now_ns = amount(bits, "bits") * NS_PER_S, amount(now_ns, "now_ns")
        latest_ns = now_ns if self._latest_ns is None else self._latest_ns
        elapsed_ns = max(0, now_ns - latest_ns)
        self._latest_ns = latest_ns + elapsed_ns
        self._level = min(self._full, self._level + elapsed_ns * self._rate_bits_per_s)
        if wanted > self._level:
            return False
        self._level -= wanted
        return True


def _checked(kind: TrafficClass) -> None:
    if not isinstance(kind, TrafficClass):
        raise BudgetError(f"{kind!r:.40} is no traffic class", remedy="use one of frame.TrafficClass")
