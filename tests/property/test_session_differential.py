"""A lane against the oracle written from the format's text alone: every frame says the same to both, and what one
refuses the other refuses too, with the same refusal to send down.

A run is a list of actions: grants, answers, cancels, drops, frames whose way may be bad, restarts. Whatever happened,
in the end everything that was offered and still wanted has arrived.
"""

import contextlib
import functools
import hashlib
import json
from collections import deque
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression import noise
from bitweir_compression.coder import Bits
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.predictor import ExactPredictor, NGramPredictor, Predictor
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.noise import NoiseStream
from bitweir_compression.reference_coder import ReferenceEncoder, boundaries, uniform_boundaries
from bitweir_compression.session.errors import FrameError, StaleFrameError
from bitweir_compression.session.events import Cancel, CodecName, Event, Grant, Refusal
from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import LaneSpec
from bitweir_compression.session.receiver import Decoded, Receiver
from bitweir_compression.session.sender import Sender
from tests.unit.compression.session_oracle import NumberKind, OracleError, OracleLane
from tests.vectors import make_session

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
FROZEN = json.loads((VECTORS / "session.json").read_text())
CODECS = tuple(CodecName)
TEMPERATURES = (Temperature(1, 1), Temperature(7, 10), Temperature(13, 10), Temperature(2, 1))
ANSWER_MAX = 12
# What can become of a frame on its way; most arrive.
FATES = ("good",) * 7 + ("unacknowledged", "flipped", "random", "longer", "shorter")
ACTIONS = ("grant",) * 8 + ("write",) * 16 + ("frame",) * 10 + ("arrive",) * 10 + ("cancel", "drop", "restart")


def ends_in_a_pair(grant: Grant, tokens: list) -> bool:
    """A rule of a lane's own for `finished`."""
    return len(tokens) > 2 and tokens[-1] == tokens[-2]


class AcceptedByChanceError(Exception):
    """A damaged frame passed its check, 1 in 4096: from here on the two ends cannot agree."""


