"""Entries that say more than bits: trips and their resets, and numbers of frames."""

from dataclasses import replace
from pathlib import Path

import pytest

from bitweir_metering.entries import Chain, EntryKind, policy_note
from bitweir_metering.errors import BudgetError, LedgerError, PolicyError, UnitError
from bitweir_metering.ledger import Lease, verify
from tests.unit.metering.example_ledger import created, model, opened, signed_reset
from tests.unit.metering.example_policy import PRIVATE, PUBLIC, policy, signed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.ledger"


def test_a_tripped_ledger_reserves_nothing_until_enough_people_have_signed(path: Path) -> None:
    with created(path) as ledger:
        ledger.reserve([model()])
        assert ledger.trip("meters disagree: \N{GREEK SMALL LETTER DELTA}" + "x" * 300) == 2
        assert ledger.tripped is not None
        assert ledger.tripped.reason.startswith("meters disagree: ?x")
        assert len(ledger.tripped.reason) == 200
        first = ledger.tripped
        (refusal,) = ledger.reserve([model()])
        assert isinstance(refusal, BudgetError)
        assert "is tripped: meters disagree" in str(refusal)
        reset, signatures = signed_reset(ledger)
        other = replace(reset, link="other")
        for bad in (
            (reset, {}),
            (reset, dict([next(iter(signatures.items()))])),
            (other, {PUBLIC[number]: PRIVATE[number].sign(other.message()) for number in (0, 1)}),
            (replace(reset, reason="no"), signatures),
        ):
            with pytest.raises(PolicyError):
                ledger.reset(*bad)
        for field, value in (("sequence", 1), ("trip_hash", "00" * 32)):
            with pytest.raises(LedgerError, match="without its trip"):
                ledger.reset(replace(reset, **{field: value}), signatures)
        # A second trip does not hide the first.
        assert ledger.trip("again") == 3
        assert ledger.tripped == first
        assert ledger.reset(reset, signatures) == 4
        assert ledger.tripped is None
        assert isinstance(ledger.reserve([model()])[0], Lease)
        ledger.trip("later")
        with pytest.raises(LedgerError, match="without its trip"):
            ledger.reset(reset, signatures)
    with opened(path) as ledger:
        assert ledger.tripped is not None
        assert ledger.tripped.reason == "later"
    assert verify(path).ok


def test_numbers_of_frames_are_given_out_once(path: Path) -> None:
    with created(path) as ledger:
        assert ledger.give_numbers(10) == range(10)
        assert ledger.give_numbers(5) == range(10, 15)
        for count in (0, -1, True, 1.0):
            with pytest.raises(UnitError):
                ledger.give_numbers(count)
    with opened(path) as ledger:
        assert ledger.give_numbers((1 << 32) - 15) == range(15, 1 << 32)
        with pytest.raises(LedgerError, match="numbers up to"):
            ledger.give_numbers(1)
    assert verify(path).ok


@pytest.mark.parametrize(
    "note", [b"", b"0", b"10", b"9", b"011", b"+11", b"11 ", b"1_1", b"x", b"4294967297", b"9" * 30]
)
def test_numbers_have_one_form_and_only_grow(note: bytes) -> None:
    chain = Chain()
    chain.extend(EntryKind.POLICY, policy_note(policy(), signed(policy(), 0, 1)))
    chain.extend(EntryKind.NUMBERS, b"10")
    with pytest.raises(LedgerError, match="numbers up to"):
        chain.extend(EntryKind.NUMBERS, note)
