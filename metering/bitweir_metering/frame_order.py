"""Frames put back in order by their sequence numbers; what is missing is asked for, and given up at last. Sans-I/O.

Rules:
1. Each sequence number is given out once, in order, with none left out; what is late or repeated is dropped.
2. A missing frame is asked for a moment after a later one came, since datagrams overtake each other, and then after
   a second, two, four, ...: each time the gate sends it is charged.
3. A gap that stays, or is wider than the gate would fill, raises: nothing goes on behind a gap.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from bitweir_metering.errors import TunnelError
from bitweir_metering.units import NS_PER_S

# Frames held behind a gap; the gate keeps as many requests to send again.
GAP_MAX: Final = 256
_REMEDY: Final = "open the connection again; look at the loss of the link and at resends_max"
T = TypeVar("T")


@dataclass
class _Missing:
    since_ns: int
    ask_at_ns: int
    pause_ns: int = NS_PER_S


class FrameOrder(Generic[T]):
    """See the rules of this file.

    Args:
        next_sequence: the first number to give out.
        ask_ns: how long a missing frame is waited for before it is asked for.
        give_up_ns: how long in all.
    """

    def __init__(self, next_sequence: int, *, ask_ns: int, give_up_ns: int) -> None:
        self._next = next_sequence
        self._ask_ns = ask_ns
        self._give_up_ns = give_up_ns
        self._held: dict[int, T] = {}
        self._missing: dict[int, _Missing] = {}

    @property
    def next_sequence(self) -> int:
        """The number that is given out next."""
        return self._next

    @property
    def last_sequence(self) -> int:
        """The highest number that has come; one below the first to come before any has."""
        return max(self._held, default=self._next - 1)

    @property
    def is_missing(self) -> bool:
        """Whether frames are held behind a gap."""
        return bool(self._missing)

    def take(self, sequence: int, content: T, now_ns: int) -> list[T]:
        """Return what can be given out now that this frame came.

        Raises:
            TunnelError: too far ahead of what is missing.
        """
        if sequence < self._next or sequence in self._held:
            return []
        if sequence - self._next > GAP_MAX:
            raise TunnelError(f"{sequence - self._next} frames are missing", remedy=_REMEDY)
        for missing in range(self.last_sequence + 1, sequence):
            self._missing[missing] = _Missing(now_ns, now_ns + self._ask_ns)
        self._held[sequence] = content
        self._missing.pop(sequence, None)
        out = []
        while self._next in self._held:
            out.append(self._held.pop(self._next))
            self._next += 1
        return out

    def asks(self, now_ns: int) -> list[int]:
        """Return the numbers to ask the gate for now.

        Raises:
            TunnelError: one has been missing for too long.
        """
        due = []
        for sequence, one in self._missing.items():
            if now_ns - one.since_ns >= self._give_up_ns:
                raise TunnelError(f"frame {sequence} is lost", remedy=_REMEDY)
            if now_ns >= one.ask_at_ns:
                due.append(sequence)
                one.ask_at_ns = now_ns + one.pause_ns
                one.pause_ns *= 2
        return due