class Run:
    """Both ends of a lane, the oracle beside the receiver, and the wires between."""

    def __init__(self, predictor, slot_count: int, seed: int, finished, temperatures=TEMPERATURES[:1]) -> None:
        size = predictor(1).vocabulary_size
        self.random = Random(seed)
        self.spec = LaneSpec(slot_count=slot_count, end=self.random.randrange(size), steps_max=64)
        self.finished, self.temperatures, self.size = finished, temperatures, size
        self._predictor = predictor
        self._alone = predictor(1)
        self.frequencies = functools.cache(self._frequencies)
        self.receiver = Receiver(predictor(slot_count), self.spec, finished=finished)
        self.sender = self._new_sender()
        self.oracle = OracleLane(
            size, slot_count, self.spec.end, lambda tokens, t: self.frequencies(tuple(tokens), t), finished
        )
        # Events on their way down, and frames on their way up.
        self.down: deque[tuple[int, Event]] = deque()
        self.up: deque[Bits] = deque()
        self.grants: dict[int, Grant] = {}
        self.offered: dict[int, list[int]] = {}
        self.candidates: dict[int, int] = {}
        self.shown: dict[int, list[int]] = {}
        self.unwanted: set[int] = set()

    def _new_sender(self) -> Sender:
        predictor, escapes_max = self._predictor(self.spec.slot_count), self.random.choice([1000, 2])
        return Sender(predictor, self.spec, finished=self.finished, escapes_max=escapes_max)

    def _frequencies(self, tokens: tuple[int, ...], temperature: Temperature) -> list[int]:
        self._alone.admit(0, tokens, temperature)
        try:
            return self._alone.step([0])[0].tolist()
        finally:
            self._alone.release(0)

    def act(self, name: str) -> None:
        random = self.random
        if name == "grant":
            self.grant(random.choice(CODECS), random.randint(1, ANSWER_MAX), random.choice([1, 1, 2, 5, 300]))
        elif name == "write":
            self.write(random.randint(1, ANSWER_MAX))
        elif name == "frame":
            if random.random() < 0.75:
                self.deliver_events()
            self.frame(random.randint(1, 7), is_urgent=random.random() < 0.7)
        elif name == "arrive":
            self.arrive(random.choice(FATES))
        elif name == "cancel" and self.receiver.open_streams:
            number = random.choice(sorted(self.receiver.open_streams))
            self._issue(self.receiver.cancel(number))
            self.unwanted.add(number)
        elif name == "drop" and self.offered:
            number = random.choice(sorted(self.offered))
            self.sender.drop(number)
            self.unwanted.add(number)
        elif name == "restart":
            self.restart(is_crash=random.random() < 0.3)

    def grant(self, codec: CodecName, tokens_max: int, candidate_count: int) -> None:
        prompt = tuple(self.random.randrange(self.size) for _ in range(self.random.randint(1, 5)))
        temperature = self.random.choice(self.temperatures)
        grant = Grant(prompt, codec, self.random.randbytes(32), temperature, tokens_max, candidate_count)
        number = self.receiver.grant(grant)
        self._issue(number)
        self.grants[number], self.shown[number] = grant, []
        self.candidates[number] = self.random.randrange(candidate_count)

    def _issue(self, number: int) -> None:
        event = self.receiver.event(number)
        self.down.append((number, event))
        assert self.oracle.event(event) == number

    def deliver_events(self) -> None:
        while self.down:
            number, event = self.down.popleft()
            self.sender.receive(number, event)
            if number in self.grants:
                self.offered[number] = []

    def unfinished(self) -> list[int]:
        return [number for number in sorted(self.offered) if not self.is_complete(number)]

    def write(self, count: int) -> None:
        """Write on at one answer."""
        if numbers := self.unfinished():
            number = self.random.choice(numbers)
            likely = self.random.choice([0.2, 0.85])
            before = len(self.offered[number])
            while len(self.offered[number]) < before + count and not self.is_complete(number):
                self.offered[number].append(self._token(number, likely))
            is_wanted = self.sender.offer(number, self.offered[number][before:], self.candidates[number])
            assert is_wanted or number in self.unwanted

    def is_complete(self, number: int) -> bool:
        grant, tokens = self.grants[number], self.offered[number]
        if not tokens:
            return False
        is_stopped = self.finished is not None and self.finished(grant, tokens)
        return tokens[-1] == self.spec.end or is_stopped or len(tokens) >= grant.tokens_max

    def _token(self, number: int, likely: float) -> int:
        if self.random.random() > likely:
            return self.random.randrange(self.size)
        grant, tokens = self.grants[number], self.offered[number]
        scores = noise.log2_units(np.array(self.frequencies((*grant.prompt, *tokens), grant.temperature)))
        if grant.codec is CodecName.GREEDY:
            return int(scores.argmax())
        place = (grant.key, self.candidates[number], NoiseStream.VISIBLE, len(tokens))
        return noise.choose([scores], [noise.words(noise.position_key(*place), self.size)])[0]

    def restart(self, *, is_crash: bool) -> None:
        """Begin an epoch; in a crash the sender forgets all it knew and is told what is needed."""
        number, _, lost = self.receiver.restart()
        self._issue(number)
        self.unwanted |= set(lost)
        if is_crash:
            self.sender = self._new_sender()
            self.down = deque([self.down.pop()])
            self.up.clear()
            self.offered.clear()

    def frame(self, steps: int, *, is_urgent: bool) -> bool:
        frame = self.sender.frame(steps, is_urgent=is_urgent)
        if frame is not None:
            self.up.append(frame.bits)
        return frame is not None

    def arrive(self, fate: str) -> None:
        """Let the oldest frame on its way arrive."""
        if not self.up:
            return
        bits = sent = self.up.popleft()
        # After a restart what is no opening may be of the epoch before and is dropped in silence, so the opening must
        # be known as one: it is damaged only where it ends.
        is_silent = self.oracle.may_be_old and not self.oracle.is_refusing and not self.oracle.lane.good_frames
        if fate == "flipped":
            bits = Bits(bits.value ^ (1 << self.random.randrange(4 if is_silent else bits.count)), bits.count)
        elif fate == "random" and not is_silent:
            count = self.random.randrange(100)
            bits = Bits(self.random.getrandbits(count) if count else 0, count)
        elif fate == "longer":
            bits = Bits(bits.value << 1, bits.count + 1)
        elif fate == "shorter":
            bits = Bits(bits.value >> 1, bits.count - 1)
        decoded = self.decode(bits)
        if decoded is None:
            return
        if bits != sent:
            raise AcceptedByChanceError
        if decoded.mode is Mode.RESET:
            self.restart(is_crash=False)
        for number, tokens in decoded.texts.items():
            self.shown[number] += tokens
            assert self.shown[number] == self.offered[number][: len(self.shown[number])]
        if fate != "unacknowledged":
            self.sender.acknowledge(decoded.acknowledgement)

    def decode(self, bits: Bits) -> Decoded | None:
        """Let both decode and compare."""
        decoded = expected = None
        before = self.refusal()
        with contextlib.suppress(OracleError):
            expected = self.oracle.decode(bits)
        try:
            decoded = self.receiver.decode(bits)
        except FrameError as error:
            assert expected is None
            if error.refusal is None:
                assert isinstance(error, StaleFrameError)
                assert self.refusal() == before
            else:
                assert self.refusal() == error.refusal != before
                self.sender.refuse(error.refusal)
        assert (decoded is None) == (expected is None)
        if decoded is not None and expected is not None:
            same(decoded, expected)
            assert decoded.acknowledgement.epoch == self.oracle.lane.epoch
            assert decoded.joined.items() <= self.candidates.items()
        assert self.receiver.state == self.oracle.lane.state
        return decoded

    def refusal(self) -> Refusal:
        """Return what the oracle would send down."""
        oracle = self.oracle
        return Refusal(oracle.lane.epoch, oracle.lane.good_frames, oracle.failures, oracle.dropped)

    def finish(self) -> None:
        """Write every answer to its end, and let all arrive."""
        while self.up:
            self.arrive("good")
        self.deliver_events()
        while self.unfinished():
            self.write(ANSWER_MAX)
        rounds = 0
        while self.frame(7, is_urgent=True):
            self.arrive("good")
            self.deliver_events()
            rounds += 1
            assert rounds < 300
        assert self.sender.state == self.receiver.state
        assert not self.receiver.open_streams
        for number in set(self.offered) - self.unwanted:
            assert self.shown[number] == self.offered[number]


