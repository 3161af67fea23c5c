"""What goes into a frame: as much as fits, in the order of the grants, and all of it or nothing."""

import sys
from types import FrameType

import pytest

from bitweir_compression.coder import MESSAGE_BITS_MAX
from bitweir_compression.errors import CoderError
from bitweir_compression.exact.errors import ExactRangeError, PredictorError
from bitweir_compression.exact.predictor import NGramPredictor
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.session.errors import SessionError
from bitweir_compression.session.events import CodecName, Grant, Refusal
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from tests.unit.compression.session_world import END, VOCABULARY, HashPredictor

KEY = bytes(32)


def grant(**fields) -> Grant:
    return Grant(**{"prompt": (1,), "codec": CodecName.ARITHMETIC, "key": KEY, "tokens_max": 100} | fields)


def ends(spec: LaneSpec, count: int, *, model=HashPredictor, **fields) -> tuple[Sender, Receiver]:
    sender, receiver = Sender(model(spec.slot_count), spec), Receiver(model(spec.slot_count), spec)
    for number in range(count):
        one = grant(**fields)
        assert receiver.grant(one) == number
        sender.receive(number, one)
    return sender, receiver


def drain(sender: Sender, receiver: Receiver, steps: int = 1) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    while frame := sender.frame(steps, is_urgent=True):
        assert frame.bits.count <= sender._lane.spec.frame_bits_max
        decoded = receiver.decode(frame.bits)
        for number, tokens in decoded.texts.items():
            texts.setdefault(number, []).extend(tokens)
        sender.acknowledge(decoded.acknowledgement)
    assert sender.state == receiver.state
    return texts


# When a frame is made.


def test_steps_are_waited_for_unless_an_answer_is_complete_or_it_is_urgent() -> None:
    sender, _ = ends(LaneSpec(slot_count=3, end=END), 3)
    assert sender.frame(1).token_count == 0
    assert sender.frame(1) is None
    sender.offer(0, [1, 1])
    sender.offer(1, [1, 1, 1])
    sender.offer(2, [1, END])
    frame = sender.frame(3)
    # Stream 0 has too little and waits; 2 is complete.
    assert (frame.step_count, frame.token_count) == (3, 5)
    assert sender.frame(3) is None
    sender.offer(1, [1, 1])
    assert sender.frame(3) is None
    frame = sender.frame(3, is_urgent=True)
    assert (frame.step_count, frame.token_count) == (2, 4)
    sender.offer(1, [1, 1])
    assert sender.frame(1, is_urgent=True) is None
    sender.offer(0, [1])
    assert sender.frame(1).token_count == 2


def test_streams_join_in_the_order_of_grants_if_they_have_text() -> None:
    sender, receiver = ends(LaneSpec(slot_count=2, end=END), 5)
    for number in (4, 2, 1):
        sender.offer(number, [1, 1])
    assert list(receiver.decode(sender.frame(2).bits).joined) == [1, 2]
    for number in (1, 2, 0):
        sender.offer(number, [END])
    assert list(receiver.decode(sender.frame(2).bits).ended) == [1, 2]
    assert list(receiver.decode(sender.frame(2).bits).joined) == [0, 4]


def test_an_order_that_was_taken_back_is_the_same_again() -> None:
    sender, receiver = ends(LaneSpec(slot_count=1, end=END), 4, candidate_count=9)
    for number in (3, 1, 2):
        sender.offer(number, [1, END], number)
    frames = [sender.frame(2) for _ in range(3)]
    assert [frame.token_count for frame in frames] == [2, 2, 2]
    sender.refuse(Refusal(0, 0, 1))
    sender.offer(0, [2, END], 5)
    joined = [dict(receiver.decode(sender.frame(2).bits).joined) for _ in range(4)]
    assert joined == [{0: 5}, {1: 1}, {2: 2}, {3: 3}]


# As much as fits.


def test_a_frame_holds_fewer_steps_where_more_do_not_fit() -> None:
    spec = LaneSpec(slot_count=2, end=END, frame_bits_max=336)
    sender, receiver = ends(spec, 3)
    text = [1 + index * 5 % 11 for index in range(99)]
    sender.offer(0, text)
    sender.offer(1, text)
    first = sender.frame(99)
    assert 1 < first.step_count < 99
    assert 336 // 2 < first.bits.count <= 336
    # One that has less than was waited for does not join because of it.
    other, _ = ends(LaneSpec(slot_count=3, end=END, frame_bits_max=376), 3)
    for number, tokens in ((0, text), (1, text), (2, [1])):
        other.offer(number, tokens)
    assert other.frame(99).step_count > 1
    receiver.decode(first.bits)
    texts = drain(sender, receiver, 99)
    assert [first.step_count + len(texts[number]) for number in (0, 1)] == [99, 99]


