"""The door: nothing leaves unpaid, early, out of turn, too often or without a permit."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_metering import frame, slots
from bitweir_metering.breaker import Breaker, Verdict
from bitweir_metering.errors import ClockError, FormError, RefusedError, UnitError
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gateway import WAITING_MAX, Gateway, Need
from bitweir_metering.slots import SlotClock
from tests.unit.metering.door import KEY, MS, Door, policy

MODEL, CONTROL, TUNNEL = TrafficClass.MODEL, TrafficClass.CONTROL, TrafficClass.TUNNEL


def warm() -> Door:
    """A door that has run for a second and sent one frame: its leases are there, its bucket is full."""
    door = Door()
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert len(door.run(0, 1000)) == 1
    return door


def sent(door: Door) -> list[frame.Frame]:
    return [frame.decode(one.content, KEY) for one in door.released]


def test_payloads_leave_in_order_one_an_edge_as_canonical_frames() -> None:
    door = Door()
    for value in range(5):
        door.gateway.submit(CONTROL, value, Payload(value, 10))
    left = door.run(0, 2000)
    assert [(f.lane, f.sequence, f.payload.value) for f in sent(door)] == [(i, i, i) for i in range(5)]
    assert len({one.slot for one in left}) == 5
    assert door.gateway.waiting_count == 0
    assert door.wire_bits <= door.durable.totals.wire_bits


def test_a_frame_is_ready_before_the_edge_it_leaves_on() -> None:
    door = warm()
    # Inside slot 100, just after its edge: the frame leaves on the next edge, not now.
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert door.run(1001, 1009, step_ms=1) == []
    (one,) = door.run(1010, 1030)
    assert one.slot == 101


def test_a_frame_submitted_right_at_an_edge_waits_for_the_next() -> None:
    door = warm()
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert door.run(1000, 1001) == []
    (one,) = door.run(1010, 1011)
    assert one.slot == 101


def test_nothing_leaves_before_a_permit_or_after_it() -> None:
    door = Door()
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    for now_ms in range(0, 1000, 5):
        assert door.tick(now_ms * MS) == []
    door.gateway.breaker.permit(1100 * MS)
    assert any(door.tick(now_ms * MS) for now_ms in range(1010, 1100, 5))
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    for now_ms in range(1100, 1500, 5):
        assert door.tick(now_ms * MS) == []
    assert door.gateway.breaker.lapse_count == 1
    door.gateway.breaker.permit(1700 * MS)
    assert any(door.tick(now_ms * MS) for now_ms in range(1500, 1600, 5))


def test_a_trip_is_final_until_it_is_reset() -> None:
    door = Door()
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    door.gateway.breaker.trip("meters disagree")
    door.gateway.breaker.trip("something later")
    assert door.run(0, 1000) == []
    assert door.gateway.breaker.trip_reason == "meters disagree"
    door.gateway.breaker.reset()
    assert door.gateway.breaker.verdict(0) is Verdict.DOWN
    assert door.run(1000, 2000)


def test_nothing_leaves_without_a_durable_lease() -> None:
    rules = policy(class_limits={**dict.fromkeys(TrafficClass, 1 << 40), CONTROL: 0})
    door = Door(rules)
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert door.run(0, 2000) == []
    assert [need.kind for need in door.refused] == [CONTROL]
    # It asked once and waits; the ledger may answer late.
    door.gateway.lease(Need(CONTROL, 1 << 19, 1 << 19))
    assert len(door.run(2000, 3000)) == 1


def test_nothing_leaves_while_timing_is_not_paid() -> None:
    # The first epoch's presence would fit; with the charge of the start it does not.
    door = Door(policy(class_limits={**dict.fromkeys(TrafficClass, 1 << 40), TrafficClass.TIMING: 100}))
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert door.run(0, 3000) == []


def test_the_rate_and_the_burst_bound_every_window() -> None:
    rules = policy(rate_bits_per_s=20_000, burst_bits=10_000)
    door = Door(rules)
    for _ in range(200):
        door.gateway.submit(CONTROL, 0, Payload((1 << 500) - 1, 500))
    left = door.run(0, 10_000)
    times = [(one.slot * rules.slot_ns, frame.wire_bits(one.content)) for one in left]
    assert len(times) > 100
    for first, last in itertools.combinations_with_replacement(range(len(times)), 2):
        window_ns = times[last][0] - times[first][0]
        assert sum(bits for _, bits in times[first : last + 1]) <= 20_000 * window_ns / 1e9 + 10_000


def test_the_bucket_starts_empty() -> None:
    door = Door(policy(rate_bits_per_s=1000, burst_bits=1 << 20, lease_bits=1 << 19))
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    left = door.run(0, 1000)
    wire = 8 * (8 + 13 + 42)
    assert left[0].slot * 10 == -(-wire // 10) * 10


def test_presence_is_paid_for_each_epoch_and_events_as_they_come() -> None:
    door, event = Door(policy(epoch_slots=100)), slots.event_bits(100)
    timing = TrafficClass.TIMING
    door.run(0, 3000, step_ms=10)
    # The end of the run before, the start, and three epochs of 100 slots.
    expected = 2 * event + 3 * 101
    assert door.gateway.spent.wire[timing] == expected
    # Seven missed edges are one event; so are a lapse and a trip, with the edges missed meanwhile.
    door.run(3070, 3090, step_ms=10)
    expected += 101 + event
    assert door.gateway.spent.wire[timing] == expected
    door.tick(3300 * MS)
    door.gateway.breaker.trip("test")
    door.tick(3310 * MS)
    door.gateway.breaker.reset()
    door.run(3320, 3340, step_ms=10)
    assert door.gateway.spent.wire[timing] == expected + 3 * event
    # A frame is charged a bit for how near its edge it was, with the next edge's charges.
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert len(door.run(3340, 3400, step_ms=10)) == 1
    assert door.gateway.spent.wire[timing] == expected + 3 * event + slots.JITTER_BITS


def test_a_tick_too_late_in_its_slot_sends_nothing_and_is_charged() -> None:
    door = warm()
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    door.run(1000, 1010)
    spent = door.gateway.spent.wire[TrafficClass.TIMING]
    # Slots are 10 ms; an eighth after the edge is the last moment.
    door.gateway.breaker.permit(1100 * MS)
    assert door.tick(1011 * MS + MS // 2) == []
    assert len(door.tick(1020 * MS + 10 * MS // 8)) == 1
    assert door.gateway.spent.wire[TrafficClass.TIMING] == spent + slots.event_bits(100)


def test_a_resend_repeats_the_bytes_comes_first_and_is_capped() -> None:
    door = Door(policy(resends_max=2))
    door.gateway.submit(CONTROL, 3, Payload(5, 4))
    door.run(0, 1000)
    for _ in range(4):
        door.gateway.resend(0)
    door.gateway.submit(CONTROL, 0, Payload(9, 4))
    left = door.run(1000, 2000)
    assert [one.sequence for one in left] == [0, 0, 1]
    assert left[0].content == left[1].content == door.released[0].content
    assert door.durable.totals.wire[TrafficClass.RESEND] > 0
    assert door.durable.totals.information[TrafficClass.RESEND] == 0


def test_a_resend_of_what_was_never_sent_or_is_no_longer_kept_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    door.gateway.resend(0)
    assert door.gateway.waiting_count == 0
    monkeypatch.setattr("bitweir_metering.gateway.STORED_MAX", 2)
    for value in range(4):
        door.gateway.submit(CONTROL, 0, Payload(value, 10))
    door.run(0, 200)
    door.gateway.resend(0)
    door.gateway.resend(3)
    assert [one.sequence for one in door.run(1000, 1500)] == [3]


def test_resends_that_wait_are_forgotten_with_their_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitweir_metering.gateway.STORED_MAX", 1)
    door = Door(policy(class_limits={**dict.fromkeys(TrafficClass, 1 << 40), TrafficClass.RESEND: 0}))
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    door.run(0, 1000)
    door.gateway.resend(0)
    door.run(1000, 1100)
    assert door.gateway.waiting_count == 1
    # The resend cannot be paid. A frame stored now pushes the old one out, and the wish for it with it.
    door.gateway._store(door.gateway._stored[0].__class__(0, CONTROL, 7, b"", 0))
    assert door.gateway.waiting_count == 0


def test_waiting_resends_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitweir_metering.gateway.RESENDS_WAITING_MAX", 3)
    door = Door(policy(resends_max=10))
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    door.run(0, 1000)
    for _ in range(8):
        door.gateway.resend(0)
    assert door.gateway.waiting_count == 3


def test_model_output_beyond_the_granted_tokens_is_refused() -> None:
    door = Door(policy(token_ceiling_bits=10))
    with pytest.raises(RefusedError, match="granted"):
        door.gateway.submit(MODEL, 0, Payload(0, 1))
    door.gateway.grant(3)
    door.gateway.submit(MODEL, 0, Payload(0, 20))
    with pytest.raises(RefusedError):
        door.gateway.submit(MODEL, 0, Payload(0, 11))
    door.gateway.submit(MODEL, 0, Payload(0, 10))
    for wrong in (-1, True, 1.5):
        with pytest.raises(UnitError):
            door.gateway.grant(wrong)


@pytest.mark.parametrize("kind", [TrafficClass.RESEND, TrafficClass.TIMING])
def test_the_inner_side_cannot_send_the_gates_own_classes(kind: TrafficClass) -> None:
    with pytest.raises(RefusedError):
        Door().gateway.submit(kind, 0, Payload(0, 1))


def test_a_lane_that_is_none_is_refused_and_charges_nothing() -> None:
    door = Door(policy(token_ceiling_bits=10))
    door.gateway.grant(1)
    with pytest.raises(FormError):
        door.gateway.submit(MODEL, 8, Payload(0, 10))
    door.gateway.submit(MODEL, 7, Payload(0, 10))


def test_waiting_payloads_are_bounded() -> None:
    door = Door()
    for _ in range(WAITING_MAX):
        door.gateway.submit(TUNNEL, 0, Payload(0, 1))
    with pytest.raises(RefusedError, match="waiting"):
        door.gateway.submit(TUNNEL, 0, Payload(0, 1))


def test_a_clock_before_its_start_is_an_error() -> None:
    with pytest.raises(ClockError):
        Door(start_ns=1000).gateway.tick(999)


def test_a_clock_that_jumps_back_within_its_life_sends_nothing_twice() -> None:
    door = Door()
    door.run(0, 1000)
    door.gateway.submit(CONTROL, 0, Payload(1, 4))
    assert door.run(500, 900) == []
    assert len(door.run(1010, 1100)) == 1


def test_slots_of_a_clock() -> None:
    clock = SlotClock(100, 10)
    assert [clock.index(t) for t in (100, 109, 110, 125)] == [0, 0, 1, 2]
    assert [clock.is_at_edge(t) for t in (100, 101, 102, 110, 111, 119)] == [True, True, False, True, True, False]
    with pytest.raises(UnitError):
        SlotClock(0, 0)
    with pytest.raises(UnitError):
        slots.presence_bits(0)


def test_a_permit_never_shortens_another() -> None:
    breaker = Breaker()
    breaker.permit(100)
    breaker.permit(50)
    assert breaker.verdict(99) is Verdict.UP
    assert [breaker.verdict(100), breaker.verdict(101)] == [Verdict.LAPSED] * 2
    assert breaker.lapse_count == 1
    breaker.trip("")
    assert breaker.trip_reason == "no reason given"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_at_every_instant_what_left_was_reserved(data: st.DataObject) -> None:
    """I1, I2 and I6: durable bits cover the wire, through late ticks, refusals, lapses, trips and restarts."""
    limits = {**dict.fromkeys(TrafficClass, 1 << 40), CONTROL: data.draw(st.sampled_from([0, 3000, 60_000]))}
    rules = policy(lease_bits=data.draw(st.sampled_from([10_000, 50_000])), class_limits=limits, epoch_slots=7)
    door, now_ms, before = Door(rules), 0, 0
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["tick", "tick", "submit", "resend", "permit", "trip", "reset", "restart"]))
        if action == "tick":
            now_ms += data.draw(st.integers(0, 60))
            left = door.tick(now_ms * MS)
            assert not left or door.gateway.breaker.verdict(now_ms * MS) is Verdict.UP
        elif action == "submit":
            count = data.draw(st.integers(0, 600))
            door.gateway.submit(data.draw(st.sampled_from([CONTROL, TUNNEL])), 0, Payload(0, count))
        elif action == "resend":
            door.gateway.resend(data.draw(st.integers(0, 5)))
        elif action == "permit":
            door.gateway.breaker.permit((now_ms + data.draw(st.integers(1, 80))) * MS)
        elif action == "trip":
            door.gateway.breaker.trip("test")
        elif action == "reset":
            door.gateway.breaker.reset()
        else:
            door.gateway = Gateway(rules, KEY, SlotClock(now_ms * MS, rules.slot_ns), sequence=1000)
        reserved = door.durable.totals
        assert reserved.wire_bits >= before
        assert reserved.wire[CONTROL] <= limits[CONTROL]
        before = reserved.wire_bits
        assert door.wire_bits <= sum(reserved.wire[kind] for kind in TrafficClass if kind is not TrafficClass.TIMING)
