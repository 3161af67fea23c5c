"""The gate when something does not go well: budgets that end, frames that are not sent, messages that are none."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_metering import frame, gate_client, gateway
from bitweir_metering.control import Control, TripReason
from bitweir_metering.entries import EntryKind
from bitweir_metering.errors import RefusedError, TrippedError
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gate_client import REQUEST_BYTES_MAX, Status
from tests.unit.metering.example_gate import CONTROL, MODEL, MS, ROOM, TUNNEL, Rig, gate_policy

SMALL_BITS = 8 * (8 + 13 + 42)
BITS = Payload(0b1011, 4)


def capped(**limits: int) -> Rig:
    """A rig whose named classes have a limit of their own."""
    bits = {TrafficClass[name.upper()]: limit for name, limit in limits.items()}
    return Rig(gate_policy(class_limits=dict.fromkeys(TrafficClass, ROOM) | bits))


# Requests of inner.


def test_what_inner_is_told() -> None:
    rig = Rig()
    assert rig.submit(BITS) is Status.TAKEN
    assert rig.submit(BITS, TUNNEL, 7) is Status.TAKEN
    assert rig.submit(BITS, MODEL) is Status.REFUSED
    for kind in (TrafficClass.RESEND, TrafficClass.TIMING):
        assert rig.submit(BITS, kind) is Status.REFUSED
    sound = gate_client.request(CONTROL, 0, BITS)
    for content in (b"", sound[:-1], sound + b"\0", b"\0" * 5, bytes([1, 1, 8, 0, 0]), bytes(REQUEST_BYTES_MAX + 1)):
        assert rig.gate.submit(content) is Status.DAMAGED
    assert len(rig.run(0, 100)) == 2


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "WAITING_MAX", 3)
    rig = Rig()
    assert [rig.submit(BITS) for _ in range(5)] == [Status.TAKEN] * 3 + [Status.FULL] * 2
    rig.run(0, 50)
    assert rig.submit(BITS) is Status.TAKEN


# Budgets.


def test_the_last_bits_of_a_class_are_used_in_smaller_leases_and_others_go_on() -> None:
    rig = capped(control=30_000)
    for _ in range(100):
        rig.submit(BITS)
    assert rig.submit(BITS, TUNNEL) is Status.TAKEN
    rig.run(0, 2000)
    reserved = rig.book.head.totals.wire
    assert 30_000 - SMALL_BITS < reserved[CONTROL] <= 30_000
    assert [one.kind for one in rig.frames] == [CONTROL] * (30_000 // SMALL_BITS) + [TUNNEL]
    # Whole leases once, then exactly what a frame needs once too often.
    reasons = [str(fields["reason"]) for fields in rig.events("refused")]
    assert len(reasons) == 2
    assert all("the sub-cap of control is 30000 bits" in reason for reason in reasons)
    assert rig.submit(BITS) is Status.REFUSED
    assert rig.submit(BITS, TUNNEL) is Status.TAKEN
    assert len(rig.run(2000, 2100)) == 1
    assert len(rig.events("refused")) == 2


def test_the_lifetime_limit_ends_it_all() -> None:
    limits = dict.fromkeys(TrafficClass, 40_000)
    rig = Rig(gate_policy(limit_bits=40_000, class_limits=limits))
    for _ in range(200):
        rig.submit(BITS)
    rig.run(0, 5000)
    assert rig.book.head.totals.wire_bits <= 40_000
    assert rig.wire_bits <= 40_000
    assert len(rig.sent) > 50
    assert rig.submit(BITS) is Status.REFUSED
    before = len(rig.sent)
    rig.start()
    assert rig.submit(BITS) is Status.TAKEN
    rig.run(5000, 7000)
    assert len(rig.sent) == before


def test_without_timing_nothing_leaves() -> None:
    rig = capped(timing=100)
    rig.submit(BITS)
    assert rig.run(0, 1000) == []
    assert all("timing" in str(fields["reason"]) for fields in rig.events("refused"))
    assert 1 <= len(rig.events("refused")) <= 2


def test_resends_have_a_budget_of_their_own() -> None:
    rig = capped(resend=SMALL_BITS)
    for _ in range(3):
        rig.submit(BITS)
    rig.run(0, 100)
    for sequence in range(3):
        rig.tell(Control.RESEND, sequence)
    assert [one.sequence for one in rig.run(100, 300)] == [0]
    rig.submit(BITS)
    assert [one.sequence for one in rig.run(300, 400)] == [3]


# Frames that are not sent.


def test_a_frame_that_the_link_does_not_take_is_lost_said_and_can_be_sent_again() -> None:
    rig = Rig()
    rig.send_error = OSError(105, "No buffer space available")
    for value in (1, 2):
        rig.submit(Payload(value, 16))
    rig.run(0, 100)
    assert rig.sent == []
    reason = "[Errno 105] No buffer space available"
    assert rig.events("not sent") == [
        {"sequence": 0, "reason": reason, "count": 1},
        {"sequence": 1, "reason": reason, "count": 2},
    ]
    rig.send_error = None
    rig.submit(Payload(3, 16))
    rig.tell(Control.RESEND, 1)
    left = rig.run(100, 200)
    assert [(one.sequence, one.payload.value) for one in left] == [(1, 2), (2, 3)]


def test_a_resend_repeats_the_bytes() -> None:
    rig = Rig()
    rig.submit(BITS)
    rig.run(0, 100)
    for _ in range(5):
        rig.tell(Control.RESEND, 0)
        rig.tell(Control.RESEND, 7)
    rig.run(100, 300)
    assert rig.sent == [rig.sent[0]] * (1 + rig.rules.resends_max)


def test_a_frame_that_is_not_there_does_not_leave() -> None:
    with pytest.raises(RefusedError, match="nothing is prepared"):
        Rig().gate._gateway._leave(0)


# Messages that are none.


def test_damaged_messages_are_counted_and_said_at_powers_of_two() -> None:
    rig = Rig()
    sound = rig.message(Control.PERMIT)
    rig.gate.control(sound, 0, rig.realtime_ns)
    for number in range(100):
        rig.gate.control((b"", sound, bytes(42), sound[:-1] + b"\0")[number % 4], 0, rig.realtime_ns)
    assert [fields["count"] for fields in rig.events("control ignored")] == [1, 2, 4, 8, 16, 32, 64]
    assert all(fields["reason"] for fields in rig.events("control ignored"))
    assert rig.book.tripped is None


def test_a_permit_counts_from_when_it_is_read_and_only_once() -> None:
    rig = Rig()
    permit = rig.message(Control.PERMIT)
    rig.gate.control(permit, 500 * MS, rig.realtime_ns)
    rig.gate.control(permit, 1400 * MS, rig.realtime_ns)
    rig.submit(BITS)
    assert len(rig.run(1400, 1500, permits=False)) == 1
    rig.submit(BITS)
    assert rig.run(1500, 3000, permits=False) == []


def test_what_was_recorded_before_a_start_is_of_no_use_after_it() -> None:
    rig = Rig()
    recorded = [rig.message(Control.PERMIT) for _ in range(10)]
    trip = rig.message(Control.TRIP, int(TripReason.DROPS))
    rig.start()
    rig.submit(BITS)
    for number, content in enumerate([*recorded, trip]):
        rig.gate.control(content, number * MS, rig.realtime_ns)
    assert rig.run(0, 1000, permits=False) == []
    assert rig.book.tripped is None


# The end.


def test_stopping_writes_what_was_never_sent() -> None:
    rig = Rig()
    for _ in range(3):
        rig.submit(BITS)
    rig.run(0, 100)
    rig.gate.stop()
    losses, reserved = rig.book.chain.losses, rig.book.head.totals
    spent = rig.gate._gateway.spent
    for kind in TrafficClass:
        assert reserved.wire[kind] == spent.wire[kind] + losses.wire[kind]
    assert losses.wire[CONTROL] == rig.rules.lease_bits - 3 * SMALL_BITS
    assert reserved.holds(losses)
    assert rig.events("stopped") == [{"waiting": 0, "lost_bits": losses.wire_bits}]
    assert set(rig.book.notes(EntryKind.LOSS)) == {b"stopped"}
    assert rig.book.notes(EntryKind.EVENT)[1:] == [b"gate stopped"]
    rig.submit(BITS)
    assert rig.run(100, 1000) == []


def test_stopping_writes_what_no_witness_has_signed_for_too() -> None:
    rig = Rig()
    rig.run(0, 100)
    rig.peers[0].is_silent = True
    for kind in (CONTROL, CONTROL, TUNNEL):
        rig.submit(BITS, kind)
    rig.run(100, 200)
    rig.gate.stop()
    assert rig.book.head.totals.wire[CONTROL] == rig.book.chain.losses.wire[CONTROL] == rig.rules.lease_bits
    assert rig.events("stopped")[0]["waiting"] == 3
    # The next one is not disturbed by it.
    rig.peers[0].is_silent = False
    rig.start()
    rig.submit(BITS)
    assert len(rig.run(200, 300)) == 1


def test_stopping_with_nothing_leased_loses_nothing() -> None:
    rig = Rig()
    rig.gate.stop()
    assert rig.events("stopped") == [{"waiting": 0, "lost_bits": 0}]
    assert rig.book.notes(EntryKind.LOSS) == []


# What the gate's people read.


def test_nothing_that_inner_wrote_is_said() -> None:
    """A log that goes out of the gate would be a second way out."""
    secret = b"the secret weights"
    payload = Payload(int.from_bytes(secret, "big"), 8 * len(secret))
    rig = capped(tunnel=0, control=1000)
    for _ in range(5):
        for kind in TrafficClass:
            rig.submit(payload, kind, 5)
    rig.gate.submit(secret)
    rig.gate.control(secret * 2 + secret[:6], 0, rig.realtime_ns)
    rig.gate.control(secret, 0, rig.realtime_ns)
    rig.send_error = OSError(1, "not permitted")
    rig.run(0, 500)
    rig.peers[0].is_silent = True
    rig.tell(Control.RESEND, 0, now_ms=500)
    rig.run(500, 600)
    rig.run(600, 3000, permits=False)
    rig.gate.stop()
    with pytest.raises(TrippedError) as caught:
        rig.tell(Control.TRIP, int(TripReason.DROPS))
    assert {event for event, _ in rig.said} >= {
        "started", "control ignored", "refused", "not sent", "not cosigned", "lapsed", "stopped", "trip not cosigned"
    }  # fmt: skip
    said = repr(rig.said) + str(caught.value) + repr(rig.book.notes(EntryKind.EVENT)) + str(rig.book.tripped)
    framed = frame.encode(frame.Frame(CONTROL, 5, 0, payload), bytes(32))[5:20]
    for form in (secret.decode(), secret.hex(), str(payload.value), f"{payload.value:x}", framed.hex(), repr(framed)):
        assert form not in said
    assert not re.search(r"[^ -~]", said)


# Anything, in any order.

ACTIONS = (
    "step",
    "step",
    "step",
    "submit",
    "submit",
    "permit",
    "grants",
    "resend",
    "silent",
    "restart",
    "damage",
    "trip",
)


@settings(max_examples=80)
@given(data=st.data())
def test_at_every_frame_it_was_up_and_witnesses_knew(data: st.DataObject) -> None:
    """I1, I2, I6 of the gate: `Rig._sent` looks at the witnesses' totals; numbers and budgets are looked at here."""
    limits = dict.fromkeys(TrafficClass, ROOM) | {CONTROL: data.draw(st.sampled_from([0, 3000, 60_000]))}
    rules = gate_policy(
        data.draw(st.integers(2, 3)),
        3,
        class_limits=limits,
        epoch_slots=7,
        lease_bits=data.draw(st.sampled_from([9000, 50_000])),
    )
    rig, now_ms, permit_end_ms, heard = Rig(rules, witness_count=3), 0, 0, 0
    for _ in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(ACTIONS))
        if action == "step":
            now_ms += data.draw(st.integers(0, 60))
            before = len(rig.sent)
            rig.gate.step(now_ms * MS)
            assert len(rig.sent) <= before + (now_ms < permit_end_ms)
        elif action == "submit":
            kind = data.draw(st.sampled_from([MODEL, CONTROL, TUNNEL]))
            rig.submit(Payload(0, data.draw(st.integers(0, 600))), kind)
        elif action == "permit":
            rig.tell(Control.PERMIT, now_ms=now_ms)
            permit_end_ms = now_ms + rules.permit_ns // MS
        elif action == "grants":
            heard += data.draw(st.integers(0, 30))
            rig.tell(Control.GRANTS, heard, data.draw(st.integers(0, heard)), now_ms=now_ms)
        elif action == "resend":
            rig.tell(Control.RESEND, data.draw(st.integers(0, 5)), now_ms=now_ms)
        elif action == "silent":
            peer = data.draw(st.sampled_from(rig.peers))
            peer.is_silent = not peer.is_silent
        elif action == "damage":
            rig.gate.control(data.draw(st.binary(max_size=50)), now_ms * MS, rig.realtime_ns)
        elif action == "trip":
            with pytest.raises(TrippedError):
                rig.tell(Control.TRIP, int(TripReason.DROPS), now_ms=now_ms)
            with pytest.raises(TrippedError):
                rig.start()
            rig.book.reset()
        if action in ("restart", "trip"):
            if action == "restart" and data.draw(st.booleans()):
                rig.gate.stop()
            rig.start()
            permit_end_ms = 0
        assert rig.book.head.totals.wire[CONTROL] <= limits[CONTROL]
    fresh = [one.sequence for one in dict.fromkeys(rig.frames)]
    assert len(set(fresh)) == len(fresh)
    assert fresh == sorted(fresh)
    for one in set(rig.sent):
        assert rig.sent.count(one) <= 1 + rules.resends_max
