"""The exporter: what it shows of a status, and that it shows nothing of one that is not sound and fresh."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bitweir_metering import status as statuses
from bitweir_metering.budget import Totals
from bitweir_metering.carried import Carried
from bitweir_metering.export import AGE, METRICS, STALE_NS, UP, StatusCollector, main
from bitweir_metering.meters.reading import Reading
from bitweir_metering.reconcile import Verdict
from bitweir_metering.reconciler import Clocks, Reconciliation, Rounds
from bitweir_metering.status import MeterStatus, PolicyFacts, Status
from tests.unit.metering.example_policy import policy, toml
from tests.unit.metering.example_status import METERS, NS_PER_S, WRITTEN_NS, status, unknown

CLASSES = ["model", "control", "resend", "tunnel", "timing"]
Samples = dict[str, dict[tuple[str, ...], float]]


class Shown:
    """A collector, its file, its clock and what it said."""

    def __init__(self, folder: Path) -> None:
        self.path, self.now_ns, self.said = folder / "status.json", WRITTEN_NS, list[str]()
        self.registry = CollectorRegistry()
        self.registry.register(
            StatusCollector(self.path, policy(), clock=lambda: self.now_ns, say=self.said.append),
        )

    def samples(self, found: Status | None = None) -> Samples:
        """Return name -> labels after `link` -> value, as Prometheus reads them."""
        if found is not None:
            statuses.write(self.path, found)
        samples: Samples = {}
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for name, labels, value, *_ in family.samples:
                assert labels.pop("link") == "inner-outer"
                samples.setdefault(name, {})[tuple(labels.values())] = value
        return samples


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


def test_everything_a_status_knows(shown: Shown) -> None:
    found = shown.samples(status())
    assert set(found) == {metric.full_name for metric in (UP, AGE, *METRICS)}
    assert found["bitweir_status_up"] == {(): 1}
    assert found["bitweir_status_age_seconds"] == {(): 0}
    assert found["bitweir_egress_limit_bytes"] == {(): 10**9}
    assert found["bitweir_egress_class_limit_bytes"][("model",)] == 10**9
    assert found["bitweir_egress_rate_limit_bytes_per_second"] == {(): 125_000}
    assert found["bitweir_egress_weights_bytes"] == {(): 10**12}
    reserved = dict(zip(CLASSES, (100_000, 10_000, 0, 0, 75), strict=True))
    assert found["bitweir_egress_reserved_bytes_total"] == {(name,): count for name, count in reserved.items()}
    assert found["bitweir_egress_information_bytes_total"][("control",)] == 5000.5
    for name, value in {"wire_bytes_total": 630, "wire_frames_total": 10, "longest_frame_bytes": 63}.items():
        assert found[f"bitweir_egress_{name}"] == {(meter,): value for meter in METERS}
    assert found["bitweir_egress_meter_heartbeat_timestamp_seconds"][("tap",)] == pytest.approx(1_790_000_000 - 0.02)
    assert found["bitweir_egress_breaker_closed"] == {(): 1}
    assert found["bitweir_egress_permits_total"] == {(): 100}
    assert found["bitweir_egress_lapses_total"] == {(): 2}
    assert found["bitweir_egress_witness_lag_entries"] == {(): 3}
    assert found["bitweir_egress_crash_loss_bytes_total"] == {(): 500}
    assert found["bitweir_egress_slot_lateness_seconds"] == {(): 0.0015}
    assert shown.said == []


def test_what_is_not_known_has_no_sample_and_is_not_zero(shown: Shown) -> None:
    found = shown.samples(unknown())
    missing = {metric.full_name for metric in METRICS} - set(found)
    assert missing == {
        f"bitweir_egress_{name}"
        for name in (
            *("reserved_bytes_total", "information_bytes_total", "wire_bytes_total", "wire_frames_total"),
            *("longest_frame_bytes", "meter_drops_total", "reconcile_last_success_timestamp_seconds"),
            *("lapses_total", "witness_lag_entries", "crash_loss_bytes_total", "slot_lateness_seconds"),
        )
    }
    assert found["bitweir_egress_meter_heartbeat_timestamp_seconds"] == {(meter,): 0 for meter in METERS}
    assert found["bitweir_egress_breaker_closed"] == {(): 0}


def test_a_trip_is_shown(shown: Shown) -> None:
    meters = {"nft": MeterStatus(10, 630, 0, 0, 0), "tap": MeterStatus(9, 567, 1, 63, 0)}
    found = shown.samples(
        status(verdict=Verdict.TRIP, reason="tap missed 1 packets", meters=meters, mismatch_bytes=63, trip_count=1)
    )
    assert found["bitweir_egress_breaker_closed"] == {(): 0}
    assert found["bitweir_egress_trips_total"] == {(): 1}
    assert found["bitweir_egress_reconcile_mismatch_bytes"] == {(): 63}
    assert found["bitweir_egress_meter_drops_total"] == {("nft",): 0, ("tap",): 1}


@pytest.mark.parametrize("content", [None, b"", b"{}", status().to_json()[:-1], b"\xff" * 70_000], ids=repr)
def test_a_missing_or_damaged_file_shows_nothing(shown: Shown, content: bytes | None) -> None:
    if content is not None:
        shown.path.write_bytes(content)
    assert shown.samples() == {"bitweir_status_up": {(): 0}}
    assert shown.samples() == {"bitweir_status_up": {(): 0}}
    assert len(shown.said) == 1
    assert shown.samples(status())["bitweir_status_up"] == {(): 1}
    assert shown.said[1:] == [""]


@pytest.mark.parametrize("age_ns", [STALE_NS + 1, -STALE_NS - 1, 10**16])
def test_an_old_file_or_one_of_the_future_shows_only_its_age(shown: Shown, age_ns: int) -> None:
    shown.now_ns = WRITTEN_NS + age_ns
    age_s = pytest.approx(age_ns / NS_PER_S)
    assert shown.samples(status()) == {"bitweir_status_up": {(): 0}, "bitweir_status_age_seconds": {(): age_s}}
    shown.now_ns = WRITTEN_NS + STALE_NS
    assert len(shown.samples()) == len(METRICS) + 2


@pytest.mark.parametrize(
    "found",
    [
        status(link="another"),
        status(lineage="another"),
        status(policy=PolicyFacts.of(policy(limit_bits=10**10))),
        status(policy=PolicyFacts.of(policy(serial=2))),
    ],
    ids=["link", "lineage", "limit", "serial"],
)
def test_another_links_or_policys_file_shows_only_its_age(shown: Shown, found: Status) -> None:
    assert set(shown.samples(found)) == {"bitweir_status_up", "bitweir_status_age_seconds"}
    assert "another link or policy" in shown.said[0]


def test_amounts_are_exact_below_two_to_the_53(shown: Shown) -> None:
    bits = 2**53 - 1
    found = shown.samples(status(reserved=Totals((bits, 0, 0, 0, 0), (0,) * 5)))
    assert found["bitweir_egress_reserved_bytes_total"][("model",)] * 8 == bits


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert metric.labels in {("link",), ("link", "class"), ("link", "meter")}
        assert (metric.kind == "counter") is metric.full_name.endswith("_total")
        assert metric.full_name.startswith("bitweir_egress_")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_process_answers_over_http_until_it_is_told_to_end(tmp_path: Path) -> None:
    rules, path = tmp_path / "policy.toml", tmp_path / "status.json"
    rules.write_bytes(toml())
    words = [str(path), "--policy", str(rules), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "bitweir_metering.export", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
        assert said["event"] == "listens"
        address = f"http://127.0.0.1:{said['port']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b'bitweir_status_up{link="inner-outer"} 0.0' in answer.read()
        assert json.loads(process.stderr.readline())["event"] == "hidden"
        statuses.write(path, replace(status(), written_ns=time.time_ns()))
        with urllib.request.urlopen(address, timeout=10) as answer:
            content = answer.read()
        assert b'bitweir_egress_wire_bytes_total{link="inner-outer",meter="tap"} 630.0' in content
        assert b"python_info" not in content
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("listen", ["", "host", ":80", "host:", "host:x", "host:65536"])
def test_an_address_that_is_none(listen: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        main([str(tmp_path / "status"), "--policy", "p", "--listen", listen])
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("rules", "listen"), [(None, "127.0.0.1:0"), (toml(), "192.0.2.1:9")], ids=["policy", "address"]
)
def test_a_start_that_cannot_be(rules: bytes | None, listen: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    if rules is not None:
        path.write_bytes(rules)
    words = [str(tmp_path / "status"), "--policy", str(path), "--listen", listen]
    command = [sys.executable, "-m", "bitweir_metering.export", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert json.loads(ended.stderr)["remedy"]


def test_what_reconciliation_writes_is_shown_and_ends_when_it_ends(shown: Shown) -> None:
    counts, totals = {"application": 0, "tap": 0}, [Totals((8000, 0, 0, 0, 60), (4000, 0, 0, 0, 60))]

    class Counter:
        def __init__(self, name: str) -> None:
            self.name = name

        def read(self) -> Reading:
            return Reading(counts[self.name], 63 * counts[self.name], 0, 63, shown.now_ns)

    def clock() -> int:
        return shown.now_ns

    rounds = Rounds(
        Reconciliation(frozenset(counts), policy(), Carried(100, 100)),
        policy(),
        meters={name: Counter(name) for name in counts},
        totals=lambda: totals[0],
        tell=lambda message: None,
        status_path=shown.path,
        state_path=shown.path.with_name("state"),
        clocks=Clocks(clock, clock, lambda seconds: None),
    )
    rounds.once()
    counts.update(application=14, tap=14)
    rounds.once()
    found = shown.samples()
    assert found["bitweir_egress_breaker_closed"] == {(): 1}
    assert found["bitweir_egress_wire_bytes_total"] == {("application",): 982, ("tap",): 982}
    assert found["bitweir_egress_reserved_bytes_total"][("model",)] == 1000
    assert found["bitweir_egress_permits_total"] == {(): 2}
    counts["tap"] = counts["application"] = 15
    rounds.once()
    found = shown.samples()
    assert found["bitweir_egress_trips_total"] == {(): 1}
    assert found["bitweir_egress_wire_bytes_total"][("tap",)] > found["bitweir_egress_reserved_bytes_total"][("model",)]
    shown.now_ns += STALE_NS + 1
    assert set(shown.samples()) == {"bitweir_status_up", "bitweir_status_age_seconds"}
