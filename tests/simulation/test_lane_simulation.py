"""Both ends of a lane over wires that misbehave: every answer comes whole, or ends with the reason, once."""

import collections

import pytest

from bitweir_compression.session.lane import Ending
from bitweir_services.outer import Ended, OuterLane
from tests.simulation.lane_world import MS, World

SEEDS = 15


def run(seed: int, **faults: float) -> World:
    """One world: answers asked for and given up at any time, then quiet."""
    world = World(seed, **faults)
    for _ in range(60):
        if world.random.random() < 0.3 and world.outer.open_count < 40:
            world.ask()
        if world.random.random() < 0.05 and world.stories:
            world.cancel(world.random.choice(list(world.stories)))
        world.step()
    world.finish()
    return world


def check(world: World) -> collections.Counter[Ending]:
    """Every story has one of its ends; returns how often each."""
    for story in world.stories.values():
        tokens, ending = story.due
        assert story.ending is not None
        if story.ending in (Ending.CANCELLED, Ending.LOST):
            assert story.is_cancelled or story.ending is Ending.LOST
            assert story.shown == tokens[: len(story.shown)]
        else:
            assert (story.shown, story.ending) == (tokens, ending)
    # Nothing is left behind anywhere.
    world.finish()
    for _ in range(20):
        world.step()
    assert world.inner.in_flight_count == 0
    assert world.outer.open_count == 0
    assert not world.outer._issued
    return collections.Counter(story.ending for story in world.stories.values() if story.ending)


@pytest.mark.parametrize(
    ("damage", "loss", "expected"),
    [
        (0.0, 0.0, {Ending.END, Ending.LENGTH, Ending.STOP, Ending.CANCELLED}),
        (0.0, 0.3, {Ending.END, Ending.LENGTH, Ending.STOP, Ending.CANCELLED}),
        (0.1, 0.0, {Ending.END, Ending.LENGTH, Ending.STOP, Ending.CANCELLED}),
        (0.2, 0.3, {Ending.END, Ending.LENGTH, Ending.STOP, Ending.CANCELLED}),
    ],
)
def test_every_answer_comes_whole_or_ends_with_a_reason(damage: float, loss: float, expected: set[Ending]) -> None:
    endings: collections.Counter[Ending] = collections.Counter()
    failures = 0
    for seed in range(SEEDS):
        world = run(seed, damage=damage, loss=loss)
        endings += check(world)
        failures += world.outer.failure_count
    assert expected <= set(endings), endings
    assert (failures > 0) is (damage > 0)
    # A lane that gives up often would pass everything else.
    assert endings[Ending.LOST] <= endings.total() // 10


def test_a_restart_ends_what_was_open_and_the_lane_goes_on() -> None:
    for seed in range(10):
        world = World(seed, loss=0.2)
        for _ in range(10):
            world.ask()
        for _ in range(8):
            world.step()
        world.show(world.outer.restart())
        lost = [story for story in world.stories.values() if story.ending is Ending.LOST]
        assert lost
        for _ in range(10):
            world.ask()
        world.finish()
        check(world)
        assert world.outer.restart_count == 1


def test_a_refusal_that_nobody_answers_ends_the_epoch() -> None:
    world = World(1)
    world.ask()
    world.step()
    world.damage = 1.0
    for _ in range(60):
        world.up.clear()
        world.step()
        if world.outer.failure_count:
            break
    world.damage = 0.0
    inner = world.inner.frames
    world.inner.frames = lambda **_: []  # type: ignore[method-assign, assignment]
    for _ in range(101):
        world.up.clear()
        world.step()
    assert world.outer.restart_count == 1
    assert world.stories[0].ending is Ending.LOST
    world.inner.frames = inner  # type: ignore[method-assign]
    world.ask()
    world.finish()


def test_events_are_said_again_until_they_are_taken_and_not_before() -> None:
    world = World(3)
    world.ask()
    lane: OuterLane = world.outer
    assert len(lane.messages(0)) == 1
    assert lane.messages(499 * MS) == []
    assert len(lane.messages(500 * MS)) == 1
    assert lane.messages(999 * MS) == []
    assert len(lane.messages(1000 * MS)) == 1


def test_silence_while_answers_are_open_ends_them() -> None:
    world = World(2)
    world.ask()
    lane = world.outer
    assert lane.check(0) == []
    assert lane.check(120_000 * MS - 1) == []
    (lost,) = lane.check(120_000 * MS)
    assert isinstance(lost, Ended)
    assert lost.ending is Ending.LOST
    # Without open answers nobody waits.
    assert lane.check(500_000 * MS) == []
    assert lane.restart_count == 1
