"""Amounts are exact integers, and texts that people write come to one or are refused."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import units
from bitweir_metering.errors import UnitError

NOT_AMOUNTS = [True, False, -1, 1.0, 0.0, math.nan, math.inf, "1", b"1", None, [1], 1 << 62, 1 << 64]


@pytest.mark.parametrize("value", [0, 1, (1 << 62) - 1])
def test_amounts(value: int) -> None:
    assert units.amount(value, "it") == value


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
@pytest.mark.parametrize("check", [units.amount, units.positive])
def test_what_is_no_amount(value: object, check: object) -> None:
    with pytest.raises(UnitError, match=r"^payload_bits is ") as caught:
        check(value, "payload_bits")
    assert caught.value.remedy


def test_a_value_that_prints_at_length_is_cut_short() -> None:
    with pytest.raises(UnitError) as caught:
        units.amount("x" * 10_000, "it")
    assert len(str(caught.value)) < 120


def test_positive_is_above_zero() -> None:
    assert units.positive(1, "it") == 1
    assert units.positive((1 << 62) - 1, "it") == (1 << 62) - 1
    with pytest.raises(UnitError, match="it is 0"):
        units.positive(0, "it")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0 B", 0),
        ("1 B", 1),
        ("500 GB", 500 * 10**9),
        ("500GB", 500 * 10**9),
        ("1.5 TiB", 3 << 39),
        ("1 KiB", 1024),
        ("1 kB", 1000),
        ("2 MB", 2 * 10**6),
        ("3 PiB", 3 << 50),
        ("4.5 MB", 4_500_000),
        ("800 bit", 100),
        ("8 kbit", 1000),
        ("0.001 kB", 1),
        ("576460 TB", 576_460 * 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("kind", [("B", 1), ("bit", 8)])
@pytest.mark.parametrize(("prefix", "power"), [("", 0), ("k", 1), ("M", 2), ("G", 3), ("T", 4), ("P", 5)])
def test_every_prefix(prefix: str, power: int, kind: tuple[str, int]) -> None:
    unit, share = kind
    assert units.parse_bytes(f"16 {prefix}{unit}") == 16 * 1000**power // share
    if power:
        binary = prefix.upper() + "i"
        assert units.parse_bytes(f"16 {binary}{unit}") == 16 * 1024**power // share


def test_the_largest_amounts() -> None:
    assert units.parse_bytes(f"{(1 << 59) - 1} B") == (1 << 59) - 1
    assert units.parse_rate(f"{(1 << 62) - 1} bit/s") == (1 << 62) - 1
    for parse, text in ((units.parse_bytes, f"{1 << 59} B"), (units.parse_rate, f"{1 << 62} bit/s")):
        with pytest.raises(UnitError, match=r"below 2\*\*62"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10 Mbit/s", 10**7), ("125 kB/s", 10**6), ("115200 bit/s", 115_200), ("1 KiB/s", 8192), ("0 bit/s", 0)],
)
def test_rates(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10 Mbit/s", "is a rate, not a size"),
        ("10 MB/s", "is a rate, not a size"),
        ("12 bit", "no whole number of bytes"),
        ("0.1 bit", "no whole number of bits"),
        ("0.0001 kB", "no whole number of bits"),
        ("600 PB", "below 2\\*\\*62"),
        ("9999999999999999999 PiB", "below 2\\*\\*62"),
    ],
)
def test_texts_that_are_no_size(text: str, message: str) -> None:
    with pytest.raises(UnitError, match=message) as caught:
        units.parse_bytes(text)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["500 GB", "800 bit"])
def test_a_size_is_no_rate(text: str) -> None:
    with pytest.raises(UnitError, match="is not a rate"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GB", "5", "-5 GB", "+5 GB", "5  GB", "5 gb", "5 KB", "5 kiB", "1e3 B", "1. B", ".5 B", "5 GB "),
        *("5 GB\n", "٥ B", "1,000 B", "0x10 B", "NaN B", "inf B", "1 bit/s/s", "1" * 20 + " B", "1.0000000000 B"),
        *(5, None, b"5 B"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("parse", [units.parse_bytes, units.parse_rate])
def test_texts_that_are_nothing(text: object, parse: object) -> None:
    with pytest.raises(UnitError, match="is not a size or a rate"):
        parse(text)


@given(st.integers(0, (1 << 59) - 1))
def test_a_whole_number_of_bytes_is_that_number(count: int) -> None:
    assert units.parse_bytes(f"{count} B") == count
    assert units.parse_rate(f"{count} B/s") == 8 * count


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (units.parse_bytes, units.parse_rate):
        with contextlib.suppress(UnitError):
            assert 0 <= parse(text) < units.AMOUNT_LIMIT


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (10**9, "1 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (5 * 10**15, "5 PB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert units.format_bytes(count) == text


def test_a_day_in_nanoseconds() -> None:
    assert units.NS_PER_DAY == 24 * 60 * 60 * 10**9
