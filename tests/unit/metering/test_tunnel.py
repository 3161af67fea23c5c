"""The tunnel's two ends, step by step: what they say, what they do not, and that each wrong word ends the streams."""

import random
from typing import Any

import pytest

from bitweir_metering import frame, sizes, tunnel
from bitweir_metering.errors import FullError, TunnelError
from bitweir_metering.frame import Payload
from bitweir_metering.frame_order import GAP_MAX, FrameOrder
from bitweir_metering.tunnel import (
    SLOTS,
    WINDOW_BYTES,
    Ask,
    Close,
    Down,
    Item,
    Message,
    Send,
    Start,
    Times,
    Up,
    decode_down,
    decode_up,
    encode_down,
    encode_up,
)
from bitweir_metering.tunnel_inner import UP_BYTES_MAX, InnerEnd
from bitweir_metering.tunnel_outer import OuterEnd
from bitweir_metering.units import NS_PER_S
from tests.unit.metering.door import Door
from tests.unit.metering.tunnel_link import KEY, MS, REALTIME_NS, Faults, Link

EPOCH = REALTIME_NS + 1


def test_the_layout_is_the_one_in_the_docstring() -> None:
    assert encode_up(Start(5)) == Payload(1 << 62 | 5, 63)
    assert encode_up(Item(2, Up.ACK, 1)) == Payload(0b0_10_00_01_0000000, 14)
    assert encode_up(Item(3, Up.BYTES, 0, b"\xff")) == Payload(0b0_11_01_00_11111111, 15)
    assert encode_up(Item(0, Up.LAST, 129, b"A")) == Payload(0b0_00_10_10_000000000000_01000001, 27)
    assert encode_up(Item(0, Up.GONE)) == Payload(0b0_00_11_00, 7)
    body = bytes([1, 3]) + (9).to_bytes(8, "big") + (7).to_bytes(4, "big") + (1).to_bytes(8, "big")
    body += (100).to_bytes(8, "big") + b"hello"
    assert encode_down(Message(Down.BYTES, 9, 7, 1, 100, b"hello"), KEY)[:-16] == body


@pytest.mark.parametrize(
    "payload",
    [
        Payload(0, 0),
        Payload(0, 6),
        Payload(1, 1),
        Payload(1 << 61, 62),  # START with a bit too few
        Payload(0, 7),  # ACK of nothing
        Payload(0b0_00_00_00_11111111, 15),  # ACK with bytes
        Payload(0b0_00_01_00, 7),  # BYTES without any
        Payload(0b0_00_11_01_0000000, 14),  # GONE with an ack
        Payload(0b0_00_11_00_11111111, 15),  # GONE with bytes
        Payload(0b0_00_10_00_1, 8),  # a broken byte
        Payload(0b0_00_00_11 << 17 | (1 << 17) - 1, 24),  # more than the window
    ],
)
def test_other_payloads_are_refused(payload: Payload) -> None:
    with pytest.raises(TunnelError) as error:
        decode_up(payload)
    assert error.value.remedy


@pytest.mark.parametrize(
    "make",
    [
        lambda: Start(1 << 62),
        lambda: Start(-1),
        lambda: Item(4, Up.LAST),
        lambda: Item(0, Up.ACK, tunnel.ACK_MAX + 1),
        lambda: Item(0, Up.ACK, -1),
        lambda: Item(0, Up.BYTES, 0, bytes(1024)),
        lambda: Message(Down.HELLO, 1),
        lambda: Message(Down.HELLO, 1, 1, 1),
        lambda: Message(Down.OPEN, 1),
        lambda: Message(Down.OPEN, 1, 1, 1),
        lambda: Message(Down.BYTES, 1, 1, 1),
        lambda: Message(Down.BYTES, 1, 1, 1, 0, bytes(1201)),
        lambda: Message(Down.BYTES, 1, 1 << 32, 1, 0, b"x"),
        lambda: Message(Down.END, 1, 1, 0),
        lambda: Message(Down.ABORT, 1, 1, 0, 1),
        lambda: Message(Down.BYE, True),
        lambda: encode_down(Message(Down.BYE, 1), b"short"),
    ],
)
def test_what_cannot_be_said_is_not_made(make: Any) -> None:
    with pytest.raises(TunnelError):
        make()


