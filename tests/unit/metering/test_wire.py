"""A link's packets: one form for each frame; whatever else is sent is told apart, quickly and slowly alike."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import sizes, wire
from bitweir_metering.errors import FormError
from bitweir_metering.wire import End, Route, Sieve

GATE, RECEIVER = (End(bytes([2, 0, 0, 0, 0, number]), f"10.77.0.{number}", 7000 + number) for number in (1, 2))
UP = Route(GATE, RECEIVER)
SIEVE = Sieve(UP)
LENGTHS = sorted(wire.FRAME_LENGTHS)
contents = st.sampled_from(LENGTHS).flatmap(lambda size: st.binary(min_size=size, max_size=size))
# What the Linux kernel made of `bytes(21)` in a UDP socket that asks for IP_PMTUDISC_PROBE, read from a TAP.
OF_THE_KERNEL = bytes.fromhex(
    "020000000002" "020000000001" "0800" "4500003100004000401126200a4d00010a4d0002" "1b591b5a001db464"
) + bytes(21)  # fmt: skip


def is_decoded(packet: bytes) -> bool:
    """Whether the slow way takes it."""
    try:
        wire.decode(UP, packet)
    except FormError:
        return False
    return True


def naive_sum(content: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", content + b"\0" * (len(content) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(contents)
def test_a_frame_has_one_packet_and_its_checksums_hold(content: bytes) -> None:
    packet = wire.encode(UP, content)
    assert len(packet) == sizes.WIRE_HEADER_BYTES + len(content)
    assert wire.decode(UP, packet) == content
    assert SIEVE.passes(packet)
    assert naive_sum(packet[14:34]) == 0xFFFF
    pseudo = UP.source.packed + UP.target.packed + struct.pack(">HH", 17, 8 + len(content))
    assert naive_sum(pseudo + packet[34:]) == 0xFFFF


def test_it_is_what_the_kernel_sends() -> None:
    assert wire.encode(UP, bytes(21)) == OF_THE_KERNEL


@given(st.sampled_from(LENGTHS), st.data())
def test_any_changed_bit_is_refused_both_ways(size: int, data: st.DataObject) -> None:
    packet = bytearray(wire.encode(UP, bytes(range(256)) * 5)[: 42 + size])
    packet = bytearray(wire.encode(UP, bytes(packet[42:])))
    bit = data.draw(st.integers(0, 8 * len(packet) - 1))
    packet[bit // 8] ^= 1 << bit % 8
    assert not is_decoded(bytes(packet))
    assert not SIEVE.passes(bytes(packet))


@given(contents, st.integers(0, 0xFFFF), st.binary(max_size=3), st.integers(0, 3))
def test_the_sieve_and_the_slow_way_agree(content: bytes, checksum: int, trailer: bytes, cut: int) -> None:
    packet = wire.encode(UP, content)
    for changed in (
        packet[:40] + checksum.to_bytes(2, "big") + packet[42:],
        packet[:40] + b"\0\0" + packet[42:],
        packet[:40] + b"\xff\xff" + packet[42:],
        packet + trailer,
        packet[: len(packet) - cut],
        content,
    ):
        assert SIEVE.passes(changed) == is_decoded(changed)


def test_a_checksum_that_would_be_zero_is_all_ones() -> None:
    """Both sums of a content that weighs nothing: only the form that RFC 768 sends is a packet."""
    found = 0
    for value in range(1 << 16):
        content = bytes(19) + value.to_bytes(2, "big")
        packet = wire.encode(UP, content)
        if packet[40:42] == b"\xff\xff":
            found += 1
            assert SIEVE.passes(packet)
            assert not SIEVE.passes(packet[:40] + b"\0\0" + packet[42:])
    assert found


@pytest.mark.parametrize(
    "end",
    [
        (bytes(5), "10.0.0.1", 1), (bytes(6), "10.0.0.256", 1), (bytes(6), "::1", 1), (bytes(6), "10.0.0.1", 0),
        (bytes(6), "10.0.0.1", 1 << 16), ("abcdef", "10.0.0.1", 1),
    ],
)  # fmt: skip
def test_an_end_that_is_none(end: tuple[bytes, str, int]) -> None:
    with pytest.raises(FormError):
        End(*end)


def test_other_packets_of_an_honest_kernel_are_refused() -> None:
    packet = wire.encode(UP, bytes(21))
    identified = bytearray(packet)
    identified[18:20] = b"\x12\x34"  # an identification, as a kernel numbers packets when it may
    struct.pack_into(">H", identified, 24, 0)
    struct.pack_into(">H", identified, 24, 0xFFFF - naive_sum(bytes(identified[14:34])))
    assert naive_sum(bytes(identified[14:34])) == 0xFFFF
    for other in (bytes(identified), packet[6:12] + packet[:6] + packet[12:], b"\xff" * 6 + packet[6:], b""):
        assert not SIEVE.passes(other)
        assert not is_decoded(other)
