"""When frames may leave: only on the edges of a monotonic slot clock. Pure; and what release times can say, in bits.

A hostile inner side decides in which slots there is a frame, and may slow the gate down or make it lapse or trip. The
outcomes are coded, and charged as class TIMING, so that the code is uniquely decodable (docs/kraft.md):

    presence    a frame or none in each slot of an epoch, and the end of its list of events: N + 1 bits for N slots,
                paid before the epoch opens
    events      a start, a trip, a lapse, a missed edge: one more in the list, of which kind, at which slot
    jitter      a bit a frame for what its distance from the edge may say, an allowance and not a proof

A frame is built and stored before its edge and leaves within a share of a slot after it, else at a later edge. Edges
are multiples of the period on the clock, so a restart does not move them.
"""

from dataclasses import dataclass
from typing import Final

from bitweir_metering.errors import ClockError
from bitweir_metering.units import positive

# Start, trip, lapse, missed edge.
EVENT_KINDS: Final = 4
JITTER_BITS: Final = 1
# A frame that is not out within this share of a slot waits for the next edge.
TOLERANCE_SHARE: Final = 8


@dataclass(frozen=True)
class SlotClock:
    """Edges at start_ns + i * slot_ns, i >= 0, on a clock that never goes back.

    Raises:
        UnitError: the period is no whole number of nanoseconds above 0.
    """

    start_ns: int
    slot_ns: int

    def __post_init__(self) -> None:
        positive(self.slot_ns, "the slot period")

    def index(self, now_ns: int) -> int:
        """Return the last edge at or before a time.

        Raises:
            ClockError: the time is before the first edge: the clock was set back.
        """
        if now_ns < self.start_ns:
            raise ClockError(
                f"the clock stands {self.start_ns - now_ns} ns before its start", remedy="restart the gate"
            )
        return (now_ns - self.start_ns) // self.slot_ns

    def is_at_edge(self, now_ns: int) -> bool:
        """Return whether a time is near enough after the last edge for a frame to leave.

        Raises:
            ClockError: the time is before the first edge.
        """
        return now_ns - self.start_ns - self.index(now_ns) * self.slot_ns <= self.slot_ns // TOLERANCE_SHARE


def presence_bits(slot_count: int) -> int:
    """Return what an epoch of so many slots is charged when it opens."""
    return positive(slot_count, "slots") + 1


def event_bits(slot_count: int) -> int:
    """Return what one event in an epoch of so many slots is charged: that there is one, its kind, its slot."""
    return 1 + (EVENT_KINDS * positive(slot_count, "slots") - 1).bit_length()