def started(times: Times | None = None) -> tuple[InnerEnd, int]:
    """An inner end whose epoch has begun, with stream 1 open, acknowledged and allowed 64 KiB; and the time."""
    inner = InnerEnd(KEY, realtime_ns=REALTIME_NS, now_ns=0, times=times)
    hear(inner, Message(Down.HELLO, EPOCH, position=1), 0)
    assert inner.is_starting
    assert offered(inner, 0) == Start(EPOCH)
    hear(inner, Message(Down.OPEN, EPOCH, 1, 0, WINDOW_BYTES), 0)
    assert offered(inner, NS_PER_S) == Item(1, Up.ACK, 1)
    assert len(inner.events()) == 1
    return inner, 2 * NS_PER_S


def hear(inner: InnerEnd, message: Message, now_ns: int) -> None:
    inner.receive(encode_down(message, KEY), now_ns)


def offered(inner: InnerEnd, now_ns: int) -> Start | Item | None:
    """What goes up now; the gate takes it."""
    payload = inner.offer(now_ns)
    if payload is None:
        return None
    inner.taken(now_ns)
    return decode_up(payload)


def test_a_keystroke_and_its_echo_cost_one_frame_of_the_smallest_class_that_holds_it() -> None:
    inner, now_ns = started()
    hear(inner, Message(Down.BYTES, EPOCH, 1, 1, WINDOW_BYTES, b"k" * 36), now_ns)
    inner.written(1, 36, now_ns)
    for byte in range(36):  # the echo, written in pieces
        inner.say(1, bytes([byte]), now_ns + byte * MS // 10)
    said = [payload for step in range(400) if (payload := inner.offer(now_ns + step * MS)) and not inner.taken(now_ns)]
    assert [decode_up(one) for one in said] == [Item(1, Up.BYTES, 36, bytes(range(36)))]
    assert sizes.class_bytes(said[0].count) == 38  # two bytes above the echo


def test_small_writes_pile_up_while_the_gate_takes_one_payload_a_slot() -> None:
    inner, now_ns = started()
    count, left = 0, 0
    for step in range(200):
        inner.say(1, b"x", now_ns + step * MS)
        left += 1
        said = offered(inner, now_ns + step * MS)
        if isinstance(said, Item):
            count, left = count + 1, left - len(said.content)
    assert count == 10
    assert left < 20


def test_an_ack_waits_for_bytes_and_is_said_once() -> None:
    inner, now_ns = started()
    hear(inner, Message(Down.BYTES, EPOCH, 1, 1, 0, b"abc"), now_ns)
    assert inner.due_ns() is None  # nothing was written yet
    inner.written(1, 3, now_ns)
    assert offered(inner, now_ns + 299 * MS) is None
    assert offered(inner, now_ns + 300 * MS) == Item(1, Up.ACK, 3)
    hear(inner, Message(Down.BYTES, EPOCH, 1, 1, 0, b"abc"), now_ns + 301 * MS)
    assert inner.due_ns() is None
    hear(inner, Message(Down.BYTES, EPOCH, 1, 4, 0, bytes(1200)), now_ns + 400 * MS)
    inner.written(1, 1200, now_ns + 400 * MS)
    inner.say(1, b"y", now_ns + 400 * MS)
    assert offered(inner, now_ns + 405 * MS) == Item(1, Up.BYTES, 1200, b"y")


def test_no_more_goes_up_than_is_allowed() -> None:
    inner, now_ns = started()
    total = 0
    for step in range(1000):
        inner.say(1, bytes(inner.room_bytes(1)), now_ns)
        said = offered(inner, now_ns + step * 20 * MS)
        total += len(said.content) if isinstance(said, Item) else 0
    assert total == WINDOW_BYTES
    with pytest.raises(TunnelError):
        inner.say(1, b"x", now_ns)
    hear(inner, Message(Down.CREDIT, EPOCH, 1, 0, WINDOW_BYTES + 5), now_ns)
    assert inner.room_bytes(1) == 5


def test_what_the_gate_did_not_take_is_offered_again() -> None:
    inner, now_ns = started()
    inner.say(1, b"x", now_ns)
    now_ns += 5 * MS
    assert inner.offer(now_ns) is not None
    inner.put_off(now_ns + 20 * MS)
    assert inner.offer(now_ns + 19 * MS) is None
    assert offered(inner, now_ns + 20 * MS) == Item(1, Up.BYTES, 0, b"x")
    with pytest.raises(TunnelError):
        inner.taken(now_ns)


@pytest.mark.parametrize(
    "message",
    [
        Message(Down.HELLO, EPOCH, position=1),  # answered
        Message(Down.BYTES, EPOCH - 1, 1, 1, 0, b"x"),
        Message(Down.BYTES, EPOCH, 5, 1, 0, b"x"),  # the slot's next stream, not open
        Message(Down.OPEN, EPOCH, 5),  # the slot is in use
        Message(Down.ABORT, EPOCH, 5),
    ],
)
def test_what_is_old_or_not_open_does_nothing(message: Message) -> None:
    inner, now_ns = started()
    hear(inner, message, now_ns)
    assert inner.streams == [1]
    assert (inner.events(), inner.due_ns()) == ([], None)


def test_more_than_the_window_and_something_after_the_end_are_refused() -> None:
    inner, now_ns = started()
    with pytest.raises(TunnelError):
        hear(inner, Message(Down.BYTES, EPOCH, 1, WINDOW_BYTES + 4, 0, b"x"), now_ns)
    hear(inner, Message(Down.END, EPOCH, 1, 1), now_ns)
    with pytest.raises(TunnelError):
        hear(inner, Message(Down.BYTES, EPOCH, 1, 2, 0, b"x"), now_ns)
    with pytest.raises(TunnelError):
        inner.receive(b"", now_ns)
    with pytest.raises(TunnelError, match="older"):
        hear(inner, Message(Down.HELLO, EPOCH - 1, position=1), now_ns)


def test_an_abort_is_answered_even_where_the_stream_was_never_heard_of() -> None:
    inner, now_ns = started()
    hear(inner, Message(Down.ABORT, EPOCH, 2), now_ns)
    hear(inner, Message(Down.OPEN, EPOCH, 2), now_ns)
    assert offered(inner, now_ns) == Item(2, Up.GONE)
    hear(inner, Message(Down.OPEN, EPOCH, 2), now_ns)
    assert inner.streams == [1]
    inner.say(1, b"dropped", now_ns)
    hear(inner, Message(Down.ABORT, EPOCH, 1), now_ns)
    inner.say(1, b"ignored", now_ns)
    assert [type(event) for event in inner.events()] == [Close, Close] or len(inner.events()) == 0
    assert offered(inner, now_ns + NS_PER_S) == Item(1, Up.GONE)
    assert inner.streams == []


def test_a_failed_epoch_is_over_until_a_newer_one() -> None:
    inner, now_ns = started()
    inner.say(1, b"x", now_ns)
    inner.fail("the gate refuses")
    assert inner.events() == [Close(1, "the gate refuses")]
    hear(inner, Message(Down.HELLO, EPOCH, position=2), now_ns)
    hear(inner, Message(Down.OPEN, EPOCH, 2), now_ns)
    assert (inner.due_ns(), inner.streams, inner.events()) == (None, [], [])
    hear(inner, Message(Down.HELLO, EPOCH + 1, position=1), now_ns)
    assert offered(inner, now_ns + NS_PER_S) == Start(EPOCH + 1)


@pytest.mark.parametrize("by", ["silence", "bye", "hello"])
def test_inner_forgets_an_outer_end_that_is_gone(by: str) -> None:
    inner, now_ns = started()
    if by == "silence":
        inner.step(299 * NS_PER_S)
        assert inner.streams == [1]
        inner.step(now_ns + 301 * NS_PER_S)
    else:
        later = Message(Down.BYE, EPOCH) if by == "bye" else Message(Down.HELLO, EPOCH + 1, position=1)
        hear(inner, later, now_ns)
    assert inner.streams == []
    assert len(inner.events()) == 1


def greeted() -> OuterEnd:
    """An outer end with stream 1 open and sent, at time 0; frame 0 was START."""
    outer = OuterEnd(KEY)
    assert outer.open(0, EPOCH) == 1
    assert sent(outer, 0) == [Message(Down.HELLO, EPOCH, position=1)]
    outer.frame(0, encode_up(Start(EPOCH)), 0)
    assert sent(outer, 0) == [Message(Down.OPEN, EPOCH, 1, 0, WINDOW_BYTES)]
    return outer


def sent(outer: OuterEnd, now_ns: int) -> list[Message]:
    return [decode_down(event.datagram, KEY) for event in outer.step(now_ns) if isinstance(event, Send)]


@pytest.mark.parametrize(
    "said",
    [
        [Item(1, Up.ACK, 2)],  # of what was not sent
        [Item(2, Up.LAST)],  # a stream that inner has not heard of
        [Item(3, Up.LAST)],  # a free slot
        [Item(2, Up.GONE)],
        [Item(1, Up.LAST), Item(1, Up.BYTES, 0, b"x")],
        [Item(1, Up.LAST), Item(1, Up.LAST)],
        [Item(1, Up.BYTES, 0, bytes(1023))] * (WINDOW_BYTES // 1023 + 1),
        [Start(EPOCH + 1)],
        [Payload(0, 7)],
    ],
)
def test_what_inner_cannot_mean_ends_all_streams(said: list[Any]) -> None:
    outer = greeted()
    outer.open(0, EPOCH)
    for sequence, one in enumerate(said, start=1):
        outer.frame(sequence, one if isinstance(one, Payload) else encode_up(one), 0)
    events = outer.step(0)
    assert [event.stream for event in events if isinstance(event, Close) and event.reason] == [1, 2]
    byes = [decode_down(event.datagram, KEY) for event in events if isinstance(event, Send)]
    assert byes[-3:] == [Message(Down.BYE, EPOCH)] * 3
    assert outer.streams == []


def test_frames_of_others_are_passed_over_and_old_ones_ignored() -> None:
    outer = OuterEnd(KEY)
    outer.frame(4, encode_up(Item(0, Up.GONE)), 0)
    outer.open(0, EPOCH)
    outer.frame(5, encode_up(Start(EPOCH - 7)), 0)
    outer.frame(6, encode_up(Item(0, Up.GONE)), 0)
    outer.frame(7, Payload(0, 0), 0)
    outer.frame(8, None, 0)
    outer.frame(9, encode_up(Start(EPOCH)), 0)
    outer.frame(10, None, 0)
    outer.frame(11, encode_up(Start(EPOCH)), 0)
    outer.step(0)
    outer.frame(12, encode_up(Item(1, Up.LAST, 1, b"x")), 0)
    assert [type(event).__name__ for event in outer.step(0)] == ["Write", "WriteEnd"]


def test_nobody_who_answers_means_an_error_after_a_while() -> None:
    outer = OuterEnd(KEY)
    outer.open(0, EPOCH)
    tries = [message for now_s in range(30) for message in sent(outer, now_s * NS_PER_S)]
    assert [message.position for message in tries] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert outer.streams == [1]
    assert Close(1, "the inner end does not answer") in outer.step(30 * NS_PER_S)
    # The next epoch is newer even where the clock was set back.
    outer.open(0, 5)
    assert sent(outer, 0) == [Message(Down.HELLO, EPOCH + 1, position=1)]


def test_what_is_not_acknowledged_is_repeated_and_given_up() -> None:
    outer = greeted()
    repeats = [
        now_ns for now_ns in range(0, 29 * NS_PER_S, 10 * MS) for one in sent(outer, now_ns) if one.position == 0
    ]
    assert len(repeats) > 5
    assert any(isinstance(event, Close) and event.reason for event in outer.step(31 * NS_PER_S))


def test_there_are_few_streams_and_slots_are_used_again_when_they_are_free() -> None:
    outer = greeted()
    assert [outer.open(0, EPOCH) for _ in range(SLOTS - 1)] == [2, 3, 4]
    with pytest.raises(FullError):
        outer.open(0, EPOCH)
    outer.step(0)
    outer.frame(1, encode_up(Item(2, Up.GONE)), 0)
    assert outer.open(0, EPOCH) == 6
    with pytest.raises(TunnelError):
        outer.say(1, bytes(WINDOW_BYTES + 1))
    outer.say(2, b"nobody")
    outer.end(2)
    assert outer.room_bytes(2) == 0


def test_a_person_who_goes_before_anything_was_sent_leaves_nothing_behind() -> None:
    outer = OuterEnd(KEY)
    outer.broken(outer.open(0, EPOCH))
    assert (outer.streams, outer.step(0)) == ([], [])


def test_where_all_who_are_left_have_gone_a_new_connection_begins_a_new_epoch() -> None:
    outer = greeted()
    outer.broken(1)
    assert sent(outer, 0) == [Message(Down.ABORT, EPOCH, 1)]
    assert outer.open(0, EPOCH) == 2
    assert sent(outer, 0) == [Message(Down.HELLO, EPOCH + 1, position=1)]


def test_a_silent_tunnel_is_checked_more_and_more_rarely() -> None:
    link = Link(1, times=Times(check_ns=10 * NS_PER_S))
    number = link.open(b"", b"")
    link.clients[number].is_ended = link.service[number].is_ended = True  # both just stay
    link.run(100)
    # START, OPEN's ack, and checks after 10, 20, 40 seconds of silence.
    assert len(link.payloads) == 5
    assert link.clients[number].closed is None
    # A gate that is gone is noticed by the next check.
    link.is_gate_open = False
    link.run_until(lambda: link.clients[number].closed is not None, 120)
    assert "does not answer" in str(link.clients[number].closed)


def test_the_last_frame_is_asked_for_when_nothing_follows_it() -> None:
    link = Link(1)
    number = link.open(b"", b"answer")
    link.run_until(lambda: bool(link.inner.streams))
    link.faults = Faults(up_loss=1)
    link.run_until(lambda: not link.inner.streams, 10)
    link.run(0.1)
    link.faults = Faults()
    link.run_until(link.is_quiet, 10)
    assert link.clients[number].heard + link.clients[number].unwritten == b"answer"
    assert link.sent_again


def test_a_slow_service_holds_people_back_and_nothing_is_kept_without_limit() -> None:
    link = Link(1)
    said = random.Random(1).randbytes(300_000)
    number = link.open(said, b"")
    link.is_service_slow = True
    link.run(20)
    assert len(link.service[number].unwritten) <= WINDOW_BYTES
    assert link.clients[number].said_count <= WINDOW_BYTES
    assert link.clients[number].closed is None
    link.is_service_slow = False
    link.run_until(link.is_quiet)
    assert link.service[number].heard == said
    assert UP_BYTES_MAX < WINDOW_BYTES


def test_frames_that_stay_missing_or_are_too_many_are_an_error() -> None:
    order: FrameOrder[int] = FrameOrder(0, ask_ns=100, give_up_ns=10 * NS_PER_S)
    assert order.take(3, 3, 0) == []
    assert order.is_missing
    assert order.asks(99) == []
    assert order.asks(100) == [0, 1, 2]
    assert order.asks(NS_PER_S) == []
    assert order.take(1, 1, NS_PER_S) == []
    assert order.asks(2 * NS_PER_S) == [0, 2]
    with pytest.raises(TunnelError, match="frame 0 is lost"):
        order.asks(10 * NS_PER_S)
    with pytest.raises(TunnelError, match="missing"):
        order.take(GAP_MAX + 1, 0, 0)
    assert order.take(0, 0, 0) == [0, 1]
    assert order.next_sequence == 2


def test_asks_are_for_the_gate_and_not_repeated_at_once() -> None:
    outer = greeted()
    outer.frame(2, None, 0)
    assert [event for event in outer.step(100 * MS) if isinstance(event, Ask)] == [Ask(1)]
    assert [event for event in outer.step(200 * MS) if isinstance(event, Ask)] == []
    assert frame.SEQUENCE_LIMIT > GAP_MAX


def test_a_gate_that_is_asked_for_the_frame_it_is_about_to_send_keeps_its_resends_for_when_it_is_lost() -> None:
    door = Door()
    door.gateway.submit(frame.TrafficClass.TUNNEL, 0, Payload(5, 63))
    for now_ms in (0, 5):  # no permit yet: it is built and waits
        door.tick(now_ms * MS)
    for _ in range(5):  # what an outer end does that hears nothing
        door.gateway.resend(0)
    assert [one.sequence for one in door.run(10, 100)] == [0]
    door.gateway.resend(0)
    assert [one.sequence for one in door.run(100, 200)] == [0]
    assert door.durable.totals.wire[frame.TrafficClass.RESEND] > 0


def test_bytes_wait_a_moment_for_more_unless_they_fill_a_frame() -> None:
    inner, now_ns = started()
    inner.say(1, b"x", now_ns)
    assert offered(inner, now_ns + 5 * MS - 1) is None
    assert offered(inner, now_ns + 5 * MS) == Item(1, Up.BYTES, 0, b"x")
    now_ns += NS_PER_S
    inner.say(1, bytes(1023), now_ns)
    assert offered(inner, now_ns) == Item(1, Up.BYTES, 0, bytes(1023))


def test_an_outer_end_that_was_restarted_counts_its_streams_from_one_again() -> None:
    inner, now_ns = started()
    hear(inner, Message(Down.HELLO, EPOCH + 1, position=1), now_ns)
    hear(inner, Message(Down.OPEN, EPOCH + 1, 1), now_ns)
    assert [type(event).__name__ for event in inner.events()] == ["Close", "Connect"]


def test_more_may_come_up_as_soon_as_a_person_has_read() -> None:
    outer = greeted()
    outer.frame(1, encode_up(Item(1, Up.BYTES, 1, bytes(1000))), 0)
    for sequence in range(2, 18):
        outer.frame(sequence, encode_up(Item(1, Up.BYTES, 0, bytes(1000))), 0)
    assert sent(outer, 0) == []
    outer.written(1, 17_000)
    assert sent(outer, 0) == [Message(Down.CREDIT, EPOCH, 1, 0, WINDOW_BYTES + 17_000)]
    assert sent(outer, 0) == []