def same(decoded: Decoded, expected) -> None:
    """Compare what the receiver says of a frame with what the oracle says."""
    assert (int(decoded.mode), dict(decoded.joined)) == (expected.mode, expected.joined)
    assert dict(decoded.texts) == expected.texts
    reasons = {"end": "complete", "length": "complete", "stop": "complete"}
    assert {number: reasons.get(why.value, why.value) for number, why in decoded.ended.items()} == expected.ended
    acknowledged = decoded.acknowledgement
    assert (acknowledged.state, acknowledged.frame_count) == (expected.state, expected.good_frames)


def live(run: Run, actions: list[str]) -> None:
    """Let a run happen."""
    try:
        for action in actions:
            run.act(action)
        run.finish()
    except AcceptedByChanceError:
        pass


def random_counts(seed: int, size: int) -> dict[tuple[int, ...], dict[int, int]]:
    """Return counts after contexts of up to two tokens, of all magnitudes."""
    random = Random(seed)
    contexts = [(), *((token,) for token in range(size) if random.random() < 0.8)]
    contexts += [(random.randrange(size), random.randrange(size)) for _ in range(2 * size)]
    return {
        context: {random.randrange(size): 1 + random.getrandbits(random.randint(0, 30)) for _ in range(4)}
        for context in contexts
    }


