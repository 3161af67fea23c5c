"""The alert rules, run by Prometheus's own promtool: quiet on a sound link, and each one fires in a case of its own."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house import tree

pytestmark = pytest.mark.system

RULES = tree.ROOT / "k8s/monitoring/alerts.yaml"
METERS = ("application", "tap")
CLASSES = ("model", "control", "resend", "tunnel", "timing")
HOUR = 240  # steps of 15 s
# Values as promtool writes them: start, step and count of further steps. The clock of a test starts at 0.
CLOCK = f"0+15x{9 * HOUR}"
LIMIT_BYTES = 10**9
# 20 bytes a second are 0.63 of what a year allows.
PACE = f"+300x{9 * HOUR}"
Series = dict[str, str]


def constant(value: float) -> str:
    return f"{value}x{9 * HOUR}"


def sound() -> Series:
    """Return the series of a link on which all is well: `name{labels}` -> values."""
    series = {
        "status_up": constant(1),
        "status_age_seconds": constant(0.1),
        "egress_limit_bytes": constant(LIMIT_BYTES),
        "egress_rate_limit_bytes_per_second": constant(125_000),
        "egress_weights_bytes": constant(1e12),
        "egress_reconcile_mismatch_bytes": constant(0),
        "egress_reconcile_last_success_timestamp_seconds": CLOCK,
        "egress_breaker_closed": constant(1),
        "egress_permits_total": CLOCK,
        "egress_trips_total": constant(0),
        "egress_lapses_total": constant(2),
        "egress_witness_lag_entries": constant(1),
        "egress_crash_loss_bytes_total": constant(1000),
    }
    for name in CLASSES:
        series[f"egress_class_limit_bytes:{name}"] = constant(LIMIT_BYTES)
        series[f"egress_reserved_bytes_total:{name}"] = f"100000{PACE}" if name == "model" else constant(100)
    series["egress_class_limit_bytes:tunnel"] = series["egress_reserved_bytes_total:tunnel"] = constant(0)
    for name in METERS:
        series[f"egress_wire_bytes_total:{name}"] = f"90000{PACE}"
        series[f"egress_longest_frame_bytes:{name}"] = constant(1079)
        series[f"egress_meter_drops_total:{name}"] = constant(0)
        series[f"egress_meter_heartbeat_timestamp_seconds:{name}"] = CLOCK
    return series


def selector(name: str) -> str:
    """Return `bitweir_NAME{labels}` of a key of `sound`."""
    metric, _, value = name.partition(":")
    label = "meter" if value in METERS else "class"
    return f'bitweir_{metric}{{link="one"{f",{label}={json.dumps(value)}" if value else ""}}}'


def firing(promtool: str, folder: Path, changes: dict[str, str | None], minutes: int) -> set[str]:
    """Return the alerts that fire, asked of promtool by expecting none: it names those that it got."""
    series = {name: values for name, values in (sound() | changes).items() if values is not None}
    case = {
        "interval": "15s",
        "input_series": [{"series": selector(name), "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"}) or vector(0)',
                "eval_time": f"{minutes}m",
                "exp_samples": [],
            }
        ],
    }
    file: dict[str, Any] = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [case]}
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(file))
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "got:" in said, said
    return set(re.findall(r'alertname=\\?"(\w+)', said.partition("got:")[2]))


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("Debian's prometheus, which brings promtool, is not installed")
    return found


def test_promtool_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("minutes", [2, 120, 500])
def test_a_sound_link_is_quiet(promtool: str, tmp_path: Path, minutes: int) -> None:
    assert firing(promtool, tmp_path, {}, minutes) == set()


def reserved(values: str) -> dict[str, str | None]:
    return {"egress_reserved_bytes_total:model": values}


TRIP = {"egress_trips_total": constant(1), "egress_breaker_closed": constant(0)}
SILENT = dict.fromkeys(sound())
CASES: list[tuple[str, dict[str, str | None], int]] = [
    ("Mismatch", {"egress_reconcile_mismatch_bytes": constant(1)}, 2),
    ("Mismatch", {"egress_wire_bytes_total:tap": f"90001{PACE}"}, 2),
    ("WireAboveReserved", {f"egress_wire_bytes_total:{name}": f"100301{PACE}" for name in METERS}, 2),
    ("MeterStale", {"egress_meter_heartbeat_timestamp_seconds:tap": f"-6+15x{HOUR}"}, 2),
    ("MeterStale", {"egress_meter_heartbeat_timestamp_seconds:tap": constant(0)}, 2),
    ("MeterDrops", {"egress_meter_drops_total:tap": constant(1)}, 2),
    ("LongFrame", {"egress_longest_frame_bytes:tap": constant(1080)}, 2),
    ("Tripped BreakerOpen", TRIP, 2),
    ("BreakerOpen", {"egress_breaker_closed": constant(0)}, 2),
    ("Lapses", {"egress_lapses_total": f"2+1x{HOUR}"}, 20),
    ("WitnessLag", {"egress_witness_lag_entries": constant(17)}, 2),
    ("CrashLoss", {"egress_crash_loss_bytes_total": f"1000x10 2000x{HOUR}"}, 10),
    # 533, 233 and 213 bytes a second: 16.8, 7.4 and 6.7 of the planned pace.
    ("BurnFast ExhaustionPredicted", reserved(f"100000+8000x{9 * HOUR}"), 90),
    ("BurnFast BurnSlow ExhaustionPredicted", reserved(f"100000+8000x{9 * HOUR}"), 400),
    ("BurnSlow", reserved(f"100000+3500x{9 * HOUR}"), 400),
    ("ExhaustionPredicted", reserved(f"490000000+3200x{9 * HOUR}"), 90),
    ("BudgetHalf", reserved(constant(5e8)), 2),
    ("BudgetHalf BudgetLow", reserved(constant(8e8)), 2),
    ("BudgetHalf BudgetLow BudgetNearlyGone ClassBudgetNearlyGone", reserved(constant(9.5e8)), 2),
    ("ClassBudgetNearlyGone", {"egress_class_limit_bytes:control": constant(105)}, 2),
    ("NonModelShare", {**reserved(constant(2e6)), "egress_reserved_bytes_total:control": constant(21_000)}, 20),
    ("RateNearCap", {"egress_rate_limit_bytes_per_second": constant(24)}, 20),
    ("Absent", SILENT, 2),
    ("LinkAbsent Absent", SILENT | {"status_up": "1x8"}, 10),
    ("StatusDown", SILENT | {"status_up": constant(0)}, 2),
    ("MetricsAbsent", {f"egress_reserved_bytes_total:{name}": None for name in CLASSES}, 2),
    ("MetricsAbsent", {f"egress_wire_bytes_total:{name}": None for name in METERS}, 2),
    ("MetricsAbsent", {"egress_reconcile_last_success_timestamp_seconds": None}, 2),
    ("MetricsAbsent", {"egress_breaker_closed": None}, 2),
]


@pytest.mark.parametrize(("alerts", "changes", "minutes"), CASES)
def test_what_fires(promtool: str, tmp_path: Path, alerts: str, changes: dict[str, str | None], minutes: int) -> None:
    assert firing(promtool, tmp_path, changes, minutes) == {f"Bitweir{name}" for name in alerts.split()}


def test_every_alert_has_a_case() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    named = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert named == {f"Bitweir{name}" for alerts, _, _ in CASES for name in alerts.split()}