def test_many_drops_take_several_frames() -> None:
    count = 6000
    sender, receiver = ends(LaneSpec(slot_count=2, end=END, frame_bits_max=2000), count)
    sender.offer(0, [1])
    assert sender.frame(1).token_count == 1
    sender, receiver = ends(LaneSpec(slot_count=2, end=END, frame_bits_max=2000), count)
    for number in range(count):
        sender.drop(number)
    drain(sender, receiver)
    assert not receiver.open_streams
    assert not sender._offers


def test_joins_and_drops_of_one_frame_are_halved_together() -> None:
    """Candidates and indices take more bits than one step of all slots may."""
    spec = LaneSpec(slot_count=30, end=END, waiting_max=5000, frame_bits_max=30 * 40 + 256)
    sender, receiver = ends(spec, 4000, candidate_count=1 << 16)
    for number in range(3000, 4000, 2):
        sender.offer(number, [1, END], number)
    for number in range(0, 600, 7):
        sender.drop(number)
    texts = drain(sender, receiver)
    assert texts == {number: [1, END] for number in range(3000, 4000, 2)}
    assert len(receiver.open_streams) == 4000 - 500 - 86


def test_a_message_beyond_the_coders_limit_is_never_written() -> None:
    class Dull(HashPredictor):
        """Escapes of a vocabulary this large take 23 bits."""

        def __init__(self, slot_count: int) -> None:
            super().__init__(slot_count, size=1 << 23, context=1 << 20)

    spec = LaneSpec(slot_count=1, end=END, steps_max=100_000)
    sender, receiver = ends(spec, 1, model=Dull, tokens_max=60_000)
    sender.refuse(Refusal(0, 0, 1))
    sender.offer(0, [5_000_001] * 50_000)
    sender._escapes_due = 1
    assert MESSAGE_BITS_MAX < 23 * 50_000
    frame = sender.frame(50_000)
    assert frame.mode is Mode.OPENING_ESCAPE
    assert 100 < frame.step_count < 400
    assert receiver.decode(frame.bits).texts == {0: [5_000_001] * frame.step_count}


def test_a_step_that_cannot_fit_is_an_error_that_changes_nothing() -> None:
    sender, _ = ends(LaneSpec(slot_count=1, end=END), 1)
    sender.offer(0, [1, 2])
    object.__setattr__(sender._lane.spec, "frame_bits_max", 8)
    before = sender._lane.snapshot()
    with pytest.raises(SessionError, match="does not fit"):
        sender.frame(2)
    assert sender._lane.snapshot() == before
    object.__setattr__(sender._lane.spec, "frame_bits_max", 800)
    assert sender.frame(2).token_count == 2


# Weak models that fail.


class Failing(HashPredictor):
    """Raises at some call."""

    error: BaseException | None = None
    calls_left = 0

    def _call(self) -> None:
        self.calls_left -= 1
        if self.error and self.calls_left < 0:
            raise self.error

    def admit(self, *arguments) -> None:
        self._call()
        super().admit(*arguments)

    def step(self, *arguments):
        self._call()
        return super().step(*arguments)

    def commit(self, *arguments) -> None:
        self._call()
        super().commit(*arguments)


def test_text_the_weak_model_cannot_read_goes_as_an_escape() -> None:
    spec = LaneSpec(slot_count=2, end=END)
    sender, receiver = ends(spec, 2, model=Failing)
    model = sender._lane.predictor
    for number in range(2):
        sender.offer(number, [1, 2, 3, 4])
    assert receiver.decode(sender.frame(2).bits).mode is Mode.OPENING
    model.error, model.calls_left = ExactRangeError("out of range"), 2
    frame = sender.frame(2)
    assert (frame.mode, frame.token_count) == (Mode.ESCAPE, 4)
    assert receiver.decode(frame.bits).texts == {0: [3, 4], 1: [3, 4]}
    model.error = None
    assert sender.escape_count == 1
    for number in range(2):
        sender.offer(number, [5])
    assert receiver.decode(sender.frame(1).bits).mode is Mode.NORMAL


def test_text_the_weak_model_cannot_read_ends_in_a_reset_beyond_the_cap() -> None:
    spec = LaneSpec(slot_count=1, end=END)
    sender = Sender(Failing(1), spec, escapes_max=2)
    sender.receive(0, grant())
    sender.offer(0, [1] * 9)
    sender._lane.predictor.error = ExactRangeError("out of range")
    modes = [sender.frame(2).mode for _ in range(3)]
    assert modes == [Mode.OPENING_ESCAPE, Mode.ESCAPE, Mode.RESET]
    assert sender.frame(2) is None


