"""docs/kraft.md, counted: 2**-charge over all histories adds up to at most 1, and does not without the charges."""

import itertools
from fractions import Fraction

import pytest

from bitweir_metering import sizes, slots
from bitweir_metering.frame import LANES, Payload, TrafficClass
from tests.unit.metering.door import MS, Door, policy

SLOTS = 4
ACTIONS = ("none", "zero", "one", "trip")


def test_all_frames_of_one_sequence_number_add_up_to_at_most_one() -> None:
    kinds = len(TrafficClass) - 1
    total, smallest = Fraction(0), 0
    for size in sizes.SIZE_CLASSES:
        payloads = sum(1 << count for count in range(smallest, 8 * size))
        assert payloads < 1 << 8 * size
        total += Fraction(payloads * kinds * LANES, 1 << sizes.information_bits(smallest))
        smallest = 8 * size
    assert Fraction(1, 10) < total <= 1


def run(strategy: tuple[str, ...]) -> tuple[tuple, int]:
    """Play a strategy of the inner side for one epoch; returns the history an observer sees and its charge."""
    door = Door(policy(epoch_slots=SLOTS))
    # Leases are taken and epochs are played before, so that the ledger's answers delay nothing.
    door.gateway.submit(TrafficClass.CONTROL, 0, Payload(0, 1))
    start_ms = 400 * SLOTS
    door.run(0, start_ms, step_ms=10)
    before, events = door.gateway.spent, []
    door.released.clear()
    for slot, action in enumerate(strategy):
        now_ms = start_ms + 10 * slot
        if action == "trip":
            door.gateway.breaker.trip("made to")
            door.tick((now_ms - 5) * MS)
            door.gateway.breaker.reset()
            events.append(slot)
        elif action != "none":
            door.gateway.submit(TrafficClass.CONTROL, 0, Payload(int(action == "one"), 1))
        door.gateway.breaker.permit((now_ms + 15) * MS)
        door.tick((now_ms - 4) * MS)
        door.tick(now_ms * MS)
    # What is owed is paid with later edges; so is the presence of the epochs they are in, which is not this one's.
    end_ms = start_ms + 10 * SLOTS
    door.run(end_ms, end_ms + 50 * SLOTS, step_ms=10)
    charge = door.gateway.spent.information_bits - before.information_bits - 5 * slots.presence_bits(SLOTS)
    frames = tuple((one.slot, one.content[5:-8]) for one in door.released)
    return (frames, tuple(events)), charge


def kraft_sum() -> Fraction:
    histories: dict[tuple, int] = {}
    for strategy in itertools.product(ACTIONS, repeat=SLOTS):
        history, charge = run(strategy)
        histories[history] = min(charge, histories.get(history, charge))
    # Few strategies may look alike (a frame waits for the ledger), or the count would prove nothing.
    assert len(histories) > 150
    return sum((Fraction(1, 1 << max(charge, 0)) for charge in histories.values()), Fraction(0))


@pytest.fixture
def _two_frames_for_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world with two frames, charged one bit, so that nothing hides in the slack of large frames."""
    monkeypatch.setattr(sizes, "information_bits", lambda _count: 1)


@pytest.mark.usefixtures("_two_frames_for_one_bit")
def test_every_history_of_a_small_world_adds_up_to_at_most_one() -> None:
    assert kraft_sum() <= 1


@pytest.mark.usefixtures("_two_frames_for_one_bit")
@pytest.mark.parametrize("charge", ["presence", "frame", "event"])
def test_it_does_not_once_a_charge_is_left_out(monkeypatch: pytest.MonkeyPatch, charge: str) -> None:
    if charge == "presence":
        monkeypatch.setattr(slots, "presence_bits", lambda _slots: 1)
        monkeypatch.setattr(slots, "JITTER_BITS", 0)
    elif charge == "frame":
        monkeypatch.setattr(sizes, "information_bits", lambda _count: 0)
        monkeypatch.setattr(slots, "JITTER_BITS", 0)
    else:
        monkeypatch.setattr(slots, "event_bits", lambda _slots: 0)
        monkeypatch.setattr(slots, "JITTER_BITS", 0)
    assert kraft_sum() > 1
