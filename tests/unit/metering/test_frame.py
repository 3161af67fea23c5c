"""Frames: every accepted one is canonical, everything else is refused, and there are no more than are charged for."""

import hashlib
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitweir_metering import frame as frames
from bitweir_metering import sizes
from bitweir_metering.errors import FormError, SizeError
from bitweir_metering.frame import Frame, Payload, TrafficClass, decode, encode

KEY = bytes(range(32))
SENT = [kind for kind in TrafficClass if kind is not TrafficClass.TIMING]
LARGEST_BITS = 8 * sizes.SIZE_CLASSES[-1] - 1


def example(**changes: object) -> Frame:
    return Frame(**{"kind": TrafficClass.MODEL, "lane": 3, "sequence": 0x01020304, "payload": Payload(5, 4)} | changes)


def retagged(content: bytes) -> bytes:
    """Return the content with the tag that the gate would give it."""
    return content + frames._tag(content, KEY)


@st.composite
def frame_strategy(draw: st.DrawFn) -> Frame:
    count = draw(st.integers(0, 700) | st.integers(0, LARGEST_BITS))
    payload = Payload(draw(st.integers(0, (1 << count) - 1)), count)
    sequence = draw(st.integers(0, (1 << 32) - 1))
    return Frame(draw(st.sampled_from(SENT)), draw(st.integers(0, 7)), sequence, payload)


def test_the_bytes_of_a_frame() -> None:
    content = encode(example(), KEY)
    # Version 1, class 0, lane 3; the sequence; 0101, then 1, then zeros.
    assert content[:-8] == bytes([0b01_000_011]) + bytes([1, 2, 3, 4]) + bytes([0b0101_1000]) + bytes(7)
    assert len(content) == sizes.frame_bytes(4)
    tag = hashlib.blake2b(content[:-8], digest_size=8, key=KEY, person=b"bitweir tag v1").digest()
    assert content[-8:] == tag == bytes.fromhex("676c447b90c5a131")


@given(frame_strategy())
def test_what_is_encoded_is_decoded_and_charged(frame: Frame) -> None:
    content = encode(frame, KEY)
    assert decode(content, KEY) == frame
    assert len(content) == sizes.frame_bytes(frame.payload.count)
    assert frame.wire_bits == frames.wire_bits(content) == 8 * (len(content) + 42)
    assert frame.information_bits == sizes.information_bits(frame.payload.count)
    assert frame.information_bits <= frame.wire_bits


