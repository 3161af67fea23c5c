"""A status for tests: a sound one, changed where a test says so."""

from typing import Any

from bitweir_metering.budget import Totals
from bitweir_metering.reconcile import Verdict
from bitweir_metering.status import MeterStatus, PolicyFacts, Status
from tests.unit.metering.example_policy import policy

NS_PER_S = 10**9
WRITTEN_NS = 1_790_000_000 * NS_PER_S
METERS = ("application", "cable", "nft", "tap")


def status(**changes: Any) -> Status:
    """Return what was written while all was well, with other fields where they are given."""
    fields: dict[str, Any] = {
        "lineage": "example",
        "link": "inner-outer",
        "written_ns": WRITTEN_NS,
        "policy": PolicyFacts.of(policy()),
        "meters": {name: MeterStatus(10, 630, 0, 63, 2 * 10**7) for name in METERS},
        "reserved": Totals((800_000, 80_000, 0, 0, 600), (400_000, 40_004, 0, 0, 600)),
        "verdict": Verdict.PERMIT,
        "reason": "",
        "mismatch_bytes": 0,
        "last_success_ns": WRITTEN_NS - 1,
        "permit_count": 100,
        "trip_count": 0,
        "lapse_count": 2,
        "witness_lag_entries": 3,
        "crash_loss_bits": 4_000,
        "slot_lateness_ns": 1_500_000,
    }
    return Status(**fields | changes)


def unknown(**changes: Any) -> Status:
    """Return what is written when nobody else answers: no totals, no readings, no success yet."""
    silent = {"meters": dict.fromkeys(METERS), "reserved": None, "verdict": Verdict.WAIT, "reason": "no reading of tap"}
    optional = ("last_success_ns", "lapse_count", "witness_lag_entries", "crash_loss_bits", "slot_lateness_ns")
    return status(**silent | dict.fromkeys(optional) | changes)