@pytest.mark.parametrize("calls", range(7))
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), PredictorError("no"), CoderError("no"), MemoryError()], ids=repr
)
def test_a_weak_model_that_raises_at_any_call_leaves_both_ends_as_they_were(calls: int, error: BaseException) -> None:
    spec = LaneSpec(slot_count=2, end=END)
    sender, receiver = ends(spec, 2, model=Failing)
    for number in range(2):
        sender.offer(number, [1, 2, 3])
    model = sender._lane.predictor
    before = sender._lane.snapshot()
    model.error, model.calls_left = error, calls
    if calls < 6:
        with pytest.raises(type(error)):
            sender.frame(2)
        assert sender._lane.snapshot() == before
        assert not model.held()
    model.error = None
    frame = sender.frame(2)
    model = receiver._lane.predictor
    model.error, model.calls_left = error, calls
    before = receiver._lane.snapshot()
    if calls < 6 and not isinstance(error, PredictorError | CoderError):
        with pytest.raises(type(error)):
            receiver.decode(frame.bits)
        assert receiver._lane.snapshot() == before
        assert not model.held()
    model.error = None
    assert receiver.decode(frame.bits).texts == {0: [1, 2], 1: [1, 2]}


def test_a_temperature_the_weak_model_has_not_is_an_error_until_the_stream_is_dropped() -> None:
    spec = LaneSpec(slot_count=2, end=END)
    sender = Sender(NGramPredictor({}, VOCABULARY, slot_count=2), spec)
    sender.receive(0, grant())
    sender.receive(1, grant(temperature=Temperature(1, 2)))
    for number in range(2):
        sender.offer(number, [1, 2])
    for _ in range(2):
        with pytest.raises(PredictorError, match="temperature"):
            sender.frame(1)
    sender.drop(1)
    assert sender.frame(1).token_count == 1


class Interrupts:
    """Raises KeyboardInterrupt at the n-th line that runs in some modules."""

    def __init__(self, place: int) -> None:
        self.left = place

    def __call__(self, frame: FrameType, event: str, _argument: object):
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("bitweir_compression.session.", "bitweir_compression.exact.predictor")):
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def state_of(sender: Sender) -> tuple:
    sent = list(sender._in_flight)
    counts = (sender.escape_count, sender._escapes_due, sender._sent_place, sender._answered_place, sender._is_closed)
    waiting = {number: list(stream.tokens) for number, stream in sender._lane.waiting.items()}
    slots = {slot: list(stream.tokens) for slot, stream in sender._lane.slots.items()}
    return sender._lane.snapshot(), sent, counts, waiting, slots, sender._must_reset


def busy_sender(kind: str) -> Sender:
    """A sender that is about to make a frame the hard way."""
    spec = LaneSpec(slot_count=2, end=END, frame_bits_max=336)
    sender, _ = ends(spec, 3, model=Failing)
    sender.offer(1, [1, 2, 3])
    assert sender.frame(2)
    sender.drop(1)
    long = 70 if kind == "split" else 2
    sender.offer(0, [1 + index * 5 % 11 for index in range(long)])
    sender.offer(2, [3, END])
    if kind == "range":
        sender._lane.predictor.error, sender._lane.predictor.calls_left = ExactRangeError("out of range"), 3
    if kind == "reset":
        sender._must_reset = True
    return sender


@pytest.mark.parametrize("kind", ["plain", "split", "range", "reset"])
def test_an_interrupt_at_any_line_changes_nothing(kind: str) -> None:
    steps = 70 if kind == "split" else 2
    expected = busy_sender(kind).frame(steps)
    place, sender = 0, busy_sender(kind)
    before = state_of(sender)
    while True:
        tracer = sys.gettrace()
        sys.settrace(Interrupts(place))
        try:
            frame = sender.frame(steps)
        except KeyboardInterrupt:
            frame = None
        finally:
            sys.settrace(tracer)
        if frame is not None:
            break
        assert state_of(sender) == before, place
        sender._lane.predictor.calls_left = 3
        # Each line of the first two hundred, then fewer: a long frame repeats itself.
        place += 1 if place < 200 else 1 + place // 40
    assert frame.bits == expected.bits
    assert place > 40


# Many streams.


def test_very_many_waiting_streams_cost_no_more_than_they_must() -> None:
    """Quadratic work would take minutes here."""
    count = 30_000
    spec = LaneSpec(slot_count=8, end=END, waiting_max=count)
    sender, receiver = ends(spec, count)
    for number in range(count - 40, count):
        sender.offer(number, [1, END])
    assert len(drain(sender, receiver)) == 40
    for number in range(0, count - 40, 2):
        cancel = receiver.cancel(number)
        sender.receive(cancel, receiver.event(cancel))
    for number in range(1, count - 40, 2):
        sender.drop(number)
    drain(sender, receiver)
    assert not receiver.open_streams
