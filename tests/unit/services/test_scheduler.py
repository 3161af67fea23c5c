"""The scheduler's rules, each on the scripted engine."""

import math

import numpy as np
import pytest

from bitweir_compression import sampling
from bitweir_compression.noise import NoiseStream
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.engines.protocol import Position
from bitweir_services.engines.requests import Event, Finish, FinishEvent, GenerationRequest, TokenEvent
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.engines.scripted import ScriptedEngine
from bitweir_services.errors import RequestError

END, THINK_END, PAD = 2, 3, 0
LETTERS = {4 + i: letter for i, letter in enumerate("abcdefgh ")}
KEY = bytes(32)


def decode(ids) -> str:
    return "".join(LETTERS.get(i, "?") for i in ids)


def encode(text: str) -> list[int]:
    return [next(i for i, letter in LETTERS.items() if letter == c) for c in text]


PLAIN = Vocabulary(end=END, decode=decode, special_ids=frozenset({PAD, END, THINK_END}))
REASONING = Vocabulary(end=END, decode=decode, special_ids=frozenset({PAD, END, THINK_END}), end_think=THINK_END)
PROMPT = (5, 6)


def scheduler(script, vocabulary: Vocabulary = PLAIN, **options) -> Scheduler:
    options = {"vocabulary_size": 16, "slot_count": 2, "end": END, **options}
    return Scheduler(ScriptedEngine({PROMPT: script}, **options), vocabulary)


def only_finish(events: list[Event]) -> FinishEvent:
    finishes = [event for event in events if isinstance(event, FinishEvent)]
    assert len(finishes) == 1
    assert events[-1] is finishes[0]
    return finishes[0]


def run(script, vocabulary: Vocabulary = PLAIN, **request) -> FinishEvent:
    return only_finish(run_events(script, vocabulary, **request))


def run_events(script, vocabulary: Vocabulary = PLAIN, **request) -> list[Event]:
    runner = scheduler(script, vocabulary)
    runner.submit(GenerationRequest(prompt=PROMPT, key=KEY, **request))
    events = runner.run()
    assert runner.in_flight_count == 0
    return events


def test_a_text_ends_with_the_end_token() -> None:
    finish = run([*encode("abc"), END])
    assert (finish.finish, finish.text) == (Finish.END, "abc")
    assert finish.visible == (*encode("abc"), END)


def test_visible_limit() -> None:
    finish = run(encode("abcdef"), visible_tokens_max=3)
    assert (finish.finish, finish.text) == (Finish.LENGTH, "abc")


def test_a_stop_string_across_tokens_ends_the_text_before_itself() -> None:
    finish = run(encode("ab cd ef"), stop=("zz", "b c"))
    assert (finish.finish, finish.text) == (Finish.STOP, "a")
    assert finish.visible == tuple(encode("ab c"))


def test_reasoning_is_split_off_and_positions_restart() -> None:
    events = run_events([*encode("ab"), THINK_END, *encode("c"), END], REASONING)
    finish = only_finish(events)
    assert (finish.hidden, finish.text) == ((*encode("ab"), THINK_END), "c")
    streams = [event.stream for event in events if isinstance(event, TokenEvent)]
    assert streams == [NoiseStream.HIDDEN] * 3 + [NoiseStream.VISIBLE] * 2


def test_stop_strings_do_not_look_into_reasoning() -> None:
    finish = run([*encode("abc"), THINK_END, *encode("d"), END], REASONING, stop=("b",))
    assert (finish.finish, finish.text) == (Finish.END, "d")


def test_reasoning_is_closed_by_force_at_its_limit() -> None:
    events = run_events(encode("abcdefgh"), REASONING, hidden_tokens_max=2)
    finish = only_finish(events)
    assert finish.hidden == (*encode("ab"), THINK_END)
    forced = [event for event in events if isinstance(event, TokenEvent) and event.forced]
    assert [event.token for event in forced] == [THINK_END]
    assert finish.text.startswith("defgh")


def test_reasoning_leaves_room_for_visible_text_in_a_full_context() -> None:
    runner = scheduler(encode("aaaaaaaaaaaa"), REASONING, context_tokens=8)
    runner.submit(GenerationRequest(prompt=PROMPT, key=KEY))
    finish = only_finish(runner.run())
    assert finish.finish is Finish.LENGTH
    assert len(finish.hidden) == 5
    assert len(finish.visible) == 1


def test_special_tokens_are_forbidden_in_text_and_a_bias_cannot_lift_that() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.positions: list[Position] = []

        def choose(self, logits: np.ndarray, positions) -> list[int]:
            self.positions += positions
            return [END if p.stream is NoiseStream.VISIBLE else THINK_END for p in positions]

    recorder = Recorder()
    engine = ScriptedEngine({}, vocabulary_size=16, slot_count=1)
    runner = Scheduler(engine, REASONING, recorder)
    wish = SamplingSpec(logit_bias=((PAD, 100.0), (7, 1.0)))
    runner.submit(GenerationRequest(prompt=PROMPT, key=KEY, sampling=wish))
    runner.run()
    hidden, visible = (position.sampling for position in recorder.positions)
    assert (hidden.forbidden, visible.forbidden) == ((PAD, END), (PAD, THINK_END))
    for spec in (hidden, visible):
        assert sampling.probabilities(np.zeros(16), spec)[PAD] == 0


