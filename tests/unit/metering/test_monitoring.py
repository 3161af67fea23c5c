"""Alert rules, dashboard and documents name only metrics and labels that are exported; a misspelt one is found."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bitweir_metering.export import AGE, METRICS, UP, Metric
from bitweir_metering.policy import CLASS_NAMES
from bitweir_metering.wire import PACKET_BYTES_MAX
from tests.house import tree
from tests.unit.metering import promql

FOLDER = "k8s/monitoring"
DOCUMENT = "docs/reference/metrics.md"
EXPORTED = (UP, AGE, *METRICS)
NAME = re.compile(r"\bbitweir_(?:egress|status)_\w+")
VARIABLE = re.compile(r'(?<==~)"\$link"')
# What METERING demands an alert for, and the alerts that answer.
ALERTS = {
    "any mismatch": ["Mismatch"],
    "wire above reserved": ["WireAboveReserved"],
    "stale meter": ["MeterStale"],
    "drops": ["MeterDrops"],
    "long frame": ["LongFrame"],
    "witness lag": ["WitnessLag"],
    "burn rate in several windows": ["BurnFast", "BurnSlow"],
    "predicted exhaustion": ["ExhaustionPredicted"],
    "50, 80 and 95 per cent": ["BudgetHalf", "BudgetLow", "BudgetNearlyGone", "ClassBudgetNearlyGone"],
    "non-model share": ["NonModelShare"],
    "absent metrics": ["Absent", "LinkAbsent", "StatusDown", "MetricsAbsent"],
    "breaker": ["BreakerOpen", "Tripped"],
    "lapses and losses": ["Lapses", "CrashLoss"],
    "rate": ["RateNearCap"],
}


@functools.cache
def rules() -> list[dict[str, Any]]:
    """Return all rules of alerts.yaml, in its order."""
    groups = yaml.safe_load(tree.text_of(f"{FOLDER}/alerts.yaml"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@functools.cache
def known() -> dict[str, frozenset[str]]:
    """Return name -> labels of everything exported or recorded; a record's labels are those it groups by."""
    labels = {metric.full_name: frozenset(metric.labels) for metric in EXPORTED}
    records = {rule["record"] for rule in rules() if "record" in rule}
    return labels | {name: frozenset({"link"} if name.startswith("link:") else ()) for name in records}


def board() -> dict[str, Any]:
    return json.loads(tree.text_of(f"{FOLDER}/dashboard.json"))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where, expression) of all rules, panels, annotations and variables."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", VARIABLE.sub('"one"', target["expr"])
    for note in board()["annotations"]["list"]:
        yield f"annotation {note['name']}", VARIABLE.sub('"one"', note["expr"])
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            yield f"variable {variable['name']}", f"max by ({label}) ({metric})"


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_expressions_name_what_is_exported(where: str, expression: str) -> None:
    assert promql.problems(expression, known()) == [], where
    assert promql.metrics_of(expression, known()) or expression.startswith("vector("), where


def test_everything_that_must_alarm_does() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert set(alerts) == {f"Bitweir{name}" for names in ALERTS.values() for name in names}
    for rule in alerts.values():
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in set().union(*(known()[name] for name in promql.metrics_of(rule["expr"], known())))


def test_every_metric_is_seen_by_somebody() -> None:
    used = set().union(*(promql.metrics_of(expression, known()) for _, expression in expressions()))
    assert set(known()) - used == {"bitweir_egress_permits_total", "bitweir_egress_wire_frames_total"}


def test_numbers_that_others_decide() -> None:
    (long_frame,) = (rule["expr"] for rule in rules() if rule.get("alert") == "BitweirLongFrame")
    assert long_frame.endswith(f"> {PACKET_BYTES_MAX}")
    assert frozenset(CLASS_NAMES.values()) == promql.CLASSES


# The reader of names can fail.

GOOD = 'max by (link) (rate(bitweir_egress_wire_bytes_total{meter="tap"}[5m])) > 0'