@settings(max_examples=70)
@given(
    size=st.integers(8, 40),
    slot_count=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    has_rule=st.booleans(),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=25, max_size=90),
)
def test_receiver_and_oracle_agree(size: int, slot_count: int, seed: int, has_rule: bool, actions: list[str]) -> None:
    counts = random_counts(seed, size)

    def predictor(slots: int) -> Predictor:
        return NGramPredictor(counts, size, slot_count=slots, context_tokens=64)

    live(Run(predictor, slot_count, seed, ends_in_a_pair if has_rule else None), actions)


@functools.cache
def exact_model() -> ExactModel:
    return ExactModel(VECTORS / "exact_plain_int16.safetensors")


@settings(max_examples=8)
@given(
    slot_count=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=25, max_size=50),
)
def test_they_agree_at_every_temperature(slot_count: int, seed: int, actions: list[str]) -> None:
    def predictor(slots: int) -> Predictor:
        return ExactPredictor(exact_model(), slot_count=slots)

    live(Run(predictor, slot_count, seed, None, TEMPERATURES), actions)


def new_oracle() -> OracleLane:
    """Return an oracle of the frozen lane."""
    spec = make_session.SPEC
    return OracleLane(
        make_session.VOCABULARY, spec.slot_count, spec.end, lambda tokens, _: make_session.frequencies(tokens).tolist()
    )


def new_ends(**options) -> tuple[Sender, Receiver]:
    """Return both ends of the frozen lane."""
    spec = make_session.SPEC
    return Sender(make_session.predictor(), spec, **options), Receiver(make_session.predictor(), spec)


def test_the_frozen_lane_is_made_again() -> None:
    assert make_session.life() == FROZEN["happenings"]


def test_receiver_and_oracle_decode_the_frozen_lane() -> None:
    receiver, oracle = new_ends()[1], new_oracle()
    modes = set()
    for happening in FROZEN["happenings"]:
        if "event" in happening:
            event = make_session.event_of(happening)
            assert oracle.event(event) == happening["event"]
            assert issue(receiver, event) == happening["event"]
        elif "arrives_as" in happening:
            bits = make_session.bits_of(happening["arrives_as"])
            with pytest.raises(OracleError):
                oracle.decode(bits)
            with pytest.raises(FrameError):
                receiver.decode(bits)
        elif "frame" in happening:
            decoded = receiver.decode(make_session.bits_of(happening["bits"]))
            expected = oracle.decode(make_session.bits_of(happening["bits"]))
            same(decoded, expected)
            modes.add(decoded.mode)
            assert {str(number): tokens for number, tokens in expected.texts.items()} == happening["texts"]
            assert {str(number): candidate for number, candidate in expected.joined.items()} == happening["joined"]
            assert {str(number): why for number, why in decoded.ended.items()} == happening["ended"]
            assert expected.state.hex() == happening["state"]
    assert modes == {Mode.OPENING, Mode.NORMAL, Mode.ESCAPE}


def test_the_sender_writes_the_frozen_frames() -> None:
    sender, receiver = new_ends()
    for happening in FROZEN["happenings"]:
        if "event" in happening:
            event = make_session.event_of(happening)
            issue(receiver, event)
            sender.receive(happening["event"], event)
        elif "offer" in happening:
            assert sender.offer(happening["offer"], happening["tokens"], happening["candidate"])
        elif "drop" in happening:
            sender.drop(happening["drop"])
        else:
            frame = sender.frame(happening["frame"])
            assert frame is not None
            assert (frame.mode.name.lower(), frame.bits) == (
                happening["mode"],
                make_session.bits_of(happening["bits"]),
            )
            if "arrives_as" in happening:
                sender.refuse(refusal_of(receiver, make_session.bits_of(happening["arrives_as"])))
            else:
                sender.acknowledge(receiver.decode(frame.bits).acknowledgement)


