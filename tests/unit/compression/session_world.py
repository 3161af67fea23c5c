"""A lane with both ends and the wires between, for tests: a weak model that is a hash, and a link that misbehaves.

Frames go up in order, damaged or not; events go down in order, late; acknowledgements and refusals go down late, in any
order, twice or never.
"""

import functools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from bitweir_compression.coder import Bits
from bitweir_compression.exact.predictor import Frequencies, SlotBook
from bitweir_compression.exact.temperature import UNIT, Temperature
from bitweir_compression.session.errors import FrameError, StaleFrameError
from bitweir_compression.session.events import Acknowledgement, CodecName, Event, Grant, Refusal
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import Ending, LaneSpec
from bitweir_compression.session.receiver import Decoded, Receiver
from bitweir_compression.session.sender import Frame, Sender

VOCABULARY = 12
END = 0
CONTEXT = 120
TEMPERATURES = (UNIT, Temperature(7, 10), Temperature(3, 2))
# Bits by which a frame says what it is and where it belongs.
POSITION_BITS = 29


@functools.cache
def _row(seed: int, last: tuple[int, ...], temperature: Temperature, size: int) -> Frequencies:
    random = np.random.default_rng([seed, *last, temperature.numerator, temperature.denominator])
    return np.maximum(1, (2 ** random.uniform(0, 20, size)).astype(np.int64))


class HashPredictor:
    """Implements `Predictor`: frequencies are a hash of the last two tokens and the temperature.

    Attributes:
        differs_from: calls of `step` after which one frequency is another than it should be.
    """

    fingerprint = "0" * 64

    def __init__(self, slot_count: int, *, seed: int = 0, size: int = VOCABULARY, context: int = CONTEXT) -> None:
        self.vocabulary_size, self.context_tokens, self.slot_count = size, context, slot_count
        self.differs_from: int | None = None
        self.step_count = 0
        self._seed = seed
        self._book = SlotBook(slot_count, context, size)

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature = UNIT) -> None:
        self._book.admit(slot, prompt, temperature)

    def step(self, slots: Sequence[int]) -> Frequencies:
        entries = self._book.step(slots)
        for entry in entries:
            entry.is_stepped = True
        self.step_count += 1
        rows = [_row(self._seed, tuple(one.tokens[-2:]), one.temperature, self.vocabulary_size) for one in entries]
        result = np.stack(rows)
        if self.differs_from is not None and self.step_count > self.differs_from:
            result[-1, -1] += 1
        return result

    def commit(self, tokens: Mapping[int, int]) -> None:
        self._book.commit(tokens)

    def release(self, slot: int) -> None:
        self._book.release(slot)

    def held(self) -> set[int]:
        """Slots that hold a sequence."""
        return set(self._book._slots)


def grant_of(random: Random, **fields) -> Grant:
    """Any grant."""
    given = {
        "prompt": tuple(random.randrange(VOCABULARY) for _ in range(random.randint(1, 6))),
        "codec": random.choice(list(CodecName)),
        "key": random.randbytes(32),
        "temperature": random.choice(TEMPERATURES),
        "tokens_max": random.randint(1, 40),
        "candidate_count": random.choice([1, 1, 2, 1000]),
    }
    return Grant(**given | fields)


def answer_to(random: Random, grant: Grant) -> list[int]:
    """A whole answer: to the end token or the limit."""
    tokens: list[int] = []
    while len(tokens) < grant.tokens_max and END not in tokens:
        tokens.append(random.randrange(VOCABULARY))
    return tokens


class AcceptedByChanceError(Exception):
    """A damaged frame passed its check: 1 in 4096."""


@dataclass
class Story:
    """What a test knows of one stream."""

    grant: Grant
    answer: list[int]
    candidate: int
    written: int = 0
    shown: list[int] = field(default_factory=list)
    ending: Ending | None = None