def test_a_sound_expression_has_no_problem() -> None:
    assert promql.problems(GOOD, known()) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("wire_bytes", "wire_byte", "bitweir_egress_wire_byte_total is no metric"),
        ("bitweir_egress", "bitwier_egress", "bitwier_egress_wire_bytes_total is no metric"),
        ("_total", "", "bitweir_egress_wire_bytes is no metric"),
        ("rate", "rat", "rat is no metric"),
        ("{meter", "{metre", "bitweir_egress_wire_bytes_total has no label metre"),
        ("{meter", "{class", "bitweir_egress_wire_bytes_total has no label class"),
        ("(link)", "(user)", "no metric here has a label user"),
        ("(link)", "(class)", "no metric here has a label class"),
        ("wire_bytes_total{meter=", "reserved_bytes_total{class=", "tap is no class"),
        ("5m]))", "5m])", "no ) at the end"),
        ("[5m]", "[5 minutes]", "cannot be read at"),
        ('"tap"', '"tap', "cannot be read at"),
        ("> 0", "> 0)", "a ) that nothing opened"),
        (GOOD, "", "cannot be read at"),
    ],
)
def test_a_misspelt_expression_is_found(old: str, new: str, found: str) -> None:
    assert old in GOOD
    said = promql.problems(GOOD.replace(old, new), known())
    assert [text for text in said if found in text], said


# The dashboard.


def test_the_dashboard_has_the_seven_rows_and_starts_with_the_big_numbers() -> None:
    titles = [panel["title"] for panel in board()["panels"] if panel["type"] == "row"]
    assert [title.partition(".")[0] for title in titles] == list("1234567")
    first = [panel for panel in panels() if panel["gridPos"]["y"] == 1]
    assert [panel["title"] for panel in first] == [
        "Lifetime budget used",
        "Weights uploaded, if all of it had been weights",
        "Days to upload the weights at the rate cap",
        "Breaker",
    ]
    for panel in first[1:3]:
        assert [target["legendFormat"] for target in panel["targets"]] == ["as stored", "16x smaller", "100x smaller"]


def test_the_big_numbers_show_this_moment_or_that_nobody_watches() -> None:
    for panel in panels():
        if panel["type"] in {"stat", "gauge", "bargauge"}:
            assert all(target["instant"] and not target["range"] for target in panel["targets"]), panel["title"]
            assert panel["options"]["reduceOptions"]["calcs"] == ["last"]
            assert panel["fieldConfig"]["defaults"]["noValue"] == "NOT WATCHED"


def test_panels_do_not_overlap() -> None:
    cells = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
    ids = [panel["id"] for panel in board()["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_kustomization_carries_both_files() -> None:
    made = yaml.safe_load(tree.text_of(f"{FOLDER}/kustomization.yaml"))["configMapGenerator"]
    assert [one["files"] for one in made] == [["alerts.yaml"], ["dashboard.json"]]


# The documents.


def row(metric: Metric) -> str:
    labels = ", ".join(metric.labels)
    return f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |"


def test_the_table_of_the_document_is_what_is_exported() -> None:
    lines = [line for line in tree.text_of(DOCUMENT).splitlines() if line.startswith("| `bitweir_")]
    assert lines == [row(metric) for metric in EXPORTED]


def test_the_table_of_alerts_is_what_the_rules_say() -> None:
    found = re.findall(r"^\| `(Bitweir\w+)` \| (\w+) \|", tree.text_of(DOCUMENT), re.MULTILINE)
    assert found == [(rule["alert"], rule["labels"]["severity"]) for rule in rules() if "alert" in rule]


def unknown_names(text: str) -> set[str]:
    """Return the metrics that a text names and nobody exports. A record's name holds one that is none."""
    for record in (name for name in known() if ":" in name):
        text = text.replace(record, "")
    return set(NAME.findall(text)) - set(known())


@pytest.mark.parametrize("path", [path for path in tree.all_files() if path.endswith(".md")])
def test_documents_name_what_is_exported(path: str) -> None:
    assert unknown_names(tree.text_of(path)) == set()


def test_a_misspelt_name_in_a_document_is_found() -> None:
    assert unknown_names("see `bitweir_egress_limit_byte`") == {"bitweir_egress_limit_byte"}
    assert unknown_names("see `bitweir_egress_limit_bytes`") == set()
