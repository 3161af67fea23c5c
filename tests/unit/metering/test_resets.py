"""Leave to go on after a trip: of one trip, in one form, signed by enough of those the policy names."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import resets
from bitweir_metering.entries import Chain, EntryKind, Reservation, policy_note, reset_note
from bitweir_metering.errors import BudgetError, LedgerError, MeteringError, PolicyError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import Quorum
from bitweir_metering.resets import RESET_BYTES_MAX, Reset, check_signed, parse
from tests.unit.metering.example_policy import PRIVATE, PUBLIC, policy, signed

HASH = "00112233445566778899aabbccddeeff" * 2
RESET = Reset("example", "inner-outer", 7, HASH, "somebody looked: a cable")
FROZEN = (
    b'{"lineage":"example","link":"inner-outer","reason":"somebody looked: a cable","sequence":7,"trip_hash":"'
    + HASH.encode()
    + b'"}'
)

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=200)
names = st.text(st.sampled_from("abcz019.-"), min_size=1, max_size=64)
all_resets = st.builds(
    Reset, names, names, st.integers(0, (1 << 62) - 1), st.binary(min_size=32, max_size=32).map(bytes.hex), printable
)


def by(reset: Reset, *numbers: int) -> dict[bytes, bytes]:
    """Signatures of the keys with these numbers."""
    return {PUBLIC[number]: PRIVATE[number].sign(reset.message()) for number in numbers}


def test_its_only_form() -> None:
    assert RESET.canonical() == FROZEN
    assert RESET.message() == b"bitweir reset v1\n" + FROZEN
    assert parse(FROZEN) == RESET


@given(reset=all_resets)
def test_what_is_written_is_read(reset: Reset) -> None:
    content = reset.canonical()
    assert len(content) <= RESET_BYTES_MAX
    assert content.isascii()
    assert b"\n" not in content
    assert parse(content) == reset


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        FROZEN + b"\n",
        b" " + FROZEN,
        FROZEN[:-1],
        FROZEN.replace(b":", b": "),
        FROZEN.replace(b",", b", "),
        FROZEN.replace(b'"sequence":7', b'"sequence":7.0'),
        FROZEN.replace(b'"sequence":7', b'"sequence":07'),
        FROZEN.replace(b'"sequence":7', b'"sequence":-7'),
        FROZEN.replace(b'"sequence":7', b'"sequence":true'),
        FROZEN.replace(b'"sequence":7', b'"sequence":"7"'),
        FROZEN.replace(b'"sequence":7', b'"sequence":7e0'),
        FROZEN.replace(b'"sequence":7', b'"sequence":NaN'),
        FROZEN.replace(b'"sequence":7', b'"sequence":4611686018427387904'),
        FROZEN.replace(b'"sequence":7', b'"sequence":7,"sequence":7'),
        FROZEN.replace(b'"sequence":7', b'"sequence":7,"more":1'),
        FROZEN.replace(b'"sequence":7,', b""),
        FROZEN.replace(b"somebody", b"\\u0073omebody"),
        FROZEN.replace(b"somebody", b"s\\u00f6mebody"),
        FROZEN.replace(b"somebody", "sömebody".encode()),
        FROZEN.replace(b"somebody", b"some\\nbody"),
        FROZEN.replace(b"somebody", b"\xff"),
        FROZEN.replace(b"somebody looked: a cable", b""),
        FROZEN.replace(b"somebody looked: a cable", b"x" * 201),
        FROZEN.replace(b"somebody looked: a cable", b"x" * 1000),
        FROZEN.replace(b'"somebody looked: a cable"', b"1"),
        FROZEN.replace(b"aabb", b"AABB"),
        FROZEN.replace(HASH.encode(), HASH[:-2].encode()),
        FROZEN.replace(b'"' + HASH.encode() + b'"', b"null"),
        FROZEN.replace(b'"example"', b"[]"),
        FROZEN.replace(b'"inner-outer"', b"null"),
        b"[" * 1000,
    ],
    ids=range(35),
)
def test_nothing_else_is_one(content: bytes) -> None:
    with pytest.raises((PolicyError, UnitError)) as caught:
        parse(content)
    assert caught.value.remedy


values = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1 << 63), st.floats(), st.text(max_size=20), st.just(HASH), printable
)


@given(changes=st.dictionaries(st.sampled_from(["lineage", "link", "sequence", "trip_hash", "reason", "x"]), values))
def test_a_document_with_other_fields_is_canonical_or_refused(changes: dict[str, Any]) -> None:
    document = json.loads(FROZEN) | changes
    compact = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    for content in (compact, json.dumps(document).encode()):
        try:
            reset = parse(content)
        except (PolicyError, UnitError):
            continue
        assert reset.canonical() == content
        assert {name: getattr(reset, name) for name in document} == document


@given(data=st.data())
def test_changed_bytes_are_canonical_or_refused(data: st.DataObject) -> None:
    content = bytearray(FROZEN)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["set", "insert", "cut"]))
        if how == "cut":
            del content[position]
        else:
            content[position : position + (how == "set")] = bytes([data.draw(st.integers(0, 255))])
    try:
        reset = parse(bytes(content))
    except (PolicyError, UnitError):
        return
    assert reset.canonical() == content


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("sequence", -1, UnitError),
        ("sequence", True, UnitError),
        ("sequence", 1 << 62, UnitError),
        ("trip_hash", HASH.upper(), PolicyError),
        ("trip_hash", bytes(32), PolicyError),
        ("trip_hash", HASH + "\n", PolicyError),
        ("reason", "", PolicyError),
        ("reason", "x" * 201, PolicyError),
        ("reason", "a\nb", PolicyError),
        ("reason", "a\n", PolicyError),
        ("reason", "\x1b[31m", PolicyError),
        ("reason", "é", PolicyError),
        ("reason", None, PolicyError),
        ("lineage", 5, PolicyError),
        ("link", None, PolicyError),
    ],
)
def test_fields_that_are_none(field: str, value: object, error: type[MeteringError]) -> None:
    with pytest.raises(error) as caught:
        replace(RESET, **{field: value})
    assert caught.value.remedy


# Signatures.


def test_enough_signers_agree() -> None:
    for numbers in ((0, 1), (0, 2), (1, 2), (0, 1, 2), (0, 1, 4)):
        check_signed(RESET, by(RESET, *numbers), policy())


def test_too_few_are_refused() -> None:
    # Numbers 3 and 4 are no signers; 3 is the witness.
    for numbers, valid in (((), 0), ((0,), 1), ((3, 4), 0), ((0, 3, 4), 1)):
        with pytest.raises(PolicyError, match=f"{valid} valid signatures of the 2") as caught:
            check_signed(RESET, by(RESET, *numbers), policy())
        assert "bitweir gate sign" in caught.value.remedy
    check_signed(RESET, by(RESET, 0), policy(signers=Quorum(1, (PUBLIC[0],))))
    with pytest.raises(PolicyError, match="2 valid signatures of the 3"):
        check_signed(RESET, by(RESET, 0, 1), policy(signers=Quorum(3, tuple(PUBLIC[:3]))))


def test_signatures_that_are_bad_do_not_count() -> None:
    good = by(RESET, 0, 1)
    flipped = bytes([good[PUBLIC[1]][0] ^ 1]) + good[PUBLIC[1]][1:]
    for bad in (flipped, good[PUBLIC[0]], bytes(64), b""):
        with pytest.raises(PolicyError, match="1 valid signatures"):
            check_signed(RESET, {**good, PUBLIC[1]: bad}, policy())


@pytest.mark.parametrize(
    "other",
    [
        replace(RESET, sequence=8),
        replace(RESET, trip_hash="ff" + HASH[2:]),
        replace(RESET, reason="nobody looked"),
        replace(RESET, link="another"),
        policy(),
    ],
    ids=["another trip", "another hash", "another reason", "another link", "a policy"],
)
def test_signatures_of_something_else_do_not_count(other: Any) -> None:
    signatures = {PUBLIC[number]: PRIVATE[number].sign(other.message()) for number in (0, 1, 2)}
    with pytest.raises(PolicyError, match="0 valid signatures of the 2"):
        check_signed(RESET, signatures, policy())
    # Nor do signatures of the form without the line before it.
    bare = {PUBLIC[number]: PRIVATE[number].sign(FROZEN) for number in (0, 1, 2)}
    with pytest.raises(PolicyError, match="0 valid signatures of the 2"):
        check_signed(RESET, bare, policy())


def test_a_reset_of_another_link_is_refused_though_it_is_signed() -> None:
    for other in (replace(RESET, lineage="other"), replace(RESET, link="other")):
        with pytest.raises(PolicyError, match="a reset of") as caught:
            check_signed(other, by(other, 0, 1, 2), policy())
        assert caught.value.remedy


# In the ledger.


def tripped_chain() -> Chain:
    chain = Chain()
    chain.extend(EntryKind.POLICY, policy_note(policy(), signed(policy(), 0, 1)))
    chain.extend(EntryKind.TRIP, b"meters disagree")
    return chain


def of(chain: Chain) -> Reset:
    assert chain.trip is not None
    return Reset("example", "inner-outer", chain.trip.sequence, chain.trip.entry_hash.hex(), "somebody looked")


def test_a_reset_counts_for_its_trip_once() -> None:
    chain = tripped_chain()
    reset = of(chain)
    note = reset_note(reset, by(reset, 0, 1))
    charge = Reservation(TrafficClass.MODEL, 800, 400)
    with pytest.raises(BudgetError, match="tripped: meters disagree"):
        chain.extend(EntryKind.RESERVE, charge=charge)
    chain.extend(EntryKind.RESET, note)
    assert chain.trip is None
    chain.extend(EntryKind.RESERVE, charge=charge)
    for _ in range(2):
        with pytest.raises(LedgerError, match="a reset without its trip"):
            chain.extend(EntryKind.RESET, note)
        # Not even for the same reason at another time.
        chain.extend(EntryKind.TRIP, b"meters disagree")
    again = of(chain)
    chain.extend(EntryKind.RESET, reset_note(again, by(again, 1, 2)))


def test_another_trip_than_the_first_is_not_the_one_in_force() -> None:
    chain = tripped_chain()
    first = of(chain)
    chain.extend(EntryKind.TRIP, b"and again")
    assert of(chain) == first
    for wrong in (replace(first, sequence=2), replace(first, trip_hash=chain.head.entry_hash.hex())):
        with pytest.raises(LedgerError, match="a reset without its trip"):
            chain.extend(EntryKind.RESET, reset_note(wrong, by(wrong, 0, 1)))
    chain.extend(EntryKind.RESET, reset_note(first, by(first, 0, 1)))


@pytest.mark.parametrize("numbers", [(), (0,), (3, 4)])
def test_an_unsigned_reset_changes_nothing(numbers: tuple[int, ...]) -> None:
    chain = tripped_chain()
    head, reset = chain.head, of(chain)
    for note in (reset_note(reset, by(reset, *numbers)), reset.canonical(), b"", b"\n", b"yes"):
        with pytest.raises((PolicyError, LedgerError)):
            chain.extend(EntryKind.RESET, note)
    assert (chain.head, chain.trip is None) == (head, False)


def test_the_prefix_is_its_own() -> None:
    assert not policy().message().startswith(resets._PREFIX)
    assert not RESET.message().startswith(b"bitweir policy")
