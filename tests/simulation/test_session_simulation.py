"""Seeded simulation of a lane: whatever the link, the grants and the engines do, what is shown is a prefix of what was
written, every stream ends once, complete ones are whole, and nothing is left over. A failure is a seed."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.session.frame import Mode
from bitweir_compression.session.lane import Ending
from tests.unit.compression.session_world import AcceptedByChanceError, World

# How often what happens: quiet, everything, mostly failures, mostly changes of mind.
QUIET = {"grant": 3, "write": 8, "deliver_event": 6, "frame": 5, "arrive": 6, "deliver_answer": 6}
LIVELY = QUIET | {"cancel": 1, "drop": 1, "urgent": 2, "restart": 0.15, "crash": 0.15, "ask": 0.5}
FICKLE = QUIET | {"cancel": 4, "drop": 3, "urgent": 4, "ask": 1}


def act(world: World, name: str) -> None:
    if name == "urgent":
        world.frame(is_urgent=True)
    elif name == "crash":
        world.restart(is_crash=True)
    elif name == "ask":
        world.answers.append(world.receiver.answer)
    else:
        getattr(world, name)()
    world.check()


def live(world: World, habits: Mapping[str, float], count: int) -> int | None:
    """Let a lane live; returns how often outer had to begin again in the end, None after an accident of 1 in 4096."""
    try:
        for name in world.random.choices(list(habits), list(habits.values()), k=count):
            act(world, name)
        return world.settle()
    except AcceptedByChanceError:
        return None


@settings(max_examples=15)
@given(seed=st.integers(0, 2**64))
def test_a_good_link_needs_no_recovery(seed: int) -> None:
    world = World(seed)
    assert live(world, QUIET, 150) == 0
    assert {frame.mode for frame in world.frames} <= {Mode.NORMAL, Mode.OPENING}
    assert (world.sender.escape_count, world.sender.refusal_count, world.failed) == (0, 0, 0)
    assert all(story.ending in {Ending.END, Ending.LENGTH} for story in world.stories.values())


@settings(max_examples=30)
@given(seed=st.integers(0, 2**64))
def test_cancels_and_drops_need_no_recovery(seed: int) -> None:
    world = World(seed)
    assert live(world, FICKLE, 200) == 0
    assert world.failed == world.sender.escape_count == 0


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64), damage=st.sampled_from([0.02, 0.1, 0.4]))
def test_a_bad_link_loses_no_text_within_an_epoch(seed: int, damage: float) -> None:
    world = World(seed, damage=damage)
    habits = FICKLE | {"cancel": 0.5, "drop": 0.5}
    assert live(world, habits, 200) in {0, None}
    assert world.restarts == world.resets == 0
    assert world.sender.refusal_count <= world.damaged
    escapes = sum(frame.mode.escapes for frame in world.frames)
    assert world.sender.escape_count == escapes <= 64 * world.damaged
    if world.failed:
        assert escapes


@settings(max_examples=100)
@given(seed=st.integers(0, 2**64), damage=st.sampled_from([0, 0, 0.05, 0.3]))
def test_restarts_and_new_senders_lose_only_what_they_say(seed: int, damage: float) -> None:
    world = World(seed, damage=damage)
    stalls = live(world, LIVELY, 250)
    # Only a damaged first frame of an epoch can look like one of the epoch before, and leave outer waiting.
    assert stalls in {0, None} or world.damaged
    assert damage or world.failed == 0


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64), escapes_max=st.integers(0, 3))
def test_beyond_the_cap_one_reset_and_an_epoch_that_goes_on(seed: int, escapes_max: int) -> None:
    world = World(seed, damage=0.15, escapes_max=escapes_max)
    try:
        for name in world.random.choices(list(FICKLE), list(FICKLE.values()), k=200):
            before = world.resets
            act(world, name)
            assert world.sender.escape_count <= escapes_max
            if world.resets > before:
                assert not world.frame()
                world.restart()
        world.settle()
    except AcceptedByChanceError:
        return
    resets = [frame.mode for frame in world.frames].count(Mode.RESET)
    assert resets >= world.resets


@pytest.mark.parametrize("seed", range(8))
def test_a_weak_model_that_differs_for_good_is_told_all_by_escapes(seed: int) -> None:
    world = World(seed)
    world.outer_model.differs_from = 12
    assert live(world, QUIET, 250) in {0, None}
    modes = [frame.mode for frame in world.frames]
    assert world.failed == world.sender.refusal_count > 0
    # Every refusal in a row doubles the escapes, so refused frames get rare.
    assert world.failed <= 2 + modes.count(Mode.ESCAPE) // 2
    assert world.resets == 0
    assert all(story.ending in {Ending.END, Ending.LENGTH} for story in world.stories.values())
