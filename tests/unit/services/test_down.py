"""One-way datagrams: any k blocks bring a message back, once; nothing else does, and nothing grows."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_services import down
from bitweir_services.down import BLOCK_BYTES, HEADER, MESSAGE_BYTES_MAX, DownReceiver, DownSender
from bitweir_services.errors import RequestError


def received(receiver: DownReceiver, datagrams: list[bytes]) -> list[bytes]:
    return [message for one in datagrams if (message := receiver.take(one)) is not None]


@given(st.binary(min_size=1, max_size=5 * BLOCK_BYTES), st.randoms(use_true_random=False))
def test_any_k_blocks_in_any_order_bring_it_back_once(message: bytes, generator: random.Random) -> None:
    datagrams = DownSender(7).datagrams(message)
    count = -(-len(message) // BLOCK_BYTES)
    assert len(datagrams) == count + max(1, -(-count // 4))
    chosen = generator.sample(datagrams, count)
    receiver = DownReceiver()
    assert received(receiver, chosen) == [message]
    assert received(receiver, datagrams) == []
    assert received(DownReceiver(), generator.sample(datagrams, count - 1)) == []


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, BLOCK_BYTES + 1, MESSAGE_BYTES_MAX])
def test_the_ends_of_the_range(size: int) -> None:
    message = random.Random(size).randbytes(size)
    datagrams = DownSender(0).datagrams(message)
    assert all(len(one) <= HEADER.size + BLOCK_BYTES for one in datagrams)
    # Without the first ones, as many as may be lost.
    lost = len(datagrams) - -(-size // BLOCK_BYTES)
    assert received(DownReceiver(), datagrams[lost:]) == [message]


@pytest.mark.parametrize("size", [0, MESSAGE_BYTES_MAX + 1])
def test_no_message_and_too_long_ones_are_refused(size: int) -> None:
    with pytest.raises(RequestError, match=f"{size} bytes"):
        DownSender(0).datagrams(bytes(size))


def test_messages_are_told_apart() -> None:
    sender = DownSender(100)
    first, second = sender.datagrams(b"a" * 3000), sender.datagrams(b"b" * 3000)
    mixed = [one for pair in itertools.zip_longest(first, second) for one in pair if one is not None]
    receiver = DownReceiver()
    assert sorted(received(receiver, mixed)) == [b"a" * 3000, b"b" * 3000]
    assert receiver.dropped_count == 0


@given(st.binary(max_size=1300))
def test_bytes_that_are_no_datagram_are_dropped(content: bytes) -> None:
    receiver = DownReceiver()
    message = receiver.take(content)
    assert message is None or len(message) <= MESSAGE_BYTES_MAX


@given(st.integers(0, HEADER.size - 1), st.integers(1, 255))
def test_a_changed_header_never_gives_another_message_of_this_shape(index: int, change: int) -> None:
    (datagram, _) = DownSender(5).datagrams(b"message")
    changed = bytearray(datagram)
    changed[index] ^= change
    assert DownReceiver().take(bytes(changed)) in (None, b"message")


def test_blocks_of_another_shape_do_not_mix() -> None:
    receiver = DownReceiver()
    long = DownSender(1).datagrams(b"x" * 2000)
    short = DownSender(1).datagrams(b"y" * 1300)
    assert received(receiver, [long[0], short[1], short[2]]) == []
    assert receiver.dropped_count == 2
    assert received(receiver, [long[1]]) == [b"x" * 2000]


def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "UNFINISHED_MAX", 3)
    monkeypatch.setattr(down, "REMEMBERED", 2)
    sender, receiver = DownSender(0), DownReceiver()
    for _ in range(10):
        receiver.take(sender.datagrams(b"z" * 2000)[0])
    assert len(receiver._unfinished) == 3
    assert receiver.dropped_count == 7
    for _ in range(10):
        assert len(received(receiver, sender.datagrams(b"whole"))) == 1
    assert len(receiver._done) == 2
