"""A session's limits, its numbers, and frames no sender makes: forged bit by bit, each fit but for one thing."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.coder import MESSAGE_BITS_MAX, Bits, Reader, Writer
from bitweir_compression.errors import CoderError
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.session.errors import EventError, FrameError, StaleFrameError
from bitweir_compression.session.events import CANDIDATES_MAX, Cancel, CodecName, EventLog, Grant, Refusal, Restart
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import NUMBERS, Ending, Lane, LaneSpec
from bitweir_compression.session.numbers import NUMBER_BITS_MAX, AdaptiveNumber
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from tests.unit.compression.session_world import CONTEXT, END, VOCABULARY, HashPredictor

KEY = bytes(32)
SPEC = LaneSpec(slot_count=2, end=END, waiting_max=4, steps_max=8)


def grant(**fields) -> Grant:
    return Grant(**{"prompt": (1,), "codec": CodecName.ARITHMETIC, "key": KEY, "tokens_max": 5} | fields)


def sender(spec: LaneSpec = SPEC, **fields) -> Sender:
    return Sender(HashPredictor(spec.slot_count), spec, **fields)


def receiver(spec: LaneSpec = SPEC) -> Receiver:
    return Receiver(HashPredictor(spec.slot_count), spec)


# Events and limits.


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ()},
        {"prompt": (-1,)},
        {"prompt": (True,)},
        {"prompt": (np.int64(3),)},
        {"prompt": (1.0,)},
        {"prompt": range((1 << 24) + 1)},
        {"key": bytes(31)},
        {"key": bytes(33)},
        {"tokens_max": 0},
        {"tokens_max": (1 << 24) + 1},
        {"candidate_count": 0},
        {"candidate_count": CANDIDATES_MAX + 1},
    ],
    ids=lambda fields: f"{fields!r:.40}",
)
def test_a_grant_out_of_range_is_refused(fields: dict) -> None:
    with pytest.raises(EventError):
        grant(**fields)


def test_limits_themselves_are_allowed() -> None:
    grant(tokens_max=1 << 24, candidate_count=CANDIDATES_MAX)
    Cancel((1 << 63) - 1)
    LaneSpec(slot_count=1, end=0, waiting_max=1 << 20, steps_max=(1 << 20) - 1, frame_bits_max=296)
    LaneSpec(slot_count=(MESSAGE_BITS_MAX // 2 - 256) // 40, end=0, frame_bits_max=MESSAGE_BITS_MAX // 2)


@pytest.mark.parametrize("stream", [-1, 1 << 63])
def test_a_cancel_names_a_number(stream: int) -> None:
    with pytest.raises(EventError):
        Cancel(stream)


@pytest.mark.parametrize(("epoch", "state"), [(0, bytes(8)), (1, bytes(7)), (1, bytes(9))])
def test_a_restart_has_an_epoch_and_a_state(epoch: int, state: bytes) -> None:
    with pytest.raises(EventError):
        Restart(epoch, state)


def test_digests_differ_where_events_do() -> None:
    events = [
        grant(),
        grant(prompt=(2,)),
        grant(prompt=(1, 1)),
        grant(codec=CodecName.GUMBEL),
        grant(codec=CodecName.GREEDY),
        grant(key=bytes(31) + b"\1"),
        grant(temperature=Temperature(7, 10)),
        grant(temperature=Temperature(10, 7)),
        grant(tokens_max=6),
        grant(candidate_count=2),
        Cancel(0),
        Cancel(1),
        Restart(1, bytes(8)),
        Restart(2, bytes(8)),
        Restart(1, b"1234567\0"),
    ]
    assert len({event.digest() for event in events}) == len(events)
    assert {len(event.digest()) for event in events} == {16}


@pytest.mark.parametrize(
    "fields",
    [
        {"slot_count": 0},
        {"steps_max": 0},
        {"steps_max": 1 << 20},
        {"waiting_max": 0},
        {"waiting_max": (1 << 20) + 1},
        {"frame_bits_max": 2 * 40 + 255},
        {"frame_bits_max": MESSAGE_BITS_MAX // 2 + 1},
        {"slot_count": 1 << 16},
    ],
    ids=str,
)
def test_a_lane_out_of_range_is_refused(fields: dict) -> None:
    with pytest.raises(EventError):
        LaneSpec(**{"slot_count": 2, "end": 0} | fields)


def test_the_predictor_must_be_large_enough() -> None:
    for spec in (LaneSpec(slot_count=3, end=0), LaneSpec(slot_count=1, end=VOCABULARY), LaneSpec(slot_count=1, end=-1)):
        with pytest.raises(EventError, match="predictor"):
            Lane(HashPredictor(2), spec)


@pytest.mark.parametrize("end", [sender, receiver])
def test_a_grant_must_fit_the_weak_model(end) -> None:
    def take(one, event: Grant) -> None:
        one.grant(event) if isinstance(one, Receiver) else one.receive(0, event)

    take(end(), grant(prompt=(VOCABULARY - 1,), tokens_max=CONTEXT - 1))
    for event in (grant(tokens_max=CONTEXT), grant(prompt=(VOCABULARY,))):
        one = end()
        with pytest.raises(EventError):
            take(one, event)
        take(one, grant())


def test_an_event_log_forgets() -> None:
    log = EventLog()
    events = [Cancel(number) for number in range(5)]
    assert [log.append(event) for event in events] == [0, 1, 2, 3, 4]
    log.forget(2)
    log.forget(1)
    assert (log.first, log.next) == (2, 5)
    assert [log.get(number) for number in (-1, 1, 2, 4, 5)] == [None, None, events[2], events[4], None]
    assert log.since(3) == events[3:]
    log.forget(9)
    assert (log.first, log.next, log.since(9)) == (9, 9, [])


def test_a_receiver_limits_what_is_open_and_what_is_under_way() -> None:
    one = receiver()
    for _ in range(SPEC.waiting_max):
        one.grant(grant())
    with pytest.raises(EventError, match="open"):
        one.grant(grant())
    with pytest.raises(EventError, match="not open"):
        one.cancel(SPEC.waiting_max)
    for _ in range(3 * SPEC.waiting_max):
        one.cancel(0)
    with pytest.raises(EventError, match="not taken effect"):
        one.cancel(0)
    for number in (-1, 4 * SPEC.waiting_max):
        with pytest.raises(EventError):
            one.event(number)
    assert one.event(0) == grant()


def test_a_sender_takes_events_in_order_and_not_too_many() -> None:
    one = sender()
    for number in (1, -1):
        with pytest.raises(EventError, match="instead"):
            one.receive(number, grant())
    for number in range(SPEC.waiting_max + SPEC.slot_count):
        one.receive(number, grant())
    with pytest.raises(EventError, match="too many"):
        one.receive(SPEC.waiting_max + SPEC.slot_count, grant())
    one.receive(SPEC.waiting_max + SPEC.slot_count, Cancel(0))
    one.receive(SPEC.waiting_max + SPEC.slot_count + 1, grant())


def test_a_restart_goes_forwards() -> None:
    one = sender()
    one.receive(7, Restart(3, bytes(8)))
    for number, epoch in ((7, 4), (6, 4), (8, 3), (8, 2), (9, 3)):
        with pytest.raises(EventError):
            one.receive(number, Restart(epoch, bytes(8)))
    with pytest.raises(EventError, match="instead"):
        one.receive(9, grant())
    one.receive(8, grant())
    one.receive(9, Restart(4, bytes(8)))


def test_offers_are_checked_and_a_bad_one_changes_nothing() -> None:
    one = sender()
    one.receive(0, grant(candidate_count=3, tokens_max=4))
    one.receive(1, Cancel(7))
    for stream in (-1, 1, 2):
        with pytest.raises(EventError, match="never granted"):
            one.offer(stream, [1])
    for tokens in ([], [VOCABULARY], [-1], [1, VOCABULARY], [1.0], [True], [np.int64(1)]):
        with pytest.raises(EventError, match="tokens"):
            one.offer(0, tokens)
    for candidate in (-1, 3):
        with pytest.raises(EventError, match="candidate"):
            one.offer(0, [1], candidate)
    with pytest.raises(EventError, match="after its end"):
        one.offer(0, [1, END, 1], 1)
    assert one.offer(0, [1], 2)
    with pytest.raises(EventError, match="candidate"):
        one.offer(0, [1], 1)
    with pytest.raises(EventError, match="after its end"):
        one.offer(0, [1, 1, 1, 1], 2)
    assert one.offer(0, [2, 3, 4], 2)
    with pytest.raises(EventError, match="after its end"):
        one.offer(0, [1], 2)
    other = receiver()
    other.grant(grant(candidate_count=3, tokens_max=4))
    other._events.append(Cancel(7))
    decoded = other.decode(one.frame(8).bits)
    assert (decoded.texts, decoded.joined, decoded.ended) == ({0: [1, 2, 3, 4]}, {0: 2}, {0: Ending.LENGTH})


def test_nobody_wants_text_of_what_was_cancelled_dropped_or_lost() -> None:
    one = sender()
    for number in range(3):
        one.receive(number, grant())
        assert one.offer(number, [1])
    one.receive(3, Cancel(0))
    one.drop(1)
    one.drop(0)
    one.drop(99)
    assert [one.offer(number, [1]) for number in range(3)] == [False, False, True]
    one.receive(4, Restart(1, bytes(8)))
    assert not one.offer(2, [1])


@pytest.mark.parametrize("steps", [0, -1, SPEC.steps_max + 1])
def test_steps_of_a_frame_are_limited(steps: int) -> None:
    with pytest.raises(EventError, match="steps"):
        sender().frame(steps)


# Numbers.


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, (1 << NUMBER_BITS_MAX) - 1)), max_size=60))
def test_numbers_round_trip_and_both_ends_learn_the_same(values: list[int]) -> None:
    written, read, writer = AdaptiveNumber(), AdaptiveNumber(), Writer()
    assert [written.code(writer, value) for value in values] == values
    reader = Reader(writer.finish())
    assert [read.code(reader, None) for _ in values] == values
    reader.finish()
    assert written.snapshot() == read.snapshot()
    other = AdaptiveNumber()
    other.restore(read.snapshot())
    assert other.snapshot() == read.snapshot()
    assert other.code(Writer(), 77) == 77
    assert read.snapshot() == written.snapshot()


@pytest.mark.parametrize("value", [0, 1, 2, 3, (1 << 16) - 1, 1 << 16, 1 << 17, (1 << 24) - 1])
def test_every_length_of_number_can_be_coded(value: int) -> None:
    writer = Writer()
    AdaptiveNumber().code(writer, value)
    assert AdaptiveNumber().code(Reader(writer.finish()), None) == value


@pytest.mark.parametrize("value", [-1, 1 << 24])
def test_a_number_out_of_range_is_refused_before_anything_is_coded(value: int) -> None:
    number, writer = AdaptiveNumber(), Writer()
    before = number.snapshot()
    with pytest.raises(CoderError, match="number"):
        number.code(writer, value)
    assert number.snapshot() == before
    assert (writer.finish(), dict(writer.ideal_bits)) == (Bits(0, 0), {})


def test_counts_are_halved_and_habits_change() -> None:
    number = AdaptiveNumber()
    for index in range(2000):
        number.code(Writer(), index % 2)
        _, repeats, lengths = number.snapshot()
        assert sum(repeats) <= 1024
        assert sum(lengths) <= 1024
        assert min(repeats) >= 1
        assert min(lengths) >= 1
    for _ in range(500):
        number.code(Writer(), 1)
    writer = Writer()
    number.code(writer, 1)
    assert sum(writer.ideal_bits.values()) < 0.1


def test_a_new_number_is_never_the_last_one() -> None:
    writer = Writer()
    writer.symbol(np.array([2, 2]), 1)
    writer.symbol(np.maximum(1, 8 >> np.arange(25)), 0)
    with pytest.raises(CoderError, match="last"):
        AdaptiveNumber().code(Reader(writer.finish()), None)


# Frames no sender makes.


class Forgery:
    """Writes a frame number by number, with the right check for what it says."""

    def __init__(self, mode: Mode, *, epoch: int = 0, frame_count: int = 0, state: bytes = bytes(8)) -> None:
        self.writer = Writer()
        self.numbers = {kind: AdaptiveNumber() for kind in NUMBERS}
        self.writer.symbol(np.array([4092, 1, 1, 1, 1]), mode)
        self._hash = hashlib.blake2b(b"" if mode is Mode.RESET else state, digest_size=16, person=b"bitweir frame v1")
        self.absorb(mode, epoch, frame_count)

    def absorb(self, *values: int) -> "Forgery":
        for value in values:
            self._hash.update(value.to_bytes(8, "little"))
        return self

    def position(self, number: int, *, is_fresh: int | None = None) -> "Forgery":
        self.writer.uniform(1 << 16, number)
        if is_fresh is not None:
            self.absorb(self.writer.uniform(2, is_fresh))
        return self

    def say(self, **numbers: int) -> "Forgery":
        for kind, value in numbers.items():
            self.absorb(self.numbers[kind].code(self.writer, value))
        return self

    def happen(self, *events: Grant) -> "Forgery":
        for event in events:
            self._hash.update(event.digest())
        return self

    def uniform(self, size: int, value: int, *absorbed: int) -> "Forgery":
        self.writer.uniform(size, value)
        return self.absorb(*absorbed)

    def bits(self, *, check_is_off_by: int = 0) -> Bits:
        check = int.from_bytes(self._hash.digest()[:2], "little") >> 4
        self.writer.uniform(1 << 12, check ^ check_is_off_by)
        return self.writer.finish()


def opening(*, mode: Mode = Mode.OPENING_ESCAPE, events: int = 2) -> Forgery:
    return Forgery(mode).position(0, is_fresh=1).say(events=events).happen(grant(), grant())


def granted() -> Receiver:
    one = receiver()
    one.grant(grant())
    one.grant(grant())
    return one


def joined(forgery: Forgery) -> Forgery:
    """Both streams join."""
    forgery.say(drops=0, joins=2)
    return forgery.say(join_index=0).absorb(0, 0).say(join_index=0).absorb(1, 0)


def test_a_forgery_without_a_fault_is_accepted() -> None:
    forgery = joined(opening()).say(steps=1).uniform(VOCABULARY, 3).uniform(VOCABULARY, 5, 3, 5)
    decoded = granted().decode(forgery.bits())
    assert (decoded.mode, decoded.texts, decoded.joined) == (Mode.OPENING_ESCAPE, {0: [3], 1: [5]}, {0: 0, 1: 0})
    forgery = opening().say(drops=1).uniform(2, 1, 1).say(joins=0, steps=0)
    assert granted().decode(forgery.bits()).ended == {1: Ending.DROPPED}


FORGERIES = {
    "3 events of 2": lambda: opening(events=3).say(drops=0, joins=0, steps=0),
    "more streams given up": lambda: opening().say(drops=3).uniform(2, 0, 0).uniform(1, 0, 1).say(joins=0, steps=0),
    "3 streams join": lambda: joined_by_force(opening(), 3),
    "waiting stream 2 of 2": lambda: opening().say(drops=0, joins=1, join_index=2).absorb(0, 0).say(steps=0),
    "9 steps": lambda: all_steps(joined(opening()), 9),
    "a step without a stream": lambda: opening().say(drops=0, joins=0, steps=1),
    "changes nothing": lambda: opening_without_events().say(drops=0, joins=0, steps=0),
    "the check": lambda: opening().say(drops=0, joins=0, steps=0),
    "kind normal": lambda: Forgery(Mode.NORMAL).say(events=2).happen(grant(), grant()).say(drops=0, joins=0, steps=0),
    "kind escape": lambda: (
        Forgery(Mode.ESCAPE).position(0).say(events=2).happen(grant(), grant()).say(drops=0, joins=0)
    ),
    "not frame or epoch 0": lambda: Forgery(Mode.OPENING).position(1, is_fresh=1).say(events=0, drops=0),
}


def opening_without_events() -> Forgery:
    return Forgery(Mode.OPENING).position(0, is_fresh=1).say(events=0)


def joined_by_force(forgery: Forgery, count: int) -> Forgery:
    forgery.say(drops=0, joins=count)
    for number in range(count):
        forgery.say(join_index=0).absorb(number, 0)
    return forgery.say(steps=0)


def all_steps(forgery: Forgery, count: int) -> Forgery:
    forgery.say(steps=count)
    for _ in range(5):
        forgery.uniform(VOCABULARY, 1).uniform(VOCABULARY, 2, 1, 2)
    return forgery


@pytest.mark.parametrize("what", FORGERIES)
def test_impossible_frames_are_refused(what: str) -> None:
    one = granted()
    before = one._lane.snapshot()
    with pytest.raises(FrameError, match=what) as caught:
        one.decode(FORGERIES[what]().bits(check_is_off_by=1 if what == "the check" else 0))
    assert caught.value.refusal == Refusal(0, 0, 1)
    assert not isinstance(caught.value, StaleFrameError)
    assert one._lane.snapshot() == before
    assert one.open_streams == {0, 1}


def test_steps_over_the_limit_are_refused_even_with_text_for_all_of_them() -> None:
    one = Receiver(HashPredictor(1), LaneSpec(slot_count=1, end=END, steps_max=2))
    one.grant(grant())
    forgery = Forgery(Mode.OPENING_ESCAPE).position(0, is_fresh=1).say(events=1).happen(grant())
    forgery.say(drops=0, joins=1, join_index=0).absorb(0, 0).say(steps=3)
    for token in (1, 2, 3):
        forgery.uniform(VOCABULARY, token, token)
    with pytest.raises(FrameError, match="3 steps"):
        one.decode(forgery.bits())


def test_three_streams_do_not_join_two_slots() -> None:
    one = granted()
    one.grant(grant())
    forgery = Forgery(Mode.OPENING_ESCAPE).position(0, is_fresh=1).say(events=3).happen(grant(), grant(), grant())
    with pytest.raises(FrameError, match="more than wait or fit"):
        one.decode(joined_by_force(forgery, 3).bits())


def test_only_the_shortest_bits_of_a_frame_are_accepted() -> None:
    bits = opening().say(drops=0, joins=0, steps=0).bits()
    for longer in (Bits(bits.value << 1, bits.count + 1), Bits(bits.value << 40, bits.count + 40)):
        with pytest.raises(FrameError, match="canonical"):
            granted().decode(longer)
    granted().decode(bits)


def test_a_number_said_in_two_ways_is_refused() -> None:
    """Zero drops are the same as last time, so they are not said as a new number; the check would hold."""
    forgery = opening()
    forgery.writer.symbol(np.array([2, 2]), 1)
    forgery.writer.symbol(np.maximum(1, 8 >> np.arange(25)), 0)
    forgery.absorb(0).say(joins=0, steps=0)
    with pytest.raises(FrameError, match="last one"):
        granted().decode(forgery.bits())