def test_more_requests_than_slots_are_served_in_order() -> None:
    runner = scheduler([*encode("a"), END])
    numbers = [runner.submit(GenerationRequest(prompt=PROMPT, key=KEY)) for _ in range(5)]
    assert numbers == [0, 1, 2, 3, 4]
    finished = [event.request for event in runner.run() if isinstance(event, FinishEvent)]
    assert finished == numbers


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_a_cancelled_request_finishes_once_and_frees_its_slot(steps_before: int) -> None:
    runner = scheduler(encode("abcdefgh"), slot_count=1)
    first = runner.submit(GenerationRequest(prompt=PROMPT, key=KEY))
    second = runner.submit(GenerationRequest(prompt=PROMPT, key=KEY, visible_tokens_max=2))
    for _ in range(steps_before):
        runner.step()
    assert runner.cancel(first)
    assert not runner.cancel(first)
    assert runner.in_flight_count == 2
    finishes = {event.request: event for event in runner.run() if isinstance(event, FinishEvent)}
    assert finishes[first].finish is Finish.CANCELLED
    assert len(finishes[first].visible) == steps_before
    assert finishes[second].text == "ab"
    assert not runner.cancel(second)
    assert not runner.cancel(99)


def test_as_many_biases_as_allowed_are_allowed() -> None:
    runner = scheduler([END], vocabulary_size=2000)
    bias = tuple((5 + i, 1.0) for i in range(1024))
    runner.submit(GenerationRequest(prompt=PROMPT, key=KEY, sampling=SamplingSpec(logit_bias=bias)))
    assert only_finish(runner.run()).finish is Finish.END


@pytest.mark.parametrize("broken", ["bias", "logits"])
def test_a_request_nobody_can_choose_for_fails_alone(broken: str) -> None:
    class Engine(ScriptedEngine):
        def step(self, slots):
            logits = super().step(slots)
            if broken == "logits" and self.steps == 1:
                logits[0] = math.nan
            self.steps += 1
            return logits

    engine = Engine({(4,): encode("abcdef"), (5,): [*encode("abc"), END]}, vocabulary_size=16, slot_count=2)
    engine.steps = 0
    runner = Scheduler(engine, PLAIN)
    everything = SamplingSpec(logit_bias=tuple((i, -math.inf) for i in range(16)))
    bad = runner.submit(
        GenerationRequest(prompt=(4,), key=KEY, sampling=everything if broken == "bias" else SamplingSpec())
    )
    good = runner.submit(GenerationRequest(prompt=(5,), key=KEY))
    finishes = {event.request: event for event in runner.run() if isinstance(event, FinishEvent)}
    assert finishes[bad].finish is Finish.FAILED
    assert finishes[bad].error
    assert finishes[good].finish is Finish.END
    assert len(finishes[good].visible) > 2


def test_a_stop_string_is_found_however_long_the_text() -> None:
    runner = scheduler([*encode("a") * 3000, *encode("bcd"), END], context_tokens=4000)
    runner.submit(GenerationRequest(prompt=PROMPT, key=KEY, visible_tokens_max=4000, stop=("a" * 255 + "b",)))
    finish = only_finish(runner.run())
    assert (finish.finish, finish.text) == (Finish.STOP, "a" * (3000 - 255))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ()}, "prompt is empty"),
        ({"key": b"short"}, "noise key of 5 bytes"),
        ({"visible_tokens_max": 0}, "0 visible"),
        ({"hidden_tokens_max": -1}, "-1 hidden"),
        ({"stop": ("",)}, "stop strings"),
        ({"stop": ("a",) * 5}, "stop strings"),
        ({"stop": ("a" * 257,)}, "stop strings"),
    ],
)
def test_bad_requests_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        GenerationRequest(**{"prompt": PROMPT, "key": KEY, **arguments})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": (4,) * 4096}, "prompt of 4096 tokens; the model's context is 4096"),
        ({"prompt": (16,)}, "unknown token ids"),
        ({"sampling": SamplingSpec(logit_bias=((16, 1.0),))}, "unknown token"),
    ],
)
def test_requests_that_do_not_fit_the_model_are_refused(arguments: dict, message: str) -> None:
    runner = scheduler([END])
    with pytest.raises(RequestError, match=message) as caught:
        runner.submit(GenerationRequest(**{"prompt": PROMPT, "key": KEY, **arguments}))
    assert caught.value.remedy
    assert runner.in_flight_count == 0