class World:
    """Both ends and the wires; a step is a method."""

    def __init__(self, seed: int, *, damage: float = 0.0, escapes_max: int = 1000, waiting_max: int = 40) -> None:
        self.random = Random(seed)
        self.damage = damage
        self.escapes_max = escapes_max
        slot_count = self.random.randint(1, 5)
        self.spec = LaneSpec(slot_count=slot_count, end=END, waiting_max=waiting_max, frame_bits_max=40 * 5 + 800)
        self.sender = self.new_sender()
        self.outer_model = HashPredictor(slot_count)
        self.receiver = Receiver(self.outer_model, self.spec)
        self.up: deque[Bits] = deque()
        self.down: deque[tuple[int, Event]] = deque()
        self.answers: list[Acknowledgement | Refusal] = []
        self.stories: dict[int, Story] = {}
        self.granted: list[int] = []
        self.frames: list[Frame] = []
        self.damaged = self.failed = self.resets = self.restarts = self.opening_damaged = 0

    def new_sender(self) -> Sender:
        """An inner end that knows nothing."""
        self.inner_model = HashPredictor(self.spec.slot_count)
        return Sender(self.inner_model, self.spec, escapes_max=self.escapes_max)

    # What outer does.

    def grant(self, **fields) -> int | None:
        if len(self.receiver.open_streams) >= self.spec.waiting_max:
            return None
        grant = grant_of(self.random, **fields)
        number = self.receiver.grant(grant)
        candidate = self.random.randrange(grant.candidate_count)
        self.stories[number] = Story(grant, answer_to(self.random, grant), candidate)
        self.down.append((number, grant))
        return number

    def cancel(self) -> None:
        if self.receiver.open_streams:
            number = self.receiver.cancel(self.random.choice(sorted(self.receiver.open_streams)))
            self.down.append((number, self.receiver.event(number)))

    def restart(self, *, is_crash: bool = False) -> None:
        """Begin an epoch; after a crash of inner its frames may still be on their way, and it knows nothing."""
        number, event, lost = self.receiver.restart()
        self.restarts += 1
        assert event == self.receiver.event(number)
        for stream in lost:
            assert self.stories[stream].ending is None
            self.stories[stream].ending = Ending.LOST
        if is_crash:
            self.down.clear()
            self.granted.clear()
            self.sender = self.new_sender()
        self.down.append((number, event))

    # What inner does.

    def deliver_event(self) -> None:
        if self.down:
            number, event = self.down.popleft()
            self.sender.receive(number, event)
            if number in self.stories:
                self.granted.append(number)

    def write(self, count: int | None = None) -> None:
        """Offer some more of some answer; the later streams as likely as the earlier ones."""
        able = [number for number in self.granted if self.stories[number].written < len(self.stories[number].answer)]
        if able:
            self.write_to(self.random.choice(able), count or self.random.choice([1, 2, 5, 30]))

    def write_to(self, number: int, count: int) -> None:
        story = self.stories[number]
        part = story.answer[story.written : story.written + count]
        self.sender.offer(number, part, story.candidate)
        story.written += len(part)

    def drop(self) -> None:
        if self.granted:
            self.sender.drop(self.random.choice(self.granted))

    def frame(self, steps: int | None = None, *, is_urgent: bool = False) -> bool:
        frame = self.sender.frame(steps or self.random.randint(1, 20), is_urgent=is_urgent)
        if frame is not None:
            assert frame.bits.count <= self.spec.frame_bits_max
            self.up.append(frame.bits)
            self.frames.append(frame)
        return frame is not None

    # What the link does.

    def arrive(self) -> Decoded | None:
        """Let the oldest frame arrive, perhaps with a bit or all of them changed."""
        if not self.up:
            return None
        sent = bits = self.up.popleft()
        if self.random.random() < self.damage and sent.count:
            self.damaged += 1
            place = self.random.choice([self.random.randrange(sent.count), self.random.randrange(POSITION_BITS)])
            changed = 1 << sent.count - 1 - min(place, sent.count - 1)
            bits = Bits(sent.value ^ changed, sent.count)
        return self.decode(bits, is_damaged=bits != sent)

    def decode(self, bits: Bits, *, is_damaged: bool = False) -> Decoded | None:
        """Decode as outer does, and check all it says."""
        before = (self.receiver.state, self.receiver.open_streams, self.receiver._lane.snapshot())
        try:
            decoded = self.receiver.decode(bits)
        except FrameError as error:
            assert before == (self.receiver.state, self.receiver.open_streams, self.receiver._lane.snapshot())
            assert not self.outer_model.held()
            self.failed += not isinstance(error, StaleFrameError)
            if error.refusal:
                assert error.refusal == self.receiver.answer
                self._send_down(error.refusal)
            return None
        if is_damaged:
            raise AcceptedByChanceError
        self.resets += decoded.mode is Mode.RESET
        self._show(decoded)
        self._send_down(decoded.acknowledgement)
        return decoded

    def _show(self, decoded: Decoded) -> None:
        for stream, candidate in decoded.joined.items():
            assert candidate == self.stories[stream].candidate
        for stream, tokens in decoded.texts.items():
            story = self.stories[stream]
            story.shown += tokens
            assert story.ending is None
            assert story.shown == story.answer[: len(story.shown)]
            assert len(story.shown) <= story.written
        for stream, ending in decoded.ended.items():
            assert self.stories[stream].ending is None
            self.stories[stream].ending = ending

    def _send_down(self, answer: Acknowledgement | Refusal) -> None:
        self.answers += [answer] * self.random.choice([0, 1, 1, 1, 2] if self.damage else [1])

    def deliver_answer(self) -> None:
        """Let an acknowledgement or refusal arrive, not always the oldest."""
        if self.answers:
            place = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.answers))
            self.answer(self.answers.pop(place))

    def answer(self, answer: Acknowledgement | Refusal) -> None:
        if isinstance(answer, Refusal):
            self.sender.refuse(answer)
        else:
            self.sender.acknowledge(answer)

    # What holds.

    def check(self) -> None:
        """Nothing is on its way: both ends are equal."""
        if not (self.up or self.down or self.sender.in_flight_count) and not self.is_recovering:
            assert self.sender.state == self.receiver.state

    @property
    def is_recovering(self) -> bool:
        return isinstance(self.receiver.answer, Refusal)

    def settle(self) -> int:
        """Let everything arrive, be written and be sent, on a good link; returns how often outer restarted."""
        self.damage, stalls = 0.0, 0
        for _ in range(3000):
            while self.down:
                self.deliver_event()
            for number in self.granted:
                if self.stories[number].written < len(self.stories[number].answer):
                    self.write_to(number, CONTEXT)
            while self.up:
                self.arrive()
            while self.answers:
                self.answer(self.answers.pop(0))
            self.answer(self.receiver.answer)
            if self.frame(20, is_urgent=True):
                continue
            if not self.sender.in_flight_count and not self.receiver.open_streams:
                break
            if not self.up:
                # Outer's clock: nothing comes, so it begins again. That is needed after a reset, and where the first
                # frame of an epoch was damaged so that it looks like one of the epoch before.
                assert self.receiver._is_reset or (self.receiver._may_be_old and not self.receiver._lane.is_open)
                stalls += 1
                self.restart()
        self._check_end()
        return stalls

    def _check_end(self) -> None:
        assert not self.receiver.open_streams
        assert self.sender.state == self.receiver.state
        sender, receiver = self.sender, self.receiver
        # A fresh sender's first frame says that all learnt is forgotten.
        assert sender._lane.learnt() == receiver._lane.learnt() or not sender._lane.is_open
        assert not (sender._offers or sender._begun or sender._dropped or sender._in_flight)
        assert sender._events.first == sender._events.next == sender._lane.consumed_count
        assert receiver._events.next == receiver._lane.consumed_count
        assert not (sender._lane.waiting or sender._lane.slots or self.inner_model.held() or self.outer_model.held())
        for story in self.stories.values():
            assert story.ending is not None
            assert story.shown == story.answer[: len(story.shown)]
            if story.ending in {Ending.END, Ending.LENGTH}:
                assert story.shown == story.answer
