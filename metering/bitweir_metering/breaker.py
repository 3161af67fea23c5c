"""Whether the link is up. Down unless a permit says otherwise; once tripped, down until people reset it. Pure.

    closed (down) --permit--> up --permit runs out--> lapsed (down) --permit--> up
    any state --trip--> tripped (down, latched) --signed reset--> closed

Rules:
1. There is no state in which a missing message keeps the link up, and no switch that does.
2. A lapse is counted and the run stays valid; a trip makes it invalid.
3. The first reason of a trip is kept; later ones do not replace it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What the breaker says of this moment."""

    UP = "up"
    DOWN = "down"
    """No permit yet."""
    LAPSED = "lapsed"
    """The permit ran out."""
    TRIPPED = "tripped"


@dataclass
class Breaker:
    """See the rules of this file.

    Attributes:
        lapse_count: permits that ran out while the link was up.
        trip_reason: why it tripped; empty where it did not.
    """

    lapse_count: int = 0
    trip_reason: str = ""
    _until_ns: int | None = None
    _is_lapsed: bool = False

    def permit(self, until_ns: int) -> None:
        """Hold the link up until a time; a permit never shortens another."""
        self._until_ns = max(until_ns, self._until_ns or until_ns)
        self._is_lapsed = False

    def trip(self, reason: str) -> None:
        """Take the link down for good."""
        self.trip_reason = self.trip_reason or reason or "no reason given"

    def reset(self) -> None:
        """Forget the trip, after people have signed for it; the link stays down until the next permit."""
        self.trip_reason = ""
        self._until_ns = None
        self._is_lapsed = False

    def verdict(self, now_ns: int) -> Verdict:
        """Return whether a frame may leave now, and count a lapse when it is first seen."""
        if self.trip_reason:
            return Verdict.TRIPPED
        if self._until_ns is None:
            return Verdict.DOWN
        if now_ns < self._until_ns:
            return Verdict.UP
        if not self._is_lapsed:
            self._is_lapsed = True
            self.lapse_count += 1
        return Verdict.LAPSED