@settings(max_examples=1000)
@given(frame_strategy(), st.data())
def test_every_accepted_mutant_is_canonical(frame: Frame, data: st.DataObject) -> None:
    content = bytearray(encode(frame, KEY)[:-8])
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "set", "clear"]))
    if kind == "flip":
        for position in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=6)):
            content[position // 8] ^= 1 << position % 8
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif kind == "grow":
        content += data.draw(st.binary(min_size=1, max_size=64))
    elif kind == "set":
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        content[data.draw(st.integers(0, len(content) - 1)) :] = bytes(2)
    mutant = retagged(bytes(content))
    try:
        accepted = decode(mutant, KEY)
    except FormError as error:
        assert error.remedy
    else:
        assert encode(accepted, KEY) == mutant


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_canonical_or_refused(content: bytes, tagged: bool) -> None:
    content = retagged(content) if tagged else content
    try:
        accepted = decode(content, KEY)
    except FormError:
        return
    assert encode(accepted, KEY) == content


def test_of_all_frames_of_a_toy_no_more_exist_than_are_charged_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sizes of 1 and 2 bytes: every first byte with every body of 1 byte, one first byte with every body of 2.
    monkeypatch.setattr(sizes, "SIZE_CLASSES", (1, 2))
    monkeypatch.setattr(sizes, "HEADER_INFORMATION_BITS", 3 + 3 + 1)
    kraft = Fraction(0)
    for size, firsts in ((1, range(256)), (2, [0b01_000_000])):
        accepted = 0
        for first in firsts:
            for body in range(1 << 8 * size):
                content = retagged(bytes([first, 0, 0, 0, 9]) + body.to_bytes(size, "big"))
                try:
                    frame = decode(content, KEY)
                except FormError:
                    continue
                accepted += 1
                assert encode(frame, KEY) == content
                assert frame.information_bits == 8 * size + 7
        if size == 1:
            assert accepted == len(SENT) * frames.LANES * 255
        else:
            # Of payloads of 0 to 15 bits those of 0 to 7 have a smaller size.
            assert accepted == (1 << 16) - (1 << 8)
            accepted *= len(SENT) * frames.LANES
        kraft += Fraction(accepted, 1 << 8 * size + 7)
    assert kraft <= 1


def test_of_all_frames_with_one_sequence_number_no_more_exist_than_are_charged_for() -> None:
    kraft = Fraction(0)
    for smaller, size in pairwise((0, *sizes.SIZE_CLASSES)):
        bodies = (1 << 8 * size) - (1 << 8 * smaller)
        kraft += Fraction(len(SENT) * frames.LANES * bodies, 1 << sizes.information_bits(8 * size - 1))
    assert kraft <= 1


@pytest.mark.parametrize("size", [0, 12, 13, 20, 22, 1036, 1038, 4096])
def test_bytes_of_no_size_class(size: int) -> None:
    with pytest.raises(FormError, match=f"^{size} bytes are no frame"):
        decode(bytes(size), KEY)


def test_a_wrong_tag_or_key() -> None:
    content = encode(example(), KEY)
    for position in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormError, match="the tag is wrong"):
            decode(bytes(damaged), KEY)
    with pytest.raises(FormError, match="the tag is wrong"):
        decode(content, bytes(32))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_size(key: bytes) -> None:
    with pytest.raises(FormError, match="a tag key of"):
        encode(example(), key)
    with pytest.raises(FormError, match="a tag key of"):
        decode(encode(example(), KEY), key)


@pytest.mark.parametrize("first", [0b00_000_000, 0b10_000_000, 0b11_000_000, 0b01_100_000, 0b01_111_000])
def test_another_version_or_class(first: int) -> None:
    content = bytes([first]) + encode(example(), KEY)[1:-8]
    with pytest.raises(FormError, match=r"^version "):
        decode(retagged(content), KEY)


def test_a_payload_that_does_not_end() -> None:
    with pytest.raises(FormError, match="no payload ends"):
        decode(retagged(encode(example(), KEY)[:5] + bytes(8)), KEY)


@given(st.integers(0, LARGEST_BITS), st.data())
def test_a_payload_in_a_larger_frame_than_it_needs(count: int, data: st.DataObject) -> None:
    larger = [size for size in sizes.SIZE_CLASSES if size > sizes.class_bytes(count)]
    assume(larger)
    size = data.draw(st.sampled_from(larger))
    body = (1 << (8 * size - 1 - count)).to_bytes(size, "big")
    with pytest.raises(FormError, match=r"bits in a frame of"):
        decode(retagged(encode(example(), KEY)[:5] + body), KEY)


@pytest.mark.parametrize(
    "changes", [{"lane": -1}, {"lane": 8}, {"sequence": -1}, {"sequence": 1 << 32}, {"kind": TrafficClass.TIMING}]
)
def test_what_is_no_frame(changes: dict) -> None:
    with pytest.raises(FormError) as caught:
        example(**changes)
    assert caught.value.remedy


@pytest.mark.parametrize("changes", [{"lane": 0}, {"lane": 7}, {"sequence": 0}, {"sequence": (1 << 32) - 1}])
def test_the_borders_of_what_is_one(changes: dict) -> None:
    frame = example(**changes)
    assert decode(encode(frame, KEY), KEY) == frame


@pytest.mark.parametrize(("value", "count"), [(-1, 4), (16, 4), (1, 0), (0, -1), (0, LARGEST_BITS + 1)])
def test_what_is_no_payload(value: int, count: int) -> None:
    with pytest.raises(SizeError) as caught:
        Payload(value, count)
    assert caught.value.remedy


def test_the_borders_of_a_payload() -> None:
    assert Payload(15, 4).value == 15
    assert Payload(0, 0).count == 0
    assert Payload((1 << LARGEST_BITS) - 1, LARGEST_BITS).count == LARGEST_BITS
