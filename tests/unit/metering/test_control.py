"""What the receiving side says to the gate: nobody says it without the key, twice, late or in another form."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.control import MESSAGE_BYTES, OUTER, Control, ControlReader, Keys, Message, TripReason, encode
from bitweir_metering.errors import ControlError
from bitweir_metering.units import AMOUNT_LIMIT

KEYS = Keys(bytes(range(32)), bytes(range(32, 64)))
START_NS = 1_800_000_000_000_000_000
# Made from the description at the top of control.py, by hand and not with it.
FROZEN = {
    "010118fae27693b400000000000000011170000000000000012c71ebbb528ded62f0d130bf0883e81b84": Message(
        Control.GRANTS, START_NS, 70_000, 300
    ),
    "010218fae27693b4000100000000ee6b2800000000000000000090be6aea88cc7cfd99cb525222288325": Message(
        Control.RESEND, START_NS + 1, 4_000_000_000
    ),
    "010318fae27693b40002000000000000000000000000000000007a9942b4e6368a8cb79c437204d657b2": Message(
        Control.PERMIT, START_NS + 2
    ),
    "010418fae27693b400030000000000000002000000000000000095561b21fc8d338ce26125a3825375d0": Message(
        Control.TRIP, START_NS + 3, int(TripReason.UNRESERVED)
    ),
}
ALL = pytest.mark.parametrize("message", FROZEN.values(), ids=lambda message: message.kind.name)

amounts = st.one_of(st.integers(0, 10), st.integers(0, AMOUNT_LIMIT - 1))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind, time_ns = draw(st.sampled_from(Control)), draw(amounts)
    if kind is Control.GRANTS:
        second, first = sorted((draw(amounts), draw(amounts)))
        return Message(kind, time_ns, first, second)
    if kind is Control.RESEND:
        return Message(kind, time_ns, draw(amounts))
    return Message(kind, time_ns, int(draw(st.sampled_from(TripReason))) if kind is Control.TRIP else 0)


def reader(start_ns: int = START_NS - 1) -> ControlReader:
    return ControlReader(KEYS, start_ns)


def at(time_ns: int, kind: Control = Control.PERMIT) -> bytes:
    """A sound message of a time."""
    return encode(Message(kind, time_ns, int(TripReason.DROPS) if kind is Control.TRIP else 0), KEYS.of(kind))


def forged(kind: int, numbers: tuple[int, int, int], key: bytes, version: int = 1) -> bytes:
    """What nobody can say with `Message`, with a tag that is right."""
    body = bytes([version, kind]) + b"".join(number.to_bytes(8, "big") for number in numbers)
    return body + hashlib.blake2b(body, digest_size=16, key=key, person=b"bitweir ctl v1").digest()


def refused(content: bytes, message: str, one: ControlReader | None = None) -> None:
    with pytest.raises(ControlError, match=message) as caught:
        (one or reader()).read(content)
    assert caught.value.remedy


@pytest.mark.parametrize(("content", "message"), FROZEN.items(), ids=[one.kind.name for one in FROZEN.values()])
def test_the_bytes_of_each_kind(content: str, message: Message) -> None:
    assert MESSAGE_BYTES == 42
    assert encode(message, KEYS.of(message.kind)).hex() == content
    assert reader().read(bytes.fromhex(content)) == message


def test_one_reader_takes_all_of_them_in_order() -> None:
    one = reader()
    assert [one.read(bytes.fromhex(content)) for content in FROZEN] == list(FROZEN.values())


@ALL
def test_a_byte_that_is_another_is_refused(message: Message) -> None:
    content, one = encode(message, KEYS.of(message.kind)), reader()
    for position in range(MESSAGE_BYTES):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= mask
            refused(bytes(changed), "version|tag", one)
    # None of them moved the reader's clock.
    assert one.read(content) == message


@ALL
def test_other_lengths_are_refused(message: Message) -> None:
    content = encode(message, KEYS.of(message.kind))
    for other in (b"", content[:-1], content + b"\0", content * 2, content[:26]):
        refused(other, f"a message of {len(other)} bytes")


@ALL
def test_each_kind_needs_its_own_key(message: Message) -> None:
    """Who holds outer's key can neither hold the link up nor take it down; reconcile's cannot grant."""
    other = KEYS.reconcile if message.kind in OUTER else KEYS.outer
    for wrong in (other, bytes(32), b""):
        refused(encode(message, wrong), "the tag is wrong")
    assert reader().read(encode(message, KEYS.of(message.kind))) == message


def test_whose_key_speaks_for_what() -> None:
    assert {kind: KEYS.of(kind) for kind in Control} == {
        Control.GRANTS: KEYS.outer,
        Control.RESEND: KEYS.outer,
        Control.PERMIT: KEYS.reconcile,
        Control.TRIP: KEYS.reconcile,
    }


@ALL
def test_a_message_counts_once(message: Message) -> None:
    content, one = encode(message, KEYS.of(message.kind)), reader()
    assert one.read(content) == message
    for _ in range(2):
        refused(content, "an old message", one)
    refused(at(message.time_ns, message.kind), "an old message", one)
    refused(at(message.time_ns - 1, message.kind), "an old message", one)
    assert one.read(at(message.time_ns + 1, message.kind)).time_ns == message.time_ns + 1


@pytest.mark.parametrize("kind", Control)
def test_what_was_said_before_the_start_does_not_count(kind: Control) -> None:
    one = reader(START_NS)
    for time_ns in (0, START_NS - 1, START_NS):
        refused(at(time_ns, kind), "an old message", one)
    assert one.read(at(START_NS + 1, kind)).kind is kind


def test_the_two_keys_have_clocks_of_their_own_and_kinds_of_one_key_share_one() -> None:
    one = reader()
    one.read(at(START_NS + 100, Control.GRANTS))
    one.read(at(START_NS + 50, Control.PERMIT))
    refused(at(START_NS + 100, Control.RESEND), "an old message", one)
    refused(at(START_NS + 50, Control.TRIP), "an old message", one)
    one.read(at(START_NS + 101, Control.RESEND))
    one.read(at(START_NS + 51, Control.TRIP))
    refused(at(START_NS + 101, Control.GRANTS), "an old message", one)
    refused(at(START_NS + 51, Control.PERMIT), "an old message", one)


def test_what_is_refused_does_not_move_the_clock() -> None:
    one = reader()
    refused(encode(Message(Control.PERMIT, START_NS + 100), KEYS.outer), "the tag is wrong", one)
    refused(forged(Control.PERMIT, (START_NS + 100, 1, 0), KEYS.reconcile), "PERMIT with", one)
    assert one.read(at(START_NS)).time_ns == START_NS


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (Control.GRANTS, 5, 6),
        (Control.RESEND, 5, 1),
        (Control.PERMIT, 1, 0),
        (Control.PERMIT, 0, 1),
        (Control.TRIP, 0, 0),
        (Control.TRIP, 5, 0),
        (Control.TRIP, 1, 1),
    ],
)
def test_numbers_that_do_not_belong_to_a_kind(kind: Control, first: int, second: int) -> None:
    with pytest.raises(ControlError, match=f"{kind.name} with") as caught:
        Message(kind, START_NS, first, second)
    assert caught.value.remedy
    # A tag does not make them right.
    refused(forged(kind, (START_NS, first, second), KEYS.of(kind)), f"{kind.name} with")


@pytest.mark.parametrize("number", [-1, AMOUNT_LIMIT, True, 1.0, None, "1"], ids=repr)
@pytest.mark.parametrize("field", ["time_ns", "first", "second"])
def test_numbers_out_of_range(field: str, number: object) -> None:
    fields: dict[str, object] = {"kind": Control.GRANTS, "time_ns": START_NS, "first": 9, "second": 1}
    with pytest.raises(ControlError, match="GRANTS with") as caught:
        Message(**fields | {field: number})
    assert caught.value.remedy
    Message(**fields)


def test_numbers_out_of_range_that_are_signed() -> None:
    for numbers in ((AMOUNT_LIMIT, 0, 0), ((1 << 64) - 1, 0, 0), (START_NS, AMOUNT_LIMIT, 0)):
        refused(forged(Control.GRANTS, numbers, KEYS.outer), "GRANTS with")
    most = AMOUNT_LIMIT - 1
    assert reader().read(forged(Control.GRANTS, (most,) * 3, KEYS.outer)) == Message(Control.GRANTS, most, most, most)


@pytest.mark.parametrize("key", [KEYS.outer, KEYS.reconcile], ids=["outer", "reconcile"])
def test_unknown_kinds_and_versions_are_refused_whoever_signed_them(key: bytes) -> None:
    for kind in (0, 5, 128, 255):
        refused(forged(kind, (START_NS, 0, 0), key), f"version 1, kind {kind}")
    for version in (0, 2, 255):
        refused(forged(Control.PERMIT, (START_NS, 0, 0), key, version), f"version {version}")


def test_a_kind_that_is_none_is_a_control_error() -> None:
    for kind in (0, 3, 9, "PERMIT", None):
        with pytest.raises(ControlError, match="no kind"):
            Message(kind, START_NS)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytearray(32), "x" * 32, None], ids=repr)
def test_keys_of_another_length(key: object) -> None:
    for keys in ((key, KEYS.reconcile), (KEYS.outer, key)):
        with pytest.raises(ControlError, match="another length") as caught:
            Keys(*keys)
        assert "bitweir keys shared" in caught.value.remedy


def test_one_key_for_both_is_refused() -> None:
    with pytest.raises(ControlError, match="have one key"):
        Keys(KEYS.outer, bytes(KEYS.outer))


@given(message=messages(), start_ns=amounts)
def test_what_is_said_is_what_is_read(message: Message, start_ns: int) -> None:
    content = encode(message, KEYS.of(message.kind))
    assert content == forged(message.kind, (message.time_ns, message.first, message.second), KEYS.of(message.kind))
    if message.time_ns > start_ns:
        assert reader(start_ns).read(content) == message
    else:
        refused(content, "an old message", reader(start_ns))


@given(content=st.one_of(st.binary(max_size=60), st.binary(min_size=MESSAGE_BYTES, max_size=MESSAGE_BYTES)))
def test_any_other_bytes_are_a_control_error(content: bytes) -> None:
    refused(content, "bytes|version|tag")


@given(
    kind=st.integers(0, 255),
    numbers=st.tuples(*[st.one_of(amounts, st.integers(0, (1 << 64) - 1))] * 3),
    is_outer=st.booleans(),
)
def test_what_a_key_holder_can_say_is_a_message_or_refused(
    kind: int, numbers: tuple[int, int, int], is_outer: bool
) -> None:
    content = forged(kind, numbers, KEYS.outer if is_outer else KEYS.reconcile)
    try:
        message = reader(0).read(content)
    except ControlError:
        return
    assert (message.kind in OUTER) is is_outer
    assert encode(message, KEYS.of(message.kind)) == content
