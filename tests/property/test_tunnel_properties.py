"""Laws of the tunnel: its formats are canonical, and what is delivered is what was said, whatever is lost."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitweir_metering import sizes, tunnel
from bitweir_metering.errors import TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.frame_order import FrameOrder
from bitweir_metering.tunnel import ACK_MAX, Down, Item, Message, Start, Up
from tests.unit.metering.tunnel_link import KEY, MS, Faults, Link, opened

NUMBERS = st.integers(0, (1 << 62) - 1)
ACKS = st.sampled_from([0, 1, 128, 129, 4224, 4225, ACK_MAX]) | st.integers(0, ACK_MAX)


@st.composite
def items(draw: st.DrawFn) -> Item:
    what = draw(st.sampled_from(Up))
    ack = 0 if what is Up.GONE else draw(ACKS)
    content = b""
    if what in (Up.BYTES, Up.LAST):
        most = tunnel.content_bytes_max(ack)
        size = draw(st.sampled_from([1, most]) | st.integers(what is Up.BYTES, most))
        content = draw(st.binary(min_size=size, max_size=size))
    return Item(draw(st.integers(0, 3)), what, max(ack, what is Up.ACK), content)


@given(st.builds(Start, NUMBERS) | items())
def test_what_goes_up_comes_back(said: Start | Item) -> None:
    payload = tunnel.encode_up(said)
    assert tunnel.decode_up(payload) == said
    sizes.class_bytes(payload.count)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    count = draw(st.integers(0, 80) | st.integers(0, 8191))
    return Payload(draw(st.integers(0, (1 << count) - 1)), count)


@settings(max_examples=500)
@given(payloads())
@example(Payload((1 << 62) - 1, 63))
def test_whatever_payload_is_accepted_is_the_only_one_of_its_meaning(payload: Payload) -> None:
    try:
        said = tunnel.decode_up(payload)
    except TunnelError:
        return
    assert tunnel.encode_up(said) == payload


@pytest.mark.parametrize("count", range(13))
def test_every_short_payload_is_canonical_or_refused(count: int) -> None:
    accepted = 0
    for value in range(1 << count):
        payload = Payload(value, count)
        try:
            assert tunnel.encode_up(tunnel.decode_up(payload)) == payload
        except TunnelError:
            continue
        accepted += 1
    # LAST and GONE without ack, four slots each, have 7 bits; nothing is shorter or a bit longer.
    assert accepted == (8 if count == 7 else 0)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(Down))
    is_of_stream = kind not in (Down.HELLO, Down.BYE)
    is_placed = kind in (Down.HELLO, Down.BYTES, Down.CHECK, Down.END)
    size = draw(st.sampled_from([1, 1200])) if kind is Down.BYTES else 0
    return Message(
        kind,
        draw(NUMBERS),
        draw(st.integers(1, (1 << 32) - 1)) if is_of_stream else 0,
        draw(st.integers(1, (1 << 62) - 1)) if is_placed else 0,
        draw(NUMBERS) if is_of_stream and kind is not Down.ABORT else 0,
        draw(st.binary(min_size=size, max_size=size)),
    )


@given(messages(), st.data())
def test_what_comes_down_comes_back_and_nothing_damaged_does(message: Message, data: st.DataObject) -> None:
    datagram = tunnel.encode_down(message, KEY)
    assert tunnel.decode_down(datagram, KEY) == message
    assert len(datagram) <= tunnel.DOWN_BYTES_MAX
    bit = data.draw(st.integers(0, 8 * len(datagram) - 1))
    damaged = bytearray(datagram)
    damaged[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(datagram) - 1))
    for wrong in (bytes(damaged), datagram[:cut], datagram + b"\0"):
        with pytest.raises(TunnelError):
            tunnel.decode_down(wrong, KEY)
    with pytest.raises(TunnelError):
        tunnel.decode_down(datagram, bytes(32))


@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_frames_are_given_out_once_and_in_order(count: int, shuffle: random.Random) -> None:
    order: FrameOrder[int] = FrameOrder(7, ask_ns=10, give_up_ns=1000)
    arrivals = list(range(count)) * 2
    shuffle.shuffle(arrivals)
    out = [one for sequence in arrivals for one in order.take(7 + sequence, sequence, 0)]
    assert out == list(range(count))
    assert not order.is_missing
    assert order.asks(10**9) == []


@pytest.mark.parametrize("seed", range(12))
def test_any_interleaving_of_streams_delivers_exactly_the_bytes(seed: int) -> None:
    draw = random.Random(seed)
    faults = Faults(down_loss=0.2, down_twice=0.2, up_loss=0.1, other_classes=0.1, delay_ns=120 * MS, resends_max=9)
    link = Link(seed, faults)
    left = 8
    while left:
        said, answer = (draw.randbytes(draw.choice((0, 1, 40, 3000, 90_000))) for _ in range(2))
        if opened(link, said, answer) is not None:
            left -= 1
        link.run(draw.random() * 3)
    link.run_until(link.is_quiet, 600)
    assert len(link.clients) == 8
    for number, client in link.clients.items():
        service = link.service[number]
        assert (client.closed, service.closed) == ("", "")
        assert client.is_end_heard
        assert service.is_end_heard
        assert client.heard + client.unwritten == service.says
        assert service.heard == client.says


@pytest.mark.parametrize("seed", range(12))
def test_what_cannot_be_delivered_ends_the_streams_with_an_error_after_a_true_beginning(seed: int) -> None:
    draw = random.Random(seed)
    # A frame is not sent again: the first one that is lost is lost for good.
    link = Link(seed, Faults(down_loss=0.1, up_loss=0.1, other_classes=0.2, delay_ns=60 * MS, resends_max=0))
    for _ in range(3):
        opened(link, draw.randbytes(40_000), draw.randbytes(40_000))
    link.run_until(link.is_quiet, 600)
    broken = 0
    for number, client in link.clients.items():
        service = link.service[number]
        assert client.closed is not None
        assert service.says.startswith(bytes(client.heard))
        assert client.says.startswith(bytes(service.heard))
        if client.closed == "":
            assert client.heard + client.unwritten == service.says
        else:
            broken += 1
    assert broken
    # The next one begins a new epoch and works.
    link.faults = Faults()
    number = link.open(b"again", b"yes")
    link.run_until(link.is_quiet, 60)
    assert link.clients[number].heard + link.clients[number].unwritten == b"yes"
    assert link.service[number].heard == b"again"


@pytest.mark.parametrize("seed", range(12))
def test_who_breaks_off_harms_nobody_else_and_leaves_no_slot_behind(seed: int) -> None:
    draw = random.Random(seed)
    faults = Faults(down_loss=0.2, down_twice=0.2, up_loss=0.05, delay_ns=120 * MS, resends_max=9)
    link = Link(seed, faults)
    broken: set[int] = set()
    left = 12
    while left:
        number = opened(link, draw.randbytes(draw.choice((0, 40, 30_000))), draw.randbytes(draw.choice((0, 9, 30_000))))
        left -= number is not None
        link.run(draw.random())
        side = draw.choice((link.clients, link.service))
        number = draw.choice(list(link.clients))
        if side[number].closed is None and (side is link.clients or number in link.inner.streams):
            broken.add(number)
            side[number].closed = "broke"
            link.outer.broken(number) if side is link.clients else link.inner.broken(number)
    link.run_until(link.is_quiet, 600)
    assert broken
    for number, client in link.clients.items():
        service = link.service[number]
        assert service.says.startswith(bytes(client.heard))
        assert client.says.startswith(bytes(service.heard))
        if number not in broken:
            assert (client.closed, service.closed) == ("", "")
            assert client.heard + client.unwritten == service.says
            assert service.heard == client.says
