"""Do the meters agree, and is everything they saw paid for? Pure. reconciler.py reads the meters and tells the gate.

    nft.bytes + 14 * nft.packets == tap == cable == 42 * datagrams + payload     frames and bytes, exactly
    8 * bytes <= durable reserved bits of all classes but timing

Rules:
1. No tolerance. Readings that differ may have been taken while a packet was under way: then there is no permit, and
   they are read again. Readings that have not been equal for `trip_ns` are a trip.
2. The wire is read first and the reservations after it: the other order gives false alarms.
3. A meter that is silent, blind or old means no permit. One that lost count, went back, or saw a packet longer than the
   link's longest is a trip.
4. Counts before the first complete set of readings are the meters' own past; the caller knows what the link had sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bitweir_metering.control import TripReason
from bitweir_metering.errors import MeterError
from bitweir_metering.meters.reading import Reading
from bitweir_metering.units import BITS_PER_BYTE, amount, positive


class Verdict(StrEnum):
    """What the gate is told."""

    PERMIT = "permit"
    """All equal and paid for."""
    WAIT = "wait"
    """Nothing: its permit runs out."""
    TRIP = "trip"
    """People must look."""


@dataclass(frozen=True)
class Judgement:
    """What one set of readings says.

    Args:
        verdict: what the gate is told.
        reason: why not PERMIT; empty for PERMIT.
        trip: what is said with TRIP.
        frames: since the link began, by the meter that saw most.
        l2_bytes: likewise.
        mismatch_bytes: the largest difference between two meters.
        reserved_bits: what the wire was compared with; None if nobody could tell.
    """

    verdict: Verdict
    reason: str
    trip: TripReason | None
    frames: int
    l2_bytes: int
    mismatch_bytes: int
    reserved_bits: int | None


class Reconciler:
    """See the rules of this file.

    Args:
        meters: their names, at least two.
        longest: bytes of the longest packet that the link has.
        stale_ns: a reading older than this is too old.
        trip_ns: how long readings may differ.
        carried_frames: what the link had sent before these meters began.
        carried_bytes: likewise.

    Raises:
        MeterError: fewer than two meters.
        UnitError: a number is no amount.
    """

    def __init__(
        self,
        meters: frozenset[str],
        *,
        longest: int,
        stale_ns: int,
        trip_ns: int,
        carried_frames: int = 0,
        carried_bytes: int = 0,
    ) -> None:
        if len(meters) < 2:
            raise MeterError(f"{len(meters)} meters agree with themselves", remedy="name two, by different mechanisms")
        self._meters = meters
        self._longest = positive(longest, "longest")
        self._stale_ns = positive(stale_ns, "stale_ns")
        self._trip_ns = positive(trip_ns, "trip_ns")
        self._carried = (amount(carried_frames, "carried_frames"), amount(carried_bytes, "carried_bytes"))
        self._first: dict[str, Reading] = {}
        self._last: dict[str, Reading] = {}
        self._differ_since_ns: int | None = None
        self._trip: tuple[TripReason, str] | None = None

    def judge(self, readings: Mapping[str, Reading], reserved_bits: int | None, now_ns: int) -> Judgement:
        """Judge one set of readings, latched after a trip.

        Args:
            readings: of the meters that answered, by name.
            reserved_bits: durable reservations of all classes but timing, read after them; None if nobody answered.
            now_ns: CLOCK_MONOTONIC, after the last reading.
        """
        missing = sorted(self._meters - set(readings))
        if not missing and not self._first:
            self._first = dict(readings)
        counts = {name: self._since_first(name, reading) for name, reading in readings.items() if name in self._first}
        frames, l2_bytes = (
            (max(column, default=0) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
        )
        mismatch_bytes = l2_bytes - min((found for _, found in counts.values()), default=0)
        frames, l2_bytes = frames + self._carried[0], l2_bytes + self._carried[1]
        self._look_for_trips(readings, l2_bytes, reserved_bits)
        reason = self._reason_to_wait(readings, missing, counts, reserved_bits, now_ns)
        self._last.update(readings)
        if self._trip:
            return Judgement(
                Verdict.TRIP, self._trip[1], self._trip[0], frames, l2_bytes, mismatch_bytes, reserved_bits
            )
        verdict = Verdict.WAIT if reason else Verdict.PERMIT
        return Judgement(verdict, reason, None, frames, l2_bytes, mismatch_bytes, reserved_bits)

    def _since_first(self, name: str, reading: Reading) -> tuple[int, int]:
        first = self._first[name]
        return reading.frames - first.frames, reading.l2_bytes - first.l2_bytes

    def _look_for_trips(self, readings: Mapping[str, Reading], l2_bytes: int, reserved_bits: int | None) -> None:
        for name, reading in sorted(readings.items()):
            last = self._last.get(name, self._first.get(name, reading))
            if reading.drops:
                self._set_trip(TripReason.DROPS, f"{name} missed {reading.drops} packets")
            if reading.longest > self._longest:
                self._set_trip(TripReason.LONG_FRAME, f"{name} saw a packet of {reading.longest} bytes")
            if reading.frames < last.frames or reading.l2_bytes < last.l2_bytes:
                self._set_trip(
                    TripReason.MISMATCH, f"{name} went back from {last.l2_bytes} to {reading.l2_bytes} bytes"
                )
        if reserved_bits is not None and self._first and BITS_PER_BYTE * l2_bytes > reserved_bits:
            self._set_trip(TripReason.UNRESERVED, f"{BITS_PER_BYTE * l2_bytes} bits of {reserved_bits} reserved")

    def _reason_to_wait(
        self,
        readings: Mapping[str, Reading],
        missing: list[str],
        counts: Mapping[str, tuple[int, int]],
        reserved_bits: int | None,
        now_ns: int,
    ) -> str:
        if missing:
            return f"no reading of {', '.join(missing)}"
        old = sorted(name for name, reading in readings.items() if now_ns - reading.time_ns > self._stale_ns)
        if old:
            return f"an old reading of {', '.join(old)}"
        if len(set(counts.values())) > 1:
            if self._differ_since_ns is None:
                self._differ_since_ns = now_ns
            text = ", ".join(
                f"{name} {frames} packets {found} bytes" for name, (frames, found) in sorted(counts.items())
            )
            if now_ns - self._differ_since_ns >= self._trip_ns:
                self._set_trip(TripReason.MISMATCH, f"meters disagree: {text}")
            return f"readings differ: {text}"
        self._differ_since_ns = None
        return "no answer about reservations" if reserved_bits is None else ""

    def _set_trip(self, reason: TripReason, text: str) -> None:
        self._trip = self._trip or (reason, text)
