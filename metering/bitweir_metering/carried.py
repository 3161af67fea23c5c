"""What reconciliation remembers over its own restart, so that no meter looks like zero. Pure but for `load`, `keep`.

    file    canonical JSON: the link's frames and bytes at the last moment when all meters agreed, what each meter said
            then, and the trip, if there was one

Rules:
1. A meter that counts on says what passed meanwhile: now minus then. Meters that count on must agree on that exactly.
2. A meter below what it said then has begun anew: it has nothing to say about what passed. If all have, nobody knows,
   and people must say what the link had sent. So must they where there is no file: a missing one is not a new link.
3. A trip stays one until people say what the link had sent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bitweir_metering import documents
from bitweir_metering.errors import MeterError, MeteringError
from bitweir_metering.meters.reading import Reading
from bitweir_metering.units import amount

CARRIED_BYTES_MAX: Final = 16 * 1024
_FORMAT: Final = "bitweir-carried 1"
_REMEDY: Final = "compare the meters; then start it with --carried FRAMES BYTES"
_FIELDS: Final = frozenset({"format", "frames", "l2_bytes", "meters", "trip"})


@dataclass(frozen=True)
class Carried:
    """The link at a moment when its meters agreed.

    Args:
        frames: that it had sent.
        l2_bytes: their bytes.
        meters: what each meter said then, frames and bytes; empty where people said what the link had sent.
        trip: why it was tripped; empty if it was not.

    Raises:
        UnitError: a number is no amount.
    """

    frames: int = 0
    l2_bytes: int = 0
    meters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    trip: str = ""

    def __post_init__(self) -> None:
        for number in (self.frames, self.l2_bytes, *(one for pair in self.meters.values() for one in pair)):
            amount(number, "a count")

    def resumed(self, readings: Mapping[str, Reading]) -> tuple[int, int] | None:
        """Return what the link has sent by now, frames and bytes; None if meters that count on do not agree.

        Raises:
            MeterError: none counts on.
        """
        if not self.meters:
            return self.frames, self.l2_bytes
        found = {
            (reading.frames - then[0], reading.l2_bytes - then[1])
            for name, reading in readings.items()
            if (then := self.meters.get(name)) and reading.frames >= then[0] and reading.l2_bytes >= then[1]
        }
        if not found:
            raise MeterError("all meters have begun anew: nobody knows what passed meanwhile", remedy=_REMEDY)
        if len(found) > 1:
            return None
        frames, l2_bytes = found.pop()
        return self.frames + frames, self.l2_bytes + l2_bytes

    def to_json(self) -> bytes:
        """Return the one form; `parse` reads it."""
        document = {"format": _FORMAT, "frames": self.frames, "l2_bytes": self.l2_bytes, "trip": self.trip}
        meters = {name: list(pair) for name, pair in self.meters.items()}
        return json.dumps(document | {"meters": meters}, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse(content: bytes) -> Carried:
    """Return what `to_json` wrote; any other bytes are refused.

    Raises:
        MeterError: damaged, too long, or out of range.
    """
    try:
        document = documents.json_table(content, CARRIED_BYTES_MAX)
        documents.check_fields(document, _FIELDS, "the file")
        meters = documents.table(document["meters"], "meters")
        pairs = {name: tuple(pair) for name, pair in meters.items() if isinstance(pair, list)}
        if set(pairs) != set(meters) or any(len(pair) != 2 for pair in pairs.values()):
            raise MeterError("a meter without two counts", remedy=_REMEDY)
        found = Carried(document["frames"], document["l2_bytes"], pairs, document["trip"])
    except MeteringError as error:
        raise MeterError(f"nothing that was carried over: {error}", remedy=_REMEDY) from error
    if type(found.trip) is not str or found.to_json() != content:
        raise MeterError("what was carried over is damaged", remedy=_REMEDY)
    return found


def load(path: Path) -> Carried:
    """Return what a file holds.

    Raises:
        MeterError: there is none, or see `parse`.
    """
    try:
        content = documents.read_content(path, CARRIED_BYTES_MAX)
    except MeteringError as error:
        raise MeterError(f"nothing was carried over: {error}", remedy="for a new link: --carried 0 0") from error
    return parse(content)


def keep(path: Path, carried: Carried) -> None:
    """Replace the file in one step. It is not synced: after a power cut all meters have begun anew anyway.

    Raises:
        MeterError: it cannot be written.
    """
    try:
        documents.write_whole(path, carried.to_json())
    except MeteringError as error:
        raise MeterError(str(error), remedy="name a file in a folder of its own") from error
