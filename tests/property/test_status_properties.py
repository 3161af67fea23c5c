"""Laws of status files: what was written is read back, and what is read is written back to the byte."""

from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.budget import Totals
from bitweir_metering.errors import StatusError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.reconcile import Verdict
from bitweir_metering.status import MeterStatus, PolicyFacts, Status, parse, printable
from tests.unit.metering.example_status import status

AMOUNTS = st.integers(0, (1 << 62) - 1)
ABOVE_ZERO = st.integers(1, (1 << 62) - 1)
NAMES = st.text("abcxyz019.-", min_size=1, max_size=64)
METERS = st.none() | st.builds(MeterStatus, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
PARTS = st.lists(st.tuples(st.integers(0, 1 << 58), st.integers(0, 1 << 58)), min_size=5, max_size=5)
TOTALS = PARTS.map(lambda pairs: Totals(tuple(map(max, pairs)), tuple(map(min, pairs))))
FACTS = st.builds(
    PolicyFacts,
    serial=ABOVE_ZERO,
    limit_bits=ABOVE_ZERO,
    class_limits=st.fixed_dictionaries(dict.fromkeys(TrafficClass, AMOUNTS)),
    rate_bits_per_s=ABOVE_ZERO,
    models=st.dictionaries(NAMES, ABOVE_ZERO, min_size=1, max_size=4),
)
SAID = st.just((Verdict.PERMIT, "")) | st.tuples(
    st.sampled_from([Verdict.WAIT, Verdict.TRIP]), st.text(min_size=1, max_size=1200).map(printable)
)
KNOWN = dict.fromkeys(("written_ns", "mismatch_bytes", "permit_count", "trip_count"), AMOUNTS)
OPTIONAL = dict.fromkeys(
    ("last_success_ns", "lapse_count", "witness_lag_entries", "crash_loss_bits", "slot_lateness_ns"),
    st.none() | AMOUNTS,
)
STATUSES = st.builds(
    lambda said, **fields: Status(verdict=said[0], reason=said[1], **fields),
    said=SAID,
    lineage=NAMES,
    link=NAMES,
    policy=FACTS,
    meters=st.dictionaries(NAMES, METERS, min_size=1, max_size=5),
    reserved=st.none() | TOTALS,
    **KNOWN,
    **OPTIONAL,
)


@given(STATUSES)
def test_what_was_written_is_read_back(found: Status) -> None:
    assert parse(found.to_json()) == found


@given(st.integers(0), st.binary(max_size=3), st.integers(0, 3))
def test_changed_bytes_are_refused_or_another_status(place: int, planted: bytes, removed: int) -> None:
    content = status().to_json()
    place %= len(content)
    changed = content[:place] + planted + content[place + removed :]
    try:
        found = parse(changed)
    except StatusError:
        return
    assert found.to_json() == changed
    assert (found == status()) is (changed == content)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_no_other_error_leaves_the_parser(content: bytes) -> None:
    try:
        parse(content)
    except StatusError:
        return
    raise AssertionError(content)
