"""What reconciliation publishes about a link: one small file for displays and exporters. Pure but for `read`, `write`.

    reconciler.py --write--> STATUS file --read--> export.py

Rules:
1. The file is replaced in one step, after every judgement: who reads it sees a whole one, and its time of writing.
2. A status has one form, canonical JSON, and `parse` refuses every other text. Amounts are exact integers.
3. What nobody knows is None and is never replaced by 0: a silent witness has no totals.
4. Counts are of the link's whole life: what a meter has seen, and what the link had sent before that meter began.
5. It says nothing that who writes it did not see; it holds nothing up and takes nothing down.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bitweir_metering import documents
from bitweir_metering.budget import Totals
from bitweir_metering.errors import MeteringError, StatusError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import CLASS_NAMES, MODELS_MAX, Policy
from bitweir_metering.reconcile import Verdict
from bitweir_metering.units import amount, positive

STATUS_BYTES_MAX: Final = 64 * 1024  # 64 models, 16 meters and a reason take less than 24 KiB
METERS_MAX: Final = 16  # mechanisms that one link could have
NAME_CHARACTERS_MAX: Final = 64  # as in policy.py
REASON_CHARACTERS_MAX: Final = 1000  # all meters' counts in one line
_FORMAT: Final = "bitweir-status 1"
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
_REMEDY: Final = "look at who writes it: bitweir_metering.reconciler"


@dataclass(frozen=True)
class PolicyFacts:
    """What displays need of the policy in force.

    Args:
        serial: of the policy.
        limit_bits: wire bits that may ever leave.
        class_limits: likewise in each class.
        rate_bits_per_s: the cap.
        models: name -> bytes of its weights.

    Raises:
        StatusError: other classes, or no such models.
        UnitError: a number is no amount.
    """

    serial: int
    limit_bits: int
    class_limits: Mapping[TrafficClass, int]
    rate_bits_per_s: int
    models: Mapping[str, int]

    def __post_init__(self) -> None:
        for name in ("serial", "limit_bits", "rate_bits_per_s"):
            positive(getattr(self, name), name)
        if set(self.class_limits) != set(TrafficClass):
            raise StatusError("class limits of other classes", remedy="take them from the policy")
        for kind, bits in self.class_limits.items():
            amount(bits, f"class_limits.{CLASS_NAMES[kind]}")
        if not 1 <= len(self.models) <= MODELS_MAX:
            raise StatusError(f"{len(self.models)} models", remedy="take them from the policy")
        for name, weights_bytes in self.models.items():
            positive(weights_bytes, f"models.{_checked_name(name)}")
        object.__setattr__(self, "class_limits", MappingProxyType(dict(self.class_limits)))
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))

    @classmethod
    def of(cls, policy: Policy) -> "PolicyFacts":
        """Return the facts of a policy."""
        limits = policy.class_limits
        return cls(policy.serial, policy.limit_bits, limits, policy.rate_bits_per_s, policy.models)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the smallest model's weights: the first that would be out."""
        return min(self.models.values())


@dataclass(frozen=True)
class MeterStatus:
    """What one meter said last.

    Args:
        frames: packets since the link began: what it counted, and what the link had sent before it did.
        l2_bytes: their bytes on Ethernet, likewise.
        drops: packets it knows that it has missed.
        longest: bytes of the longest packet it saw; 0 where it cannot tell.
        age_ns: how long ago it looked, when the status was written.

    Raises:
        UnitError: a number is no amount.
    """

    frames: int
    l2_bytes: int
    drops: int
    longest: int
    age_ns: int

    def __post_init__(self) -> None:
        for name in ("frames", "l2_bytes", "drops", "longest", "age_ns"):
            amount(getattr(self, name), name)


