"""A record of a lane: reads back what was written, refuses everything else with one line, and decodes elsewhere."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.coder import Bits
from bitweir_compression.errors import CompressionError
from bitweir_compression.exact import format as exact_format
from bitweir_compression.exact.errors import FingerprintError
from bitweir_compression.exact.temperature import UNIT, Temperature
from bitweir_compression.session.errors import FrameError
from bitweir_compression.session.events import CodecName, Grant
from bitweir_compression.session.lane import LaneSpec
from bitweir_services import lane_record, transmission
from bitweir_services.errors import RecordError, RequestError
from bitweir_services.lane_record import LaneRecord

SPEC = LaneSpec(slot_count=3, end=0)
GRANT = Grant((1, 2, 3), CodecName.GUMBEL, bytes(range(32)), Temperature(7, 10), 20, 4)
RECORD = LaneRecord("f" * 64, SPEC, (GRANT,), (Bits(5, 4), Bits(0, 0)))

bits = st.integers(0, 200).flatmap(lambda n: st.builds(Bits, st.integers(0, (1 << n) - 1), st.just(n)))
grants = st.builds(
    Grant,
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=5).map(tuple),
    st.sampled_from(CodecName),
    st.binary(min_size=32, max_size=32),
    st.builds(Temperature, st.just(7), st.integers(1, 6)),
    st.integers(1, 1000),
    st.integers(1, 100),
)


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@given(st.lists(grants, max_size=4), st.lists(bits, max_size=4))
def test_a_record_reads_back(granted: list[Grant], frames: list[Bits]) -> None:
    record = LaneRecord("f" * 64, SPEC, tuple(granted), tuple(frames))
    assert lane_record.parse(record.to_json().encode()) == record


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        lane_record.parse(content)
    assert caught.value.remedy


WRONG = [None, True, 1.5, -1, "x", [], {}, [[]], 1 << 70, "0" * 400_000]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    "path",
    [
        ("weak",), ("spec",), ("grants",), ("frames",), ("spec", "slot_count"), ("spec", "end"),
        ("spec", "frame_bits_max"), ("grants", 0), ("frames", 0), ("frames", 0, 0), ("frames", 0, 1),
        *(("grants", 0, name) for name in ("prompt", "codec", "key", "temperature", "tokens_max", "candidate_count")),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_anywhere_is_refused(path: tuple, wrong: object) -> None:
    document = json.loads(RECORD.to_json())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    try:
        record = lane_record.parse(json.dumps(document).encode())
    except (RecordError, CompressionError) as error:
        assert error.remedy
    else:
        # What was taken is a record of another lane, not a changed reading of the same one.
        assert json.loads(record.to_json())[path[0]] == document[path[0]]


@pytest.mark.parametrize("name", ["weak", "spec", "grants", "frames"])
def test_a_missing_or_unknown_field_is_refused(name: str) -> None:
    document = json.loads(RECORD.to_json())
    with pytest.raises(RecordError):
        lane_record.parse(json.dumps({**document, "more": 1}).encode())
    del document[name]
    with pytest.raises(RecordError):
        lane_record.parse(json.dumps(document).encode())


def test_files_that_are_missing_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordError, match="cannot read"):
        lane_record.read(tmp_path)
    (tmp_path / "lane.json").write_text(RECORD.to_json())
    assert lane_record.read(tmp_path) == lane_record.read(tmp_path / "lane.json") == RECORD
    monkeypatch.setattr(lane_record, "FILE_BYTES_MAX", 20)
    with pytest.raises(RecordError, match="over 20 bytes"):
        lane_record.read(tmp_path)


@pytest.fixture(scope="module")
def weak(repository_root: Path) -> exact_format.ExactFile:
    return exact_format.read(repository_root / "tests" / "vectors" / "exact_plain_int16.safetensors")


@pytest.fixture(scope="module")
def sent(weak: exact_format.ExactFile) -> tuple[transmission.Transmission, list[list[int]]]:
    codecs = [CodecName.ARITHMETIC, CodecName.GUMBEL, CodecName.GREEDY, CodecName.GUMBEL]
    granted = [Grant((1, 2 + n), codec, bytes([n]) * 32, UNIT, 6) for n, codec in enumerate(codecs)]
    texts = [[5, 4, 3, 0], [9, 9, 9, 9, 9, 9], [1, 0], [2, 0]]
    return transmission.encode(weak, SPEC, granted, texts, steps=2, progress=silent), texts


def test_what_crossed_is_decoded_from_the_record_alone(weak, sent) -> None:
    crossed, texts = sent
    assert transmission.decode(weak, lane_record.parse(crossed.record.to_json().encode()), progress=silent) == texts


def test_the_sums_are_of_all_frames(sent) -> None:
    bits_by_part, symbols = sent[0].sums()
    assert symbols["check"] == len(sent[0].frames)
    assert bits_by_part["check"] == 12 * len(sent[0].frames)
    assert symbols["tokens"] == 4
    assert symbols["flags"] == 10


def test_another_weak_model_lost_frames_and_altered_frames_are_errors(weak, sent) -> None:
    record = sent[0].record
    with pytest.raises(FingerprintError):
        transmission.decode(weak, LaneRecord("0" * 64, SPEC, record.grants, record.frames), progress=silent)
    with pytest.raises(RecordError, match="do not end"):
        transmission.decode(weak, LaneRecord(record.weak, SPEC, record.grants, record.frames[:-1]), progress=silent)
    first = record.frames[0]
    altered = (Bits(first.value ^ 1, first.count), *record.frames[1:])
    with pytest.raises(FrameError):
        transmission.decode(weak, LaneRecord(record.weak, SPEC, record.grants, altered), progress=silent)


def test_half_an_answer_is_not_sent(weak) -> None:
    grant = Grant((1,), CodecName.GUMBEL, bytes(32), UNIT, 6)
    with pytest.raises(RequestError, match="0 of 2 tokens"):
        transmission.encode(weak, SPEC, [grant], [[3, 4]], steps=4, progress=silent)
