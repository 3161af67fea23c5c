"""Status files: what can be in one, one form for each, and nothing else read as one."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import status as statuses
from bitweir_metering.errors import MeteringError, StatusError, UnitError
from bitweir_metering.reconcile import Verdict
from bitweir_metering.status import MeterStatus, PolicyFacts, Status, parse
from tests.unit.metering.example_policy import policy
from tests.unit.metering.example_status import METERS, status, unknown

NOT_AMOUNTS = [True, -1, 1.0, float("nan"), "1", 1 << 62]
NUMBERS = ["written_ns", "mismatch_bytes", "permit_count", "trip_count"]
OPTIONAL = ["last_success_ns", "lapse_count", "witness_lag_entries", "crash_loss_bits", "slot_lateness_ns"]


def document() -> dict[str, Any]:
    return json.loads(status().to_json())


def text_of(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("found", [status(), unknown()], ids=["all known", "nothing known"])
def test_a_status_is_read_back(found: Status) -> None:
    content = found.to_json()
    assert parse(content) == found
    assert content.isascii()
    assert b"\n" not in content
    assert text_of(json.loads(content)) == content


@pytest.mark.parametrize("name", [*NUMBERS, *OPTIONAL])
@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_a_number_that_is_no_amount(name: str, value: object) -> None:
    with pytest.raises(UnitError, match=f"^{name} is "):
        status(**{name: value})
    with pytest.raises(StatusError):
        parse(text_of(document() | {name: value}))


@pytest.mark.parametrize("name", NUMBERS)
def test_what_must_be_known_is_not_none(name: str) -> None:
    with pytest.raises(UnitError):
        status(**{name: None})


@pytest.mark.parametrize("field", ["frames", "l2_bytes", "drops", "longest", "age_ns"])
@pytest.mark.parametrize("value", [None, *NOT_AMOUNTS], ids=repr)
def test_a_meter_that_says_no_amount(field: str, value: object) -> None:
    with pytest.raises(UnitError, match=f"^{field} is "):
        replace(MeterStatus(1, 63, 0, 63, 0), **{field: value})


@pytest.mark.parametrize("name", ["", "x" * 65, "Tap", "a b", "a_b", 'a"', "ä", 5, None], ids=repr)
def test_names(name: object) -> None:
    for changes in ({"lineage": name}, {"link": name}, {"meters": {name: None}}):
        with pytest.raises(StatusError, match="is no name"):
            status(**changes)
    with pytest.raises(StatusError, match="is no name"):
        replace(PolicyFacts.of(policy()), models={name: 1})


def test_how_many_meters_and_models_there_may_be() -> None:
    for count in (0, 17):
        with pytest.raises(StatusError, match=f"^{count} meters"):
            status(meters={f"m{number}": None for number in range(count)})
    for count in (0, 65):
        with pytest.raises(StatusError, match=f"^{count} models"):
            replace(PolicyFacts.of(policy()), models={f"m{number}": 1 for number in range(count)})


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict.PERMIT, "but"),
        (Verdict.WAIT, ""),
        (Verdict.TRIP, ""),
        (Verdict.WAIT, "x" * 1001),
        (Verdict.WAIT, "a\nb"),
        (Verdict.WAIT, "ä"),
        (Verdict.WAIT, None),
        ("wait", "because"),
    ],
)
def test_a_verdict_that_does_not_fit_its_reason(verdict: Any, reason: Any) -> None:
    with pytest.raises(StatusError, match="because of"):
        status(verdict=verdict, reason=reason)


@pytest.mark.parametrize("text", ["", "plain", "ä\n\x1b[31m", "x" * 5000, "\ud800"], ids=repr)
def test_any_text_can_be_made_a_reason(text: str) -> None:
    said = statuses.printable(text) or "nothing said"
    assert status(verdict=Verdict.WAIT, reason=said).reason == said


def test_policy_facts_are_those_of_the_policy() -> None:
    rules = policy(models={"large": 2 * 10**12, "small": 10**12})
    facts = PolicyFacts.of(rules)
    assert (facts.limit_bits, facts.rate_bits_per_s) == (rules.limit_bits, rules.rate_bits_per_s)
    assert (dict(facts.class_limits), facts.weights_bytes) == (dict(rules.class_limits), rules.weights_bytes)
    with pytest.raises(StatusError, match="other classes"):
        replace(facts, class_limits={})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"{" * 2000,
        b'{"a":1,"a":2}',
        b" " + status().to_json(),
        status().to_json() + b"\n",
        status().to_json()[:-1],
        b'{"x":"' + b"x" * statuses.STATUS_BYTES_MAX + b'"}',
    ],
    ids=lambda content: repr(content[:12]),
)
def test_bytes_that_are_no_status(content: bytes) -> None:
    with pytest.raises(StatusError):
        parse(content)


def test_every_field_must_be_there_and_no_other() -> None:
    for name in document():
        with pytest.raises(StatusError, match=f"lacks {name}"):
            parse(text_of({key: value for key, value in document().items() if key != name}))
    for place in ("policy", "reserved"):
        changed = document()
        changed[place]["more"] = 1
        with pytest.raises(StatusError, match="unknown field 'more'"):
            parse(text_of(changed))
    with pytest.raises(StatusError, match="unknown field 'more'"):
        parse(text_of(document() | {"more": 1}))


def test_no_leaf_can_be_of_another_type() -> None:
    def paths(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        deeper = value.items() if isinstance(value, dict) else ()
        return [path, *(found for key, inner in deeper for found in paths(inner, (*path, key)))]

    for path in paths(document())[1:]:
        for wrong in ([], {"x y": 1}, 1.5, "\u0000", True):
            changed = document()
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            with pytest.raises(StatusError):
                parse(text_of(changed))


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(StatusError, match="cannot read"):
        statuses.read(path)
    for found in (status(), unknown()):
        statuses.write(path, found)
        assert statuses.read(path) == found
        assert [inner.name for inner in tmp_path.iterdir()] == ["status.json"]
    with pytest.raises(StatusError, match="cannot write"):
        statuses.write(tmp_path / "no" / "status.json", found)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StatusError) as raised:
        statuses.read(path)
    assert re.search("reconciler", raised.value.remedy)
    with pytest.raises(StatusError, match="is not a file"):
        statuses.read(tmp_path)


def test_the_largest_status_fits() -> None:
    most, amount = "x" * 62, (1 << 62) - 1
    facts = replace(PolicyFacts.of(policy()), models={f"{most}{number:02}": amount for number in range(64)})
    meters = {f"{most}{number:02}": MeterStatus(*[amount] * 5) for number in range(16)}
    found = status(policy=facts, meters=meters, verdict=Verdict.TRIP, reason='"' * 1000)
    assert parse(found.to_json()) == found
    assert len(found.to_json()) < 24_000 <= statuses.STATUS_BYTES_MAX


def test_all_meters_of_the_example_are_kept() -> None:
    assert set(parse(status().to_json()).meters) == set(METERS)
    assert issubclass(StatusError, MeteringError)