@dataclass(frozen=True)
class Status:
    """What reconciliation knows about one link.

    Args:
        lineage: as in the policy.
        link: likewise.
        written_ns: CLOCK_REALTIME when this was written.
        policy: what it allows.
        meters: by name, every one that must answer; None for one that never has.
        reserved: bits reserved in each class, of the witness's last checkpoint; None if no witness answered now.
        verdict: of the last judgement.
        reason: why not PERMIT; empty for PERMIT. See `printable`.
        mismatch_bytes: the largest difference between two meters.
        last_success_ns: CLOCK_REALTIME of the last judgement that was PERMIT; None before the first.
        permit_count: permits sent since the writer's start.
        trip_count: trips found since the writer's start.
        lapse_count: permits that came too late, as far as the writer can tell; None if it cannot.
        witness_lag_entries: entries of the ledger that the witness has not signed; None if nobody says.
        crash_loss_bits: wire bits that crashes wasted; None if nobody says.
        slot_lateness_ns: how late after its edge a frame left, the worst since the last status; None if nobody says.

    Raises:
        StatusError: a name, the reason or the meters are none, or PERMIT and yet a reason.
        UnitError: a number is no amount.
    """

    lineage: str
    link: str
    written_ns: int
    policy: PolicyFacts
    meters: Mapping[str, MeterStatus | None]
    reserved: Totals | None
    verdict: Verdict
    reason: str
    mismatch_bytes: int
    last_success_ns: int | None
    permit_count: int
    trip_count: int
    lapse_count: int | None = None
    witness_lag_entries: int | None = None
    crash_loss_bits: int | None = None
    slot_lateness_ns: int | None = None

    def __post_init__(self) -> None:
        for name in (self.lineage, self.link, *self.meters):
            _checked_name(name)
        if not 1 <= len(self.meters) <= METERS_MAX:
            raise StatusError(f"{len(self.meters)} meters", remedy=f"1 to {METERS_MAX}")
        if not isinstance(self.verdict, Verdict) or not _is_reason(self.reason):
            raise StatusError(f"{self.verdict!r:.40} because of {self.reason!r:.40}", remedy="a Verdict and ASCII")
        if bool(self.reason) is (self.verdict is Verdict.PERMIT):
            raise StatusError(f"{self.verdict} because of {self.reason!r:.40}", remedy="a reason for all but permit")
        for name in ("written_ns", "mismatch_bytes", "permit_count", "trip_count"):
            amount(getattr(self, name), name)
        for name in _OPTIONAL:
            if getattr(self, name) is not None:
                amount(getattr(self, name), name)
        object.__setattr__(self, "meters", MappingProxyType(dict(self.meters)))

    def to_json(self) -> bytes:
        """Return the one form; `parse` reads it."""
        meters = {name: None if meter is None else asdict(meter) for name, meter in self.meters.items()}
        policy = {name: getattr(self.policy, name) for name in ("serial", "limit_bits", "rate_bits_per_s")}
        policy |= {"class_limits": _by_name(self.policy.class_limits), "models": dict(self.policy.models)}
        reserved = None
        if self.reserved is not None:
            reserved = {name: _by_name(dict(enumerate(getattr(self.reserved, name)))) for name in _TOTALS}
        document = {name: getattr(self, name) for name in (*_TEXTS, *_NUMBERS, *_OPTIONAL)}
        document |= {"format": _FORMAT, "meters": meters, "policy": policy, "reserved": reserved}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


_TEXTS: Final = ("lineage", "link", "verdict", "reason")
_NUMBERS: Final = ("written_ns", "mismatch_bytes", "permit_count", "trip_count")
_OPTIONAL: Final = ("last_success_ns", "lapse_count", "witness_lag_entries", "crash_loss_bits", "slot_lateness_ns")
_TOTALS: Final = ("wire", "information")
_FIELDS: Final = frozenset({*_TEXTS, *_NUMBERS, *_OPTIONAL, "format", "meters", "policy", "reserved"})
_POLICY_FIELDS: Final = frozenset({"serial", "limit_bits", "rate_bits_per_s", "class_limits", "models"})
_METER_FIELDS: Final = frozenset(MeterStatus.__dataclass_fields__)
_CLASS_FIELDS: Final = frozenset(CLASS_NAMES.values())


