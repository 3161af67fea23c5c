"""What a sender does when outer could not decode, and when it cannot go on itself: escapes, resets, epochs, splits."""

import pytest

from bitweir_compression.coder import Bits
from bitweir_compression.session.errors import EventError, FrameError, StaleFrameError
from bitweir_compression.session.events import Acknowledgement, Cancel, CodecName, Grant, Refusal
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import Ending, LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import ESCAPE_RUN_MAX, IN_FLIGHT_MAX, Frame, Sender
from tests.unit.compression.session_world import END, HashPredictor

KEY = bytes(32)
SPEC = LaneSpec(slot_count=2, end=END, waiting_max=200, steps_max=64)


def grant(**fields) -> Grant:
    return Grant(**{"prompt": (1,), "codec": CodecName.GUMBEL, "key": KEY, "tokens_max": 100} | fields)


class Ends:
    """A sender and a receiver; frames and answers are carried by hand."""

    def __init__(self, spec: LaneSpec = SPEC, *, streams: int = 2, **fields) -> None:
        self.spec = spec
        self.inner, self.outer = HashPredictor(spec.slot_count), HashPredictor(spec.slot_count)
        self.sender = Sender(self.inner, spec, **fields)
        self.receiver = Receiver(self.outer, spec)
        self.shown: dict[int, list[int]] = {}
        for _ in range(streams):
            self.grant()

    def grant(self, **fields) -> int:
        number = self.receiver.grant(grant(**fields))
        self.sender.receive(number, self.receiver.event(number))
        return number

    def write(self, count: int = 1) -> None:
        """Offer tokens to the first two streams."""
        for number in sorted(self.sender._offers)[:2]:
            self.sender.offer(number, [1 + (number + index) % 7 for index in range(count)])

    def next(self, steps: int = 1) -> Frame:
        """Write for some steps and send them."""
        self.write(steps)
        frame = self.sender.frame(steps)
        assert frame is not None
        return frame

    def arrive(self, frame: Frame) -> Acknowledgement:
        decoded = self.receiver.decode(frame.bits)
        for number, tokens in decoded.texts.items():
            self.shown.setdefault(number, []).extend(tokens)
        return decoded.acknowledgement

    def pass_over(self, steps: int = 1) -> Frame:
        frame = self.next(steps)
        self.sender.acknowledge(self.arrive(frame))
        return frame

    def fail(self, frame: Frame, place: int | None = None) -> Refusal:
        """Let a frame arrive with one bit changed; by default one behind all that says where it belongs."""
        place = frame.bits.count - 1 - (frame.bits.count // 2 if place is None else place)
        with pytest.raises(FrameError) as caught:
            self.receiver.decode(Bits(frame.bits.value ^ (1 << place), frame.bits.count))
        assert caught.value.refusal == self.receiver.answer
        return caught.value.refusal

    def restart(self, *, is_new_sender: bool = False) -> None:
        if is_new_sender:
            self.inner = HashPredictor(self.spec.slot_count)
            self.sender = Sender(self.inner, self.spec)
        number, event, _ = self.receiver.restart()
        self.sender.receive(number, event)

    def expect_good_streams(self) -> None:
        """New streams go through, both ends having learnt the same."""
        self.shown = {}
        new = [self.grant() for _ in range(2)]
        for _ in range(3):
            self.pass_over(4)
        assert self.sender.state == self.receiver.state
        assert self.sender._lane.learnt() == self.receiver._lane.learnt()
        assert [len(self.shown[number]) for number in new] == [12, 12]


# Refusals.


def test_a_refused_frame_is_sent_again_as_an_escape_and_then_all_is_normal() -> None:
    ends = Ends()
    ends.pass_over()
    refused, later = ends.next(2), ends.next()
    refusal = ends.fail(refused)
    assert refusal == Refusal(0, 1, 1, 0)
    with pytest.raises(StaleFrameError) as caught:
        ends.receiver.decode(later.bits)
    assert caught.value.refusal == Refusal(0, 1, 1, 1)
    ends.sender.refuse(refusal)
    # Duplicates, and what was said of frames that were under way, change nothing.
    ends.sender.refuse(refusal)
    ends.sender.refuse(caught.value.refusal)
    assert (ends.sender.refusal_count, ends.sender.in_flight_count) == (1, 0)
    again, normal = ends.next(), ends.next()
    assert (again.mode, normal.mode) == (Mode.ESCAPE, Mode.NORMAL)
    assert ends.sender.escape_count == 1
    ends.sender.acknowledge(ends.arrive(again))
    ends.sender.refuse(refusal)
    ends.sender.acknowledge(ends.arrive(normal))
    assert (ends.sender.refusal_count, ends.sender.in_flight_count, ends.sender.escape_count) == (1, 0, 1)
    assert ends.sender.state == ends.receiver.state


@pytest.mark.parametrize("place", [0, 5, 13, 20, 27, 40])
@pytest.mark.parametrize("is_heard", [True, False])
def test_an_escape_that_is_damaged_too_is_sent_once_more(place: int, is_heard: bool) -> None:
    """Wherever: in its mode or number it looks like a frame of the old course. The first word of it may be lost."""
    ends = Ends()
    ends.pass_over()
    refused, later = ends.next(), ends.next()
    refusal = ends.fail(refused)
    ends.sender.refuse(refusal)
    with pytest.raises(StaleFrameError):
        ends.receiver.decode(later.bits)
    escape = ends.next()
    refusal = ends.fail(escape, place)
    assert refusal.dropped_count == 2
    if is_heard:
        ends.sender.refuse(refusal)
    ends.sender.refuse(ends.receiver.answer)
    assert (ends.sender.refusal_count, ends.sender.escape_count) == (2, 1)
    assert ends.pass_over().mode is Mode.ESCAPE
    assert ends.pass_over().mode is Mode.ESCAPE
    assert ends.pass_over().mode is Mode.NORMAL


def test_a_lost_refusal_is_made_up_for() -> None:
    ends = Ends()
    ends.fail(ends.next())
    with pytest.raises(StaleFrameError) as caught:
        ends.receiver.decode(ends.next().bits)
    ends.sender.refuse(caught.value.refusal)
    assert ends.pass_over().mode is Mode.OPENING_ESCAPE


@pytest.mark.parametrize("place", range(29))
def test_a_damaged_first_frame_of_a_lane_is_refused_wherever_the_damage(place: int) -> None:
    ends = Ends()
    ends.sender.refuse(ends.fail(ends.next(), place))
    assert ends.pass_over().mode is Mode.OPENING_ESCAPE


def test_refusals_in_a_row_double_the_escapes_until_a_prediction_is_acknowledged() -> None:
    ends = Ends(streams=0)

    def send_one() -> Frame:
        """A stream of one token, granted in a frame of its own."""
        number = ends.grant(tokens_max=1)
        ends.sender.acknowledge(ends.arrive(ends.sender.frame(1)))
        ends.sender.offer(number, [3])
        return ends.sender.frame(1)

    runs = []
    for _ in range(9):
        # What came before, without text, proves nothing of the weak model.
        frame = send_one()
        assert frame.mode is Mode.NORMAL
        ends.sender.refuse(ends.fail(frame))
        before = ends.sender.escape_count
        ends.sender.acknowledge(ends.arrive(ends.sender.frame(1)))
        while ends.sender._escapes_due:
            number = ends.grant(tokens_max=1)
            ends.sender.offer(number, [3])
            ends.sender.acknowledge(ends.arrive(ends.sender.frame(1)))
        runs.append(ends.sender.escape_count - before)
    assert runs == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert ESCAPE_RUN_MAX == 64
    ends.sender.acknowledge(ends.arrive(send_one()))
    ends.sender.refuse(ends.fail(send_one()))
    assert ends.sender._escapes_due == 1


def test_old_numbers_and_epochs_are_stale() -> None:
    ends = Ends()
    ends.pass_over()
    frames = [ends.next(), ends.next()]
    ends.sender.refuse(ends.fail(frames[0]))
    escape = ends.next()
    ends.sender.acknowledge(ends.arrive(escape))
    # Once more: its number has passed. Outside a recovery that is a failure like any other.
    with pytest.raises(FrameError, match="not frame or epoch"):
        ends.receiver.decode(escape.bits)
    ends.restart()
    for old in (escape, *frames):
        with pytest.raises(StaleFrameError) as caught:
            ends.receiver.decode(old.bits)
        assert caught.value.refusal is None
    assert isinstance(ends.receiver.answer, Acknowledgement)
    ends.expect_good_streams()


def test_answers_of_another_epoch_are_ignored() -> None:
    ends = Ends()
    ends.pass_over()
    ends.next()
    for epoch in (-1, 1):
        ends.sender.acknowledge(Acknowledgement(epoch, 2, bytes(8)))
        ends.sender.refuse(Refusal(epoch, 1, 1))
    assert (ends.sender.in_flight_count, ends.sender.refusal_count) == (1, 0)
    assert ends.next().mode is Mode.NORMAL


# Acknowledgements.


def test_acknowledgements_are_cumulative() -> None:
    ends = Ends()
    answers = [ends.arrive(ends.next()) for _ in range(4)]
    ends.sender.acknowledge(answers[1])
    assert ends.sender.in_flight_count == 2
    ends.sender.acknowledge(answers[0])
    ends.sender.acknowledge(answers[1])
    assert ends.sender.in_flight_count == 2
    ends.sender.acknowledge(answers[3])
    ends.sender.acknowledge(answers[2])
    assert ends.sender.in_flight_count == 0
    assert ends.pass_over().mode is Mode.NORMAL


def test_frames_in_flight_are_limited() -> None:
    ends = Ends()
    first = ends.next()
    for _ in range(IN_FLIGHT_MAX - 1):
        ends.next()
    ends.write()
    state = ends.sender.state
    assert ends.sender.frame(1) is None
    assert ends.sender.state == state
    ends.sender.acknowledge(ends.arrive(first))
    assert ends.sender.frame(1) is not None


@pytest.mark.parametrize("in_flight", [2, IN_FLIGHT_MAX])
def test_a_wrong_state_leads_to_one_reset(in_flight: int) -> None:
    """Even where no more frames than that may be in flight."""
    ends = Ends()
    for _ in range(in_flight):
        ends.next()
    ends.sender.acknowledge(Acknowledgement(0, 1, b"other   "))
    while ends.sender.in_flight_count < in_flight and in_flight == IN_FLIGHT_MAX:
        ends.sender._in_flight.append(ends.sender._in_flight[-1])
    frame = ends.next()
    assert frame.mode is Mode.RESET
    assert ends.sender.frame(1) is None
    assert ends.receiver.decode(frame.bits).mode is Mode.RESET


def test_a_refusal_of_a_frame_not_in_flight_leads_to_a_reset() -> None:
    ends = Ends()
    ends.pass_over()
    ends.pass_over()
    ends.sender.refuse(Refusal(0, 1, 1))
    assert ends.next().mode is Mode.RESET
    assert ends.sender.refusal_count == 1


# Resets and epochs.


@pytest.mark.parametrize("ahead", [0, 3])
def test_after_a_reset_the_next_epoch_goes_on_from_what_outer_confirmed(ahead: int) -> None:
    """Not from what the sender had coded since."""
    ends = Ends()
    for _ in range(3):
        ends.pass_over(4)
    for _ in range(ahead):
        ends.next(3)
    ends.sender._must_reset = True
    reset = ends.sender.frame(1)
    state = ends.receiver.state
    decoded = ends.receiver.decode(reset.bits)
    assert (decoded.mode, decoded.texts, decoded.ended) == (Mode.RESET, {}, {})
    assert decoded.acknowledgement == Acknowledgement(0, 3, state)
    with pytest.raises(StaleFrameError, match="given this epoch up"):
        ends.receiver.decode(reset.bits)
    assert ends.sender.frame(1) is None
    ends.restart()
    assert not ends.sender._is_fresh
    ends.expect_good_streams()


def test_after_a_wrong_state_the_next_epoch_starts_afresh() -> None:
    ends = Ends()
    ends.pass_over(4)
    ends.arrive(ends.next(4))
    ends.sender.acknowledge(Acknowledgement(0, 2, b"other   "))
    ends.receiver._lane.state = b"other   "
    ends.arrive(ends.next())
    ends.restart()
    assert ends.sender._is_fresh
    ends.expect_good_streams()


@pytest.mark.parametrize("place", range(0, 38, 3))
@pytest.mark.parametrize("is_recovering", [True, False])
def test_a_damaged_reset_is_sent_again(place: int, is_recovering: bool) -> None:
    ends = Ends(escapes_max=0)
    ends.pass_over()
    if is_recovering:
        ends.sender.refuse(ends.fail(ends.next()))
    else:
        ends.sender._must_reset = True
    reset = ends.next()
    assert reset.mode is Mode.RESET
    if is_recovering:
        ends.sender.refuse(Refusal(0, 1, 1))
    assert ends.sender.frame(1) is None
    ends.sender.refuse(ends.fail(reset, place))
    again = ends.sender.frame(1)
    assert again.bits == reset.bits
    assert ends.sender.frame(1) is None
    assert ends.receiver.decode(again.bits).mode is Mode.RESET


def test_a_reset_of_an_epoch_that_never_opened_is_taken() -> None:
    ends = Ends(escapes_max=1)
    ends.sender.refuse(ends.fail(ends.next()))
    ends.sender.refuse(ends.fail(ends.next()))
    assert ends.sender.escape_count == 1
    assert ends.receiver.decode(ends.next().bits).mode is Mode.RESET
    ends.restart()
    ends.expect_good_streams()


def test_after_a_reset_nothing_old_can_come_so_a_damaged_opening_is_refused() -> None:
    ends = Ends()
    ends.sender._must_reset = True
    ends.arrive(ends.next())
    ends.restart()
    ends.grant()
    ends.sender.refuse(ends.fail(ends.next(), 0))
    assert ends.pass_over().mode is Mode.OPENING_ESCAPE


@pytest.mark.parametrize("restarts", [1, 2, 3])
@pytest.mark.parametrize("is_sent", [True, False])
def test_a_new_sender_starts_afresh_however_often_outer_restarts(restarts: int, is_sent: bool) -> None:
    ends = Ends()
    for _ in range(5):
        ends.pass_over(4)
    ends.restart(is_new_sender=True)
    for _ in range(restarts - 1):
        ends.grant()
        if is_sent:
            ends.next()
        ends.restart()
    assert ends.sender._is_fresh
    ends.expect_good_streams()


def test_a_sender_that_lives_goes_on_however_often_outer_restarts() -> None:
    ends = Ends()
    ends.pass_over(4)
    ends.next()
    learnt = ends.receiver._lane.learnt()
    for _ in range(3):
        ends.restart()
        ends.grant()
        ends.next()
    assert not ends.sender._is_fresh
    ends.restart()
    assert ends.sender._lane.learnt() == learnt
    ends.expect_good_streams()


def test_a_new_sender_needs_events_from_the_last_restart_on_and_no_others_are_kept() -> None:
    spec = LaneSpec(slot_count=2, end=END, waiting_max=3)
    ends = Ends(spec, streams=0)
    for _ in range(10):
        ends.grant(tokens_max=1)
        ends.pass_over()
    assert ends.receiver._events.first == ends.sender._events.first == 10
    with pytest.raises(EventError, match="event 9"):
        ends.receiver.event(9)
    number, event, _ = ends.receiver.restart()
    granted = ends.receiver.grant(grant())
    assert ends.receiver.event(number) is event
    ends.sender = Sender(HashPredictor(2), spec)
    for at in (number, granted):
        ends.sender.receive(at, ends.receiver.event(at))
    ends.pass_over()
    assert ends.shown[granted]


def test_streams_lost_with_an_epoch_are_named_and_their_text_is_not_shown() -> None:
    ends = Ends()
    ends.pass_over()
    late = ends.next()
    number, event, lost = ends.receiver.restart()
    assert lost == [0, 1]
    assert ends.receiver.open_streams == frozenset()
    with pytest.raises(StaleFrameError):
        ends.receiver.decode(late.bits)
    ends.sender.receive(number, event)
    assert ends.sender.in_flight_count == ends.sender.escape_count == 0
    assert not ends.sender.offer(0, [1])


# Many grants and lost acknowledgements.


def test_lost_acknowledgements_do_not_stop_grants() -> None:
    spec = LaneSpec(slot_count=2, end=END, waiting_max=2)
    ends = Ends(spec, streams=0)
    for _ in range(20):
        ends.grant(tokens_max=1)
        ends.grant(tokens_max=1)
        for number in sorted(ends.sender._offers)[-2:]:
            ends.sender.offer(number, [1])
        ends.arrive(ends.sender.frame(1))
    assert ends.sender.in_flight_count == 20
    ends.sender.acknowledge(ends.receiver.answer)
    assert not ends.sender._offers


# Cancels and drops against refusals.


@pytest.mark.parametrize("is_dropped", [True, False])
def test_a_stream_that_ended_in_a_refused_frame_can_still_be_cancelled(is_dropped: bool) -> None:
    ends = Ends()
    ends.sender.offer(0, [3, END])
    ends.sender.offer(1, [4, 5])
    frame = ends.sender.frame(2)
    if is_dropped:
        ends.sender.drop(0)
    number = ends.receiver.cancel(0)
    ends.sender.receive(number, ends.receiver.event(number))
    ends.sender.refuse(ends.fail(frame))
    decoded = ends.receiver.decode(ends.sender.frame(2).bits)
    assert (decoded.texts, decoded.ended) == ({1: [4, 5]}, {0: Ending.CANCELLED})
    ends.sender.acknowledge(decoded.acknowledgement)
    assert not ends.sender._dropped
    assert set(ends.sender._offers) == {1}


def test_a_cancel_of_a_stream_that_ended_does_nothing() -> None:
    ends = Ends()
    ends.sender.offer(0, [END])
    ends.sender.offer(1, [1])
    frame = ends.sender.frame(1)
    number = ends.receiver.cancel(0)
    assert ends.receiver.decode(frame.bits).ended == {0: Ending.END}
    ends.sender.receive(number, ends.receiver.event(number))
    ends.sender.acknowledge(ends.receiver.answer)
    decoded = ends.receiver.decode(ends.next().bits)
    assert (decoded.ended, set(decoded.texts)) == ({}, {1})


def test_a_dropped_stream_keeps_nobody_waiting() -> None:
    ends = Ends()
    ends.pass_over()
    ends.sender.offer(0, [1, 2])
    assert ends.sender.frame(2) is None
    ends.sender.drop(1)
    decoded = ends.receiver.decode(ends.sender.frame(2).bits)
    assert (decoded.texts, decoded.ended) == ({0: [1, 2]}, {1: Ending.DROPPED})


# Frames that would be too long, and weak models that fail, are further down the line.


def test_cancel_does_not_name_a_later_stream() -> None:
    ends = Ends(streams=0)
    ends.receiver._events.append(Cancel(1))
    ends.sender.receive(0, Cancel(1))
    assert ends.grant() == 1
    ends.pass_over()
    assert set(ends.shown) == {1}
