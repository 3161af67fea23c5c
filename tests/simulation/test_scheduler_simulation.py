"""Seeded simulation: whatever is submitted, cancelled and stepped, in any batch, every request ends once and its tokens
are those it would have had alone. A failure is a seed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.sampling import SamplingSpec
from bitweir_services.engines.requests import Finish, FinishEvent, GenerationRequest, TokenEvent
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.engines.scripted import ScriptedEngine

VOCABULARY = Vocabulary(
    end=2, decode=lambda ids: ".".join(map(str, ids)), special_ids=frozenset({0, 2, 3}), end_think=3
)


def engine(slot_count: int) -> ScriptedEngine:
    # At 3 nats the noise overrules the script often, so tokens depend on the key.
    return ScriptedEngine({}, vocabulary_size=24, slot_count=slot_count, context_tokens=40, sharpness=3.0)


def request(number: int) -> GenerationRequest:
    return GenerationRequest(
        prompt=(5 + number % 7, 6),
        key=number.to_bytes(32, "little"),
        sampling=SamplingSpec(temperature=(0, 0.7, 1.0)[number % 3]),
        visible_tokens_max=1 + number % 11,
        hidden_tokens_max=number % 9,
        stop=("7",) if number % 5 == 0 else (),
        candidate=number % 2,
    )


def alone(number: int) -> FinishEvent:
    runner = Scheduler(engine(1), VOCABULARY)
    runner.submit(request(number))
    return next(event for event in runner.run() if isinstance(event, FinishEvent))


ACTIONS = st.lists(
    st.one_of(st.just(("submit", 0)), st.just(("step", 0)), st.tuples(st.just("cancel"), st.integers(0, 20))),
    min_size=5,
    max_size=60,
)


@settings(max_examples=60)
@given(actions=ACTIONS, slot_count=st.integers(1, 5))
def test_every_request_ends_once_with_the_tokens_it_has_alone(actions: list, slot_count: int) -> None:
    runner = Scheduler(engine(slot_count), VOCABULARY)
    events, submitted, cancelled = [], 0, set()
    for action, number in actions:
        if action == "submit":
            assert runner.submit(request(submitted)) == submitted
            submitted += 1
        elif action == "cancel" and runner.cancel(number):
            cancelled.add(number)
        elif action == "step":
            events += runner.step()
    events += runner.run()
    assert runner.in_flight_count == 0
    finishes = {event.request: event for event in events if isinstance(event, FinishEvent)}
    assert len(finishes) == sum(isinstance(event, FinishEvent) for event in events) == submitted
    for number, finish in finishes.items():
        tokens = [e.token for e in events if isinstance(e, TokenEvent) and e.request == number]
        assert tokens == [*finish.hidden, *finish.visible]
        last = max(i for i, e in enumerate(events) if e.request == number)
        assert events[last] is finish
        undisturbed = alone(number)
        if number in cancelled:
            assert finish.finish is Finish.CANCELLED
            whole = [*undisturbed.hidden, *undisturbed.visible]
            assert tokens == whole[: len(tokens)]
        else:
            assert (finish.finish, finish.hidden, finish.visible, finish.text) == (
                undisturbed.finish,
                undisturbed.hidden,
                undisturbed.visible,
                undisturbed.text,
            )
