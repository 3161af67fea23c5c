"""What crossed a lane, written down: enough to decode it again anywhere, with the weak model and nothing else.

lane.json: the weak model's fingerprint, the lane's specification, the grants that went down and the frames that came
up. It holds noise keys: it is a record for tests and reports, not something that leaves an inner site.

Reading one trusts nothing: sizes and types are checked first, and every number by the object it goes into.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitweir_compression.coder import MESSAGE_BITS_MAX, Bits
from bitweir_compression.errors import CompressionError
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.session.events import CodecName, Grant
from bitweir_compression.session.lane import LaneSpec
from bitweir_services.errors import RecordError

FILE_NAME = "lane.json"
# A million tokens of prompts and frames take about 10 MB.
FILE_BYTES_MAX = 256 << 20
_SPEC_FIELDS = {"slot_count", "end", "waiting_max", "steps_max", "frame_bits_max"}
_GRANT_FIELDS = {"prompt", "codec", "key", "temperature", "tokens_max", "candidate_count"}


@dataclass(frozen=True)
class LaneRecord:
    """One direction of one lane, from its first frame.

    Attributes:
        weak: fingerprint of the exact weak model.
        spec: what both ends were configured with.
        grants: in order; grant i is stream i.
        frames: payloads in order.
    """

    weak: str
    spec: LaneSpec
    grants: tuple[Grant, ...]
    frames: tuple[Bits, ...]

    def to_json(self) -> str:
        """Return the record as one JSON document."""
        grants = [
            {
                "prompt": list(grant.prompt),
                "codec": grant.codec.value,
                "key": grant.key.hex(),
                "temperature": [grant.temperature.numerator, grant.temperature.denominator],
                "tokens_max": grant.tokens_max,
                "candidate_count": grant.candidate_count,
            }
            for grant in self.grants
        ]
        frames = [[bits.count, f"{bits.value:x}"] for bits in self.frames]
        document = {"weak": self.weak, "spec": asdict(self.spec), "grants": grants, "frames": frames}
        return json.dumps(document) + "\n"


def read(path: Path) -> LaneRecord:
    """Read a record, or the one in a folder.

    Raises:
        RecordError: there is none, or it is not sound.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", remedy="name a run folder or a lane.json") from error
    if len(content) > FILE_BYTES_MAX:
        raise RecordError(f"{path} is over {FILE_BYTES_MAX} bytes", remedy="this is no record of a lane")
    return parse(content)


def parse(content: bytes) -> LaneRecord:
    """Return the record a JSON document holds.

    Raises:
        RecordError: it holds none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}", remedy="name a run folder or a lane.json") from error
    try:
        _keys(document, {"weak", "spec", "grants", "frames"})
        _keys(document["spec"], _SPEC_FIELDS)
        spec = LaneSpec(**{name: _whole(document["spec"][name]) for name in _SPEC_FIELDS})
        grants = tuple(_grant(row) for row in _list(document["grants"]))
        frames = tuple(_frame(row) for row in _list(document["frames"]))
        return LaneRecord(_text(document["weak"]), spec, grants, frames)
    except CompressionError as error:
        raise RecordError(f"not a record of a lane: {error}", remedy=error.remedy) from error


def _grant(row: Any) -> Grant:
    _keys(row, _GRANT_FIELDS)
    terms = [_whole(term) for term in _list(row["temperature"])]
    try:
        key, codec = bytes.fromhex(_text(row["key"])), CodecName(_text(row["codec"]))
    except ValueError as error:
        raise RecordError(f"not a record of a lane: {error}", remedy="name an unaltered file") from error
    if len(terms) != 2:
        raise RecordError("not a record of a lane: a temperature has two terms", remedy="name an unaltered file")
    return Grant(
        tuple(_whole(token) for token in _list(row["prompt"])),
        codec,
        key,
        Temperature(*terms),
        _whole(row["tokens_max"]),
        _whole(row["candidate_count"]),
    )


def _frame(row: Any) -> Bits:
    row = _list(row)
    if len(row) != 2 or len(_text(row[1])) > MESSAGE_BITS_MAX // 4:
        raise RecordError("not a record of a lane: a frame is [bits, hexadecimal]", remedy="name an unaltered file")
    try:
        return Bits(int(row[1], 16), _whole(row[0]))
    except ValueError as error:
        raise RecordError(f"not a record of a lane: {error}", remedy="name an unaltered file") from error


def _keys(value: Any, expected: set[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != expected:
        raise RecordError(f"not a record of a lane: expected {sorted(expected)}", remedy="name an unaltered file")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"not a record of a lane: {value!r:.40} is no list", remedy="name an unaltered file")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise RecordError(f"not a record of a lane: {value!r:.40} is no integer", remedy="name an unaltered file")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RecordError(f"not a record of a lane: {value!r:.40} is no text", remedy="name an unaltered file")
    return value