def issue(receiver: Receiver, event: Event) -> int:
    """Let a receiver say an event, and return its number."""
    if isinstance(event, Grant):
        return receiver.grant(event)
    if isinstance(event, Cancel):
        return receiver.cancel(event.stream)
    number, restart, _ = receiver.restart()
    assert restart == event
    return number


def refusal_of(receiver: Receiver, bits: Bits) -> Refusal:
    """Return what a receiver says of a frame it cannot decode."""
    with pytest.raises(FrameError) as caught:
        receiver.decode(bits)
    assert caught.value.refusal
    return caught.value.refusal


GRANT = Grant((1, 2), CodecName.GUMBEL, bytes(32), tokens_max=6)


def opening(*, is_forged: bool) -> Bits:
    """Return the frame that lets one grant take effect; forged, it says that no drops differ from no drops."""
    encoder, kind = ReferenceEncoder(), NumberKind()
    repeats, lengths = (boundaries(np.array(counts)) for counts in (kind.repeats, kind.lengths))
    encoder.encode(Mode.OPENING, boundaries(np.array([4092, 1, 1, 1, 1])))
    encoder.encode(0, uniform_boundaries(1 << 16))
    encoder.encode(1, uniform_boundaries(2))
    encoder.encode(1, repeats)
    encoder.encode(1, lengths)
    if is_forged:
        encoder.encode(1, repeats)
        encoder.encode(0, lengths)
    else:
        encoder.encode(0, repeats)
    for _ in ("joins", "steps"):
        encoder.encode(0, repeats)
    content = [bytes(8), *(value.to_bytes(8, "little") for value in (Mode.OPENING, 0, 0, 1, 1))]
    content += [GRANT.digest(), *(bytes(8) for _ in ("drops", "joins", "steps"))]
    digest = hashlib.blake2b(b"".join(content), digest_size=16, person=b"bitweir frame v1").digest()
    encoder.encode(int.from_bytes(digest[:2], "little") >> 4, uniform_boundaries(1 << 12))
    return encoder.finish()


def test_an_opening_written_by_hand_is_understood() -> None:
    receiver, oracle = new_ends()[1], new_oracle()
    oracle.event(GRANT)
    receiver.grant(GRANT)
    same(receiver.decode(opening(is_forged=False)), oracle.decode(opening(is_forged=False)))


def test_a_number_said_to_be_new_that_is_the_last_one_is_refused() -> None:
    receiver, oracle = new_ends()[1], new_oracle()
    oracle.event(GRANT)
    receiver.grant(GRANT)
    with pytest.raises(OracleError, match="said to differ"):
        oracle.decode(opening(is_forged=True))
    with pytest.raises(FrameError, match="new number"):
        receiver.decode(opening(is_forged=True))


def test_a_reset_comes_through_before_the_epoch_is_open() -> None:
    sender, receiver = new_ends(escapes_max=0)
    sender.receive(receiver.grant(GRANT), GRANT)
    sender.offer(0, [1, 2, 3])
    frame = sender.frame(3)
    assert frame is not None
    sender.refuse(refusal_of(receiver, Bits(frame.bits.value ^ 1, frame.bits.count)))
    reset = sender.frame(3)
    assert reset is not None and reset.mode is Mode.RESET
    assert receiver.decode(reset.bits).mode is Mode.RESET


def test_a_sender_that_lost_all_is_restarted_twice() -> None:
    sender, receiver = new_ends()
    sender.receive(receiver.grant(GRANT), GRANT)
    sender.offer(0, [1, 2, 3])
    frame = sender.frame(3)
    assert frame is not None
    receiver.decode(frame.bits)
    receiver.restart()
    receiver.restart()
    number = receiver.grant(GRANT)
    sender = new_ends()[0]
    for known in range(number - 1, number + 1):
        sender.receive(known, receiver.event(known))
    sender.offer(number, [3, 2, 1])
    frame = sender.frame(3)
    assert frame is not None
    assert receiver.decode(frame.bits).texts == {number: [3, 2, 1]}
