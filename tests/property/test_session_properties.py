"""Laws of a session: frames say what they cost, what is decoded is what was encoded, and damage is noticed."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.coder import Bits, Reader, Writer
from bitweir_compression.errors import CompressionError
from bitweir_compression.session.errors import FrameError
from bitweir_compression.session.events import CodecName, Refusal
from bitweir_compression.session.frame import CHECK_BITS, Content, Mode, code_frame
from bitweir_compression.session.lane import Ending, Lane, LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from tests.unit.compression.session_world import END, HashPredictor, World, answer_to, grant_of

EVERY_MODE = tuple(Mode)


class Again:
    """Implements `Source`: what a frame held, to be written once more."""

    def __init__(self, content: Content, lane: Lane, *, is_fresh: bool) -> None:
        self.mode, self.is_fresh = content.mode, is_fresh
        self._content, self._lane = content, lane
        self._left = {number: list(tokens) for number, tokens in content.texts.items()}

    def event_count(self) -> int:
        return len(self._content.events)

    def drops(self) -> list[int]:
        return [number for number, ending in self._content.ended.items() if ending is Ending.DROPPED]

    def joins(self) -> list[tuple[int, int]]:
        return list(self._content.joined.items())

    def step_count(self) -> int:
        return self._content.step_count

    def token(self, slot: int) -> int:
        return self._left[self._lane.slots[slot].number].pop(0)


class Pair:
    """Both ends on a link that loses nothing, for tests that look at single frames."""

    def __init__(self, seed: int, *, streams: int = 6, **fields) -> None:
        self.random = Random(seed)
        self.spec = LaneSpec(slot_count=self.random.randint(1, 4), end=END, steps_max=24)
        self.sender = Sender(HashPredictor(self.spec.slot_count), self.spec)
        self.receiver = Receiver(HashPredictor(self.spec.slot_count), self.spec)
        for _ in range(streams):
            grant = grant_of(self.random, **fields)
            number = self.receiver.grant(grant)
            self.sender.receive(number, grant)
            self.sender.offer(number, answer_to(self.random, grant), self.random.randrange(grant.candidate_count))

    def frame(self):
        return self.sender.frame(self.random.randint(1, 12), is_urgent=True)

    def deliver(self, bits: Bits) -> None:
        self.sender.acknowledge(self.receiver.decode(bits).acknowledgement)

    def forget_failure(self) -> None:
        """Let outer be as if the last frame had not come."""
        self.receiver._is_recovering = False
        self.receiver._failure_count = self.receiver._dropped_count = 0

    def fails(self, bits: Bits) -> FrameError:
        """Decode a bad frame, check that nothing of it stays, and return the error."""
        before = (self.receiver.state, self.receiver.open_streams, self.receiver._lane.snapshot())
        texts = [list(stream.tokens) for _, stream, _ in before[2].slots]
        with pytest.raises(FrameError) as caught:
            self.receiver.decode(bits)
        assert before == (self.receiver.state, self.receiver.open_streams, self.receiver._lane.snapshot())
        assert texts == [stream.tokens for _, stream, _ in before[2].slots]
        return caught.value


@settings(max_examples=8)
@given(seed=st.integers(0, 2**64), damage=st.sampled_from([0, 0.2]))
def test_what_is_decoded_is_written_as_the_same_frame(seed: int, damage: float) -> None:
    """Whatever its mode: the content of every frame, encoded again, gives its very bits."""
    world = World(seed, damage=damage)
    other = Lane(HashPredictor(world.spec.slot_count), world.spec)
    reading, is_fresh = world.receiver, world.sender._is_fresh

    def decode(bits: Bits):
        before, events = other.snapshot(), reading._events.since(other.consumed_count)
        decoded = Receiver.decode(reading, bits)
        content = code_frame(other, Reader(bits), events, accepts=EVERY_MODE)
        other.restore(before)
        writer = Writer()
        code_frame(other, writer, events, accepts=EVERY_MODE, source=Again(content, other, is_fresh=is_fresh))
        assert writer.finish() == bits
        assert other.state == reading.state
        return decoded

    reading.decode = decode
    for name in world.random.choices(["grant", "deliver_event", "write", "frame", "arrive", "deliver_answer"], k=150):
        getattr(world, name)()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**64), codec=st.sampled_from(list(CodecName)), is_escape=st.booleans())
def test_a_frame_has_the_bits_that_its_parts_say(seed: int, codec: CodecName, is_escape: bool) -> None:
    pair = Pair(seed, codec=codec)
    if is_escape:
        frame = pair.frame()
        pair.sender.refuse(Refusal(0, 0, 1))
    token_count = 0
    while frame := pair.frame():
        assert frame.ideal_bits["check"] == CHECK_BITS
        ideal = sum(frame.ideal_bits.values())
        assert abs(frame.bits.count - ideal) <= 8 + 0.01 * ideal
        token_count += frame.token_count
        if not is_escape:
            pair.deliver(frame.bits)
    assert token_count


def survivors_of_flips(pair: Pair, bits: Bits) -> int:
    """Flip every bit of the next good frame in turn; returns how often nobody noticed."""
    count = 0
    for place in range(bits.count):
        flipped = Bits(bits.value ^ (1 << place), bits.count)
        snapshot = pair.receiver._lane.snapshot()
        try:
            pair.receiver.decode(flipped)
        except FrameError:
            assert pair.receiver._lane.snapshot() == snapshot
        else:
            count += 1
            pair.receiver._lane.restore(snapshot)
            pair.receiver._open = set(pair.receiver._open) | {stream.number for stream in snapshot.waiting}
        pair.forget_failure()
    return count


def poisson_tail(count: int, mean: float) -> float:
    """P(X >= count)."""
    return 1 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(count))


def test_one_flipped_bit_anywhere_is_noticed() -> None:
    """At most what 12 bits of check let through: more than this many survivors have odds below one in a million."""
    flips = survivors = 0
    for seed in range(100):
        # Most with the codec that is decoded fastest: the check does not know the codecs.
        codec = {} if seed % 5 == 0 else {"codec": CodecName.ARITHMETIC}
        pair = Pair(seed, streams=4, tokens_max=6, **codec)
        while frame := pair.frame():
            survivors += survivors_of_flips(pair, frame.bits)
            flips += frame.bits.count
            pair.deliver(frame.bits)
        if flips >= 5000:
            break
    assert flips >= 5000
    allowed = next(count for count in range(100) if poisson_tail(count + 1, flips / (1 << CHECK_BITS)) < 1e-6)
    assert survivors <= allowed, f"{survivors} of {flips} flips passed"


def test_a_flipped_bit_of_what_an_opening_says_is_noticed() -> None:
    """Also the one that says whether all that was learnt is forgotten, where both would decode the same."""
    for seed in range(40):
        pair = Pair(seed, streams=2, tokens_max=3)
        bits = pair.frame().bits
        for place in range(29):
            pair.fails(Bits(bits.value ^ (1 << bits.count - 1 - place), bits.count))
            pair.forget_failure()


BAD = st.one_of(
    st.tuples(st.just("cut"), st.integers(1, 400)),
    st.tuples(st.just("longer"), st.integers(1, 64)),
    st.tuples(st.just("random"), st.integers(0, 2**400)),
    st.tuples(st.just("many"), st.integers(2, 2**60)),
)


def damaged(bits: Bits, kind: str, value: int) -> Bits:
    if kind == "cut":
        lost = min(value, bits.count)
        return Bits(bits.value >> lost, bits.count - lost)
    if kind == "longer":
        return Bits((bits.value << value) | (value & 1), bits.count + value)
    if kind == "random":
        return Bits(value, max(1, value.bit_length()))
    return Bits((bits.value ^ value) % (1 << bits.count), bits.count)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**64), bad=st.lists(BAD, min_size=1, max_size=6), good=st.integers(0, 6))
def test_bad_bits_are_refused_and_change_nothing(seed: int, bad: list[tuple[str, int]], good: int) -> None:
    pair = Pair(seed)
    for _ in range(good):
        if frame := pair.frame():
            pair.deliver(frame.bits)
    frame = pair.frame()
    if frame is None:
        return
    answer = None
    for kind, value in bad:
        bits = damaged(frame.bits, kind, value)
        if bits != frame.bits:
            answer = pair.fails(bits).refusal or answer
    is_escape = answer is not None
    if is_escape:
        assert answer == pair.receiver.answer
        pair.sender.refuse(answer)
        frame = pair.frame()
    assert frame.mode.escapes is is_escape
    pair.deliver(frame.bits)
    assert pair.sender.state == pair.receiver.state
    while frame := pair.frame():
        pair.deliver(frame.bits)
    assert not pair.receiver.open_streams


@settings(max_examples=40)
@given(seed=st.integers(0, 2**64), from_step=st.integers(0, 40), codec=st.sampled_from(list(CodecName)))
def test_other_frequencies_are_noticed_and_escapes_go_on(seed: int, from_step: int, codec: CodecName) -> None:
    world = World(seed)
    world.outer_model.differs_from = from_step
    for _ in range(8):
        world.grant(codec=codec)
    assert world.settle() == 0
    assert all(story.shown == story.answer for story in world.stories.values())
    assert world.sender.refusal_count == world.failed
    is_noticed = world.outer_model.step_count > from_step
    assert bool(world.sender.escape_count) is is_noticed


@settings(max_examples=30)
@given(seed=st.integers(0, 2**64), size=st.integers(1, 300))
def test_a_reader_of_random_bits_raises_only_typed_errors(seed: int, size: int) -> None:
    """With the mode of a good frame in front, so that more than the mode is read."""
    pair = Pair(seed)
    pair.deliver(pair.frame().bits)
    lane, events = pair.receiver._lane, pair.receiver._events
    before = lane.snapshot()
    for _ in range(10):
        bits = Bits(pair.random.getrandbits(size), size)
        with pytest.raises(CompressionError):
            reader = Reader(bits)
            code_frame(lane, reader, events.since(lane.consumed_count), accepts=EVERY_MODE)
            reader.finish()
        lane.restore(before)