def parse(content: bytes) -> Status:
    """Return the status that `to_json` wrote; any other bytes are refused.

    Raises:
        StatusError: damaged, longer than 64 KiB, not of this version, or out of range.
    """
    try:
        status = _status_of(documents.json_table(content, STATUS_BYTES_MAX))
    except StatusError:
        raise
    except MeteringError as error:
        raise StatusError(f"no status: {error}", remedy=_REMEDY) from error
    if status.to_json() != content:
        raise StatusError("a status that is not in its canonical form", remedy=_REMEDY)
    return status


def read(path: Path) -> Status:
    """Return the status of a file.

    Raises:
        StatusError: it cannot be read, or see `parse`.
    """
    try:
        content = documents.read_content(path, STATUS_BYTES_MAX)
    except MeteringError as error:
        raise StatusError(str(error), remedy=_REMEDY) from error
    return parse(content)


def write(path: Path, status: Status) -> None:
    """Replace the file in one step, or leave it as it was. One writer; it is no evidence, so it is not synced.

    Raises:
        StatusError: it cannot be written.
    """
    try:
        documents.write_whole(path, status.to_json())
    except MeteringError as error:
        raise StatusError(str(error), remedy="name a file in a folder of the writer's own") from error


def printable(text: str) -> str:
    """Return the text as a reason may be: ASCII without control characters, cut to its limit."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(one if one.isprintable() else " " for one in escaped)[:REASON_CHARACTERS_MAX]


def _status_of(document: dict[str, Any]) -> Status:
    documents.check_fields(document, _FIELDS, "the status")
    if document["format"] != _FORMAT or document["verdict"] not in [verdict.value for verdict in Verdict]:
        raise StatusError("another format, or no verdict", remedy="run the same version on both sides")
    facts = documents.table(document["policy"], "policy")
    documents.check_fields(facts, _POLICY_FIELDS, "policy")
    policy = PolicyFacts(
        **{name: facts[name] for name in ("serial", "limit_bits", "rate_bits_per_s")},
        class_limits=_by_class(facts["class_limits"], "policy.class_limits"),
        models=documents.table(facts["models"], "policy.models"),
    )
    meters = documents.table(document["meters"], "meters")
    reserved = document["reserved"]
    return Status(
        **{name: document[name] for name in ("lineage", "link", "reason", *_NUMBERS, *_OPTIONAL)},
        verdict=Verdict(document["verdict"]),
        policy=policy,
        meters={name: None if value is None else _meter_of(value) for name, value in meters.items()},
        reserved=None if reserved is None else _totals_of(reserved),
    )


def _meter_of(value: object) -> MeterStatus:
    fields = documents.table(value, "a meter")
    documents.check_fields(fields, _METER_FIELDS, "a meter")
    return MeterStatus(**fields)


def _totals_of(value: object) -> Totals:
    fields = documents.table(value, "reserved")
    documents.check_fields(fields, frozenset(_TOTALS), "reserved")
    columns = [_by_class(fields[name], f"reserved.{name}") for name in _TOTALS]
    return Totals(*(tuple(column[kind] for kind in TrafficClass) for column in columns))


def _by_class(value: object, name: str) -> dict[TrafficClass, Any]:
    fields = documents.table(value, name)
    documents.check_fields(fields, _CLASS_FIELDS, name)
    return {kind: fields[CLASS_NAMES[kind]] for kind in TrafficClass}


def _by_name(amounts: Mapping[Any, int]) -> dict[str, int]:
    return {CLASS_NAMES[TrafficClass(kind)]: bits for kind, bits in amounts.items()}


def _checked_name(name: object) -> str:
    is_name = isinstance(name, str) and 1 <= len(name) <= NAME_CHARACTERS_MAX and set(name) <= _NAME_CHARACTERS
    if not is_name:
        raise StatusError(f"{name!r:.40} is no name", remedy="1 to 64 of a to z, 0 to 9, dot and hyphen")
    return str(name)


def _is_reason(text: object) -> bool:
    if not isinstance(text, str) or len(text) > REASON_CHARACTERS_MAX:
        return False
    return text.isascii() and (text.isprintable() or not text)
