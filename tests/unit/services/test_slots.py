"""Every misuse of an engine is an EngineError that changes nothing."""

import pytest

from bitweir_services.engines.slots import SlotTable
from bitweir_services.errors import EngineError


@pytest.fixture
def table() -> SlotTable[str]:
    table: SlotTable[str] = SlotTable(2, context_tokens=4, vocabulary_size=10)
    table.admit(0, [1, 2], "state")
    return table


@pytest.mark.parametrize(
    "misuse",
    [
        lambda t: t.admit(0, [1], "x"),
        lambda t: t.admit(2, [1], "x"),
        lambda t: t.admit(-1, [1], "x"),
        lambda t: t.admit(1, [], "x"),
        lambda t: t.admit(1, [1] * 5, "x"),
        lambda t: t.admit(1, [10], "x"),
        lambda t: t.admit(1, [-1], "x"),
        lambda t: t.step([1]),
        lambda t: t.step([0, 0]),
        lambda t: t.commit({0: 1}),
        lambda t: t.commit({1: 1}),
        lambda t: t.commit({0: 10}),
        lambda t: t.release(1),
    ],
)
def test_misuse_is_refused_and_changes_nothing(table: SlotTable[str], misuse) -> None:
    with pytest.raises(EngineError) as caught:
        misuse(table)
    assert caught.value.remedy
    assert table.step([0]) == ["state"]
    assert table.commit({0: 9}) == ["state"]


def test_a_slot_is_stepped_once_a_token_and_never_when_full(table: SlotTable[str]) -> None:
    for _ in range(2):
        table.step([0])
        with pytest.raises(EngineError, match="stepped twice"):
            table.step([0])
        table.commit({0: 1})
    with pytest.raises(EngineError, match="is full"):
        table.step([0])
    assert table.release(0) == "state"
    table.admit(0, [3], "next")


def test_no_slots_is_refused() -> None:
    with pytest.raises(EngineError):
        SlotTable(0, context_tokens=4, vocabulary_size=10)
