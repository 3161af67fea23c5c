"""The process around reconciliation: read, judge, tell, write down; and what a restart may and may not forget."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import carried, status
from bitweir_metering.budget import Totals
from bitweir_metering.carried import Carried
from bitweir_metering.control import Control, Message, TripReason
from bitweir_metering.errors import MeterError, StatusError
from bitweir_metering.meters.reading import Reading
from bitweir_metering.reconcile import Verdict
from bitweir_metering.reconciler import Clocks, Reconciliation, Rounds, reserved_bits
from tests.unit.metering.example_policy import policy

NAMES = ("cable", "nft", "tap")
POLICY = policy()
PERMIT_NS = POLICY.permit_ns
ENOUGH = Totals((10**6, 0, 0, 0, 7), (0, 0, 0, 0, 0))


class Bench:
    """Three meters that count what they are told, witnesses, and a gate that hears."""

    def __init__(self, folder: Path, before: Carried) -> None:
        self.folder = folder
        self.counts: dict[str, Any] = dict.fromkeys(NAMES, (0, 0))
        self.totals: Totals | None = ENOUGH
        self.now_ns = 10**9
        self.told: list[Message] = []
        self.reads: list[str] = []
        self.is_deaf = False
        self.on_sleep: Any = None
        self.restart(before)

    def restart(self, before: Carried | None = None) -> None:
        """As a new process."""
        bench = self

        class Counter:
            def __init__(self, name: str) -> None:
                self.name = name

            def read(self) -> Reading:
                bench.reads.append(self.name)
                found = bench.counts[self.name]
                if found is None:
                    raise MeterError("silent")
                return found if isinstance(found, Reading) else Reading(*found, 0, 63, bench.now_ns)

        def ask() -> Totals | None:
            bench.reads.append("witness")
            return bench.totals

        def tell(message: Message) -> None:
            if bench.is_deaf:
                raise OSError("unreachable")
            bench.told.append(message)

        def sleep(_: float) -> None:
            bench.now_ns += 2_000_000
            if bench.on_sleep:
                bench.on_sleep()

        known = before if before is not None else carried.load(self.folder / "state")
        self.reconciliation = Reconciliation(frozenset(NAMES), POLICY, known)
        self.rounds = Rounds(
            self.reconciliation, POLICY, meters={name: Counter(name) for name in NAMES}, totals=ask, tell=tell,
            status_path=self.folder / "status", state_path=self.folder / "state",
            clocks=Clocks(lambda: self.now_ns, lambda: 5 * 10**18 // 4 + self.now_ns, sleep),
        )  # fmt: skip

    def count(self, frames: int, names: tuple[str, ...] = NAMES) -> None:
        """So many frames of 63 bytes pass."""
        for name in names:
            before = self.counts[name]
            self.counts[name] = (before[0] + frames, before[1] + 63 * frames)

    def round(self, pass_ns: int = PERMIT_NS // 6) -> Verdict:
        """One more."""
        self.now_ns += pass_ns
        return self.rounds.once().verdict

    @property
    def kinds(self) -> list[Control]:
        """What the gate heard."""
        return [message.kind for message in self.told]

    @property
    def status(self) -> status.Status:
        """What displays see."""
        return status.read(self.folder / "status")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Carried())


def test_the_wire_is_read_first_and_the_witness_after_it(bench: Bench) -> None:
    assert bench.round() is Verdict.PERMIT
    assert bench.reads == [*NAMES, "witness"]


def test_equal_meters_are_a_permit_newer_than_the_last(bench: Bench) -> None:
    for _ in range(5):
        bench.count(3)
        assert bench.round(0) is Verdict.PERMIT
    assert bench.kinds == 5 * [Control.PERMIT]
    times = [message.time_ns for message in bench.told]
    assert times == sorted(set(times))
    found = bench.status
    assert found.meters["tap"] == status.MeterStatus(12, 756, 0, 63, 0)
    assert (found.verdict, found.permit_count, found.lapse_count, found.trip_count) == (Verdict.PERMIT, 5, 0, 0)
    assert found.reserved == ENOUGH


def test_timing_is_no_packets() -> None:
    assert reserved_bits(ENOUGH) == 10**6
    assert reserved_bits(None) is None


def test_packets_under_way_are_read_again_at_once(bench: Bench) -> None:
    bench.round()
    bench.count(2, ("cable", "tap"))
    bench.on_sleep = lambda: bench.counts.update(nft=bench.counts["tap"])
    assert bench.round() is Verdict.PERMIT


@pytest.mark.parametrize("name", NAMES)
def test_a_meter_that_falls_silent_is_no_permit_and_no_trip(bench: Bench, name: str) -> None:
    bench.round()
    bench.counts[name], kept = None, bench.counts[name]
    for _ in range(20):
        assert bench.round() is Verdict.WAIT
    assert bench.kinds == [Control.PERMIT]
    assert bench.status.reason == f"no reading of {name}"
    bench.counts[name] = kept
    assert bench.round() is Verdict.PERMIT
    assert bench.status.lapse_count == 1


def test_silent_witnesses_are_no_permit(bench: Bench) -> None:
    bench.totals = None
    assert bench.round() is Verdict.WAIT
    assert (bench.told, bench.status.reserved) == ([], None)


def test_a_trip_is_said_again_and_again(bench: Bench) -> None:
    bench.round()
    bench.count(5000)
    assert [bench.round() for _ in range(3)] == 3 * [Verdict.TRIP]
    assert bench.kinds[1:] == 3 * [Control.TRIP]
    assert bench.told[-1].first == TripReason.UNRESERVED
    assert bench.status.trip_count == 1


def test_a_gate_that_cannot_be_reached_is_told_in_the_next_round(bench: Bench) -> None:
    bench.is_deaf = True
    assert bench.round() is Verdict.PERMIT
    bench.is_deaf = False
    bench.round()
    assert bench.kinds == [Control.PERMIT]


def test_a_status_or_state_that_cannot_be_written_ends_it_before_the_gate_is_told(bench: Bench) -> None:
    (bench.folder / "state").mkdir()
    with pytest.raises(MeterError):
        bench.round()
    assert bench.told == []
    (bench.folder / "state").rmdir()
    (bench.folder / "status").mkdir()
    with pytest.raises(StatusError):
        bench.round()


# Over a restart.


def test_what_passed_while_nobody_looked_counts(bench: Bench) -> None:
    bench.count(10)
    bench.round()
    bench.count(4)
    bench.restart()
    assert bench.round() is Verdict.PERMIT
    assert bench.status.meters["tap"] == status.MeterStatus(4, 252, 0, 63, 0)
    bench.count(1)
    assert bench.round() is Verdict.PERMIT
    assert bench.reconciliation.carried.frames == 5


def test_a_meter_that_began_anew_is_not_zero(bench: Bench) -> None:
    bench.round()
    bench.count(10)
    bench.round()
    bench.count(4)
    bench.counts["tap"] = (0, 0)
    bench.restart()
    assert bench.round() is Verdict.PERMIT
    assert {one.frames for one in bench.status.meters.values() if one} == {14}
    bench.count(1)
    assert bench.round() is Verdict.PERMIT
    assert {one.l2_bytes for one in bench.status.meters.values() if one} == {15 * 63}


def test_a_meter_that_begins_anew_under_a_running_reconciler_trips(bench: Bench) -> None:
    bench.round()
    bench.count(10)
    bench.round()
    bench.counts["tap"] = (0, 0)
    assert bench.round() is Verdict.TRIP


def test_where_all_meters_began_anew_people_must_say_what_was_sent(bench: Bench) -> None:
    bench.round()
    bench.count(10)
    bench.round()
    bench.counts = dict.fromkeys(NAMES, (0, 0))
    bench.restart()
    with pytest.raises(MeterError, match="nobody knows") as caught:
        bench.round()
    assert "--carried" in caught.value.remedy
    bench.restart(Carried(10, 630))
    assert bench.round() is Verdict.PERMIT
    bench.totals = Totals((8 * 630 - 1, 0, 0, 0, 9), (0, 0, 0, 0, 0))
    assert bench.round() is Verdict.TRIP


def test_meters_that_disagree_about_the_time_between_trip_the_link(bench: Bench) -> None:
    bench.round()
    bench.count(3, ("tap", "nft"))
    bench.restart()
    assert bench.round() is Verdict.WAIT
    verdicts = [bench.round() for _ in range(8)]
    assert verdicts[-1] is Verdict.TRIP
    assert bench.told[-1].first == TripReason.MISMATCH
    # Equal or not: a trip is over when people say so.
    bench.counts["cable"] = bench.counts["tap"]
    bench.restart()
    assert bench.round() is Verdict.TRIP


def test_a_trip_outlives_a_restart(bench: Bench) -> None:
    bench.round()
    bench.counts["nft"] = Reading(0, 0, 1, 0, bench.now_ns + 10**9)
    assert bench.round() is Verdict.TRIP
    bench.counts["nft"] = (0, 0)
    bench.restart()
    assert bench.round() is Verdict.TRIP
    bench.restart(Carried())
    assert bench.round() is Verdict.PERMIT


def test_no_file_is_not_a_new_link(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="nothing was carried over") as caught:
        carried.load(tmp_path / "none")
    assert "--carried 0 0" in caught.value.remedy


names = st.text("abcdefgh", min_size=1, max_size=5)
amounts = st.integers(0, (1 << 62) - 1)


@given(st.builds(Carried, amounts, amounts, st.dictionaries(names, st.tuples(amounts, amounts)), st.text(max_size=20)))
def test_what_is_carried_has_one_form(one: Carried) -> None:
    assert carried.parse(one.to_json()) == one


@pytest.mark.parametrize(
    "change",
    [
        {"frames": -1}, {"frames": True}, {"l2_bytes": 1.5}, {"meters": []}, {"meters": {"tap": [1]}},
        {"meters": {"tap": 1}}, {"meters": {"tap": [1, "2"]}}, {"trip": 1}, {"format": "x"}, {"more": 1},
        {"trip": None},
    ],
)  # fmt: skip
def test_another_form_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(Carried(1, 63, {"tap": (1, 63)}).to_json()) | change
    content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MeterError):
        carried.parse(content)
    with pytest.raises(MeterError):
        carried.parse(Carried().to_json() + b" ")


def test_a_reading_of_the_past_is_kept_for_displays_and_shows_its_age(bench: Bench) -> None:
    bench.count(2)
    bench.round()
    bench.counts["tap"] = None
    bench.round(10**9)
    found = bench.status.meters["tap"]
    assert found is not None
    assert replace(found, age_ns=0) == status.MeterStatus(0, 0, 0, 63, 0)
    assert found.age_ns >= 10**9
