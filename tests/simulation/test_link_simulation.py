"""The link in 200 worlds: no law is broken, and every fault that is claimed strikes. Then gates, ledgers and disks that
are wrong in one way each: the same laws find every one of them. `make sim` lives through more worlds."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from unittest.mock import patch

import pytest

from bitweir_metering import frame
from bitweir_metering import gate as gate_module
from bitweir_metering.budget import Bucket
from bitweir_metering.control import Control, Message
from bitweir_metering.cosigned import CosignedLedger
from bitweir_metering.entries import Chain, EntryKind, Lease, Reservation, policy_note
from bitweir_metering.errors import BudgetError, ClockError, CosignError
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gate import Gate
from bitweir_metering.gate_client import Status, request
from bitweir_metering.gateway import Gateway, Need, Release
from bitweir_metering.keys import public_key
from bitweir_metering.policy import Quorum
from bitweir_metering.slots import SlotClock
from bitweir_metering.units import NS_PER_S
from bitweir_metering.witness import Checkpoint, Witness
from tests.simulation.link_host import KEYS, REAL_NS, SLOT_NS
from tests.simulation.link_oracle import BrokenLawError
from tests.simulation.link_parts import MOST, Chance, Disk, SimLedger, WitnessLine
from tests.simulation.link_people import tagged
from tests.simulation.link_world import WITNESSES, World, live, main
from tests.unit.metering.example_policy import policy, signed

SEEDS = 200
# What 200 worlds must have seen at least; what they really see is about twice as much.
SEEN = {
    "all arrived": SEEDS, "frame": 2000, "frame again": 150, "reset": 20, "raise": 30, "unsigned": 40,
    "crash: before commit": 10, "crash: after commit": 15, "crash: before a frame": 3, "crash: after a frame": 5,
    "crash: witness asked": 40, "crash: witness answered": 40, "crash: witness silent": 2,
    "gate ended: LedgerError": 10, "gate ended: TrippedError": 40, "gate ended: ClockError": 20,
    "said: lapsed": 80, "said: refused": 60, "said: not cosigned": 200, "said: not sent": 15, "said: stopped": 80,
    "more on the wire than reserved": 5, "inner hears DAMAGED": 1000, "inner hears FULL": 300,
    "inner hears REFUSED": 3000, "inner hears TAKEN": 5000, "outer drops what is no frame": 50,
    "went on without a new start": 3,
}  # fmt: skip
LEAST = {"fork": 1, "slow commit": 10, "clock jump": 10, "reboot": 15, "false alarm": 10, "frame not sent": 10}


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        counts += live(seed)
    return counts


def test_no_law_is_broken_and_what_is_submitted_after_the_last_fault_arrives(seen: Counter[str]) -> None:
    assert seen["all arrived"] == SEEDS


def test_the_worlds_are_as_bad_as_they_claim(seen: Counter[str]) -> None:
    least = dict.fromkeys(MOST, 20) | SEEN | LEAST
    assert {name: seen[name] for name, count in least.items() if seen[name] < count} == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_is_a_world(seed: int) -> None:
    worlds = [World(seed), World(seed)]
    assert worlds[0].run() == worlds[1].run()
    assert worlds[0].digest.digest() == worlds[1].digest.digest()


class GrantsBeforeCommit(Gate):
    def _carry_out(self, asked: Iterable[Need | Release]) -> None:
        asked = list(asked)
        for need in (one for one in asked if isinstance(one, Need)):
            self._gateway.lease(need)
        super()._carry_out(asked)

    def _cosign(self, now_ns: int) -> bool:
        self._cosigned._waiting.clear()
        return super()._cosign(now_ns)


class SkipsWitnesses(Gate):
    def _cosign(self, now_ns: int) -> bool:
        self._usable_end = self._numbers_end
        waiting, self._cosigned._waiting = self._cosigned._waiting, []
        for lease in waiting:
            granted = lease.reservation
            self._gateway.lease(Need(granted.kind, granted.wire_bits, granted.information_bits))
        return bool(waiting)


class HearsNoRefusal(CosignedLedger):
    def _ask(self, checkpoint: Checkpoint) -> None:
        try:
            super()._ask(checkpoint)
        except CosignError:
            return


class TrustsItsDisk(Gate):
    """It numbers and tags frames out of a copied-back ledger a second time."""

    def __init__(self, *arguments: object, **names: object) -> None:
        super().__init__(*arguments, **names)
        self._cosigned.__class__ = HearsNoRefusal


class NeedsNoPermit(Gate):
    def step(self, now_ns: int) -> None:
        self._gateway.breaker.permit(now_ns + SLOT_NS)
        super().step(now_ns)


class NeverTrips(Gate):
    def control(self, content: bytes, now_ns: int, realtime_ns: int) -> None:
        if content[1:2] != bytes([Control.TRIP]):
            super().control(content, now_ns, realtime_ns)


class TrustsTheClock(Gate):
    def step(self, now_ns: int) -> None:
        self._now_ns = 0
        super().step(now_ns)


class Talks(Gate):
    def submit(self, content: bytes) -> Status:
        self._say("submitted", content=content[5:].hex())
        return super().submit(content)


class GrantsTokens(Gate):
    def submit(self, content: bytes) -> Status:
        self._gateway.grant(1000)
        return super().submit(content)


class OtherGateway(Gate):
    """A gate around a gateway that is wrong."""

    gateway: type[Gateway]

    def __init__(self, *arguments: object, **names: object) -> None:
        super().__init__(*arguments, **names)
        self._gateway.__class__ = self.gateway


class NewNumbers(Gateway):
    def resend(self, sequence: int) -> None:
        if sequence in self._stored:
            said = frame.decode(self._stored[sequence].content, self._tag_key)
            self._waiting.append((said.kind, said.lane, said.payload))


class FreeTiming(Gateway):
    def _is_timing_paid(self, slot: int, out: list[Need | Release]) -> bool:
        return True


class EndlessResends(Gateway):
    def resend(self, sequence: int) -> None:
        self._sent_again.pop(sequence, None)
        super().resend(sequence)


class FreeResends(Gateway):
    def _spend(self, kind: TrafficClass, wire_bits: int, information_bits: int, out: list[Need | Release]) -> bool:
        return kind is TrafficClass.RESEND or super()._spend(kind, wire_bits, information_bits, out)


class NewestFirst(Gateway):
    def _prepare(self, out: list[Need | Release]) -> None:
        self._waiting.reverse()
        super()._prepare(out)
        self._waiting.reverse()


def around(gateway: type[Gateway]) -> dict[str, object]:
    return {"gate": type(gateway.__name__, (OtherGateway,), {"gateway": gateway})}


class ForgetsNumbers(SimLedger):
    def give_numbers(self, count: int) -> range:
        return range(self._chain.numbers_end, self._chain.numbers_end + count)


class ForgetfulDisk(Disk):
    """What synchronous=NORMAL is: power loss takes the newest entries."""

    def crash(self, random: Random) -> None:
        kept = Disk(self.rows[: max(1, len(self.rows) - random.randrange(3))])
        self.rows, self.chain = kept.rows, kept.chain


class NeverOver(SimLedger):
    """It says yes to what does not fit."""

    def reserve(self, requests: Sequence[Reservation]) -> list[Lease | BudgetError]:
        answers = zip(super().reserve(requests), requests, strict=True)
        return [answer if isinstance(answer, Lease) else Lease(0, asked) for answer, asked in answers]


BROKEN = [
    ({"gate": GrantsBeforeCommit}, "more left than is signed for|are reserved"),
    ({"gate": SkipsWitnesses}, "not durably given out, or not signed|more left than is signed for|rolled back"),
    ({"gate": TrustsItsDisk}, "rolled back"),
    ({"gate": NeedsNoPermit}, "without a permit"),
    ({"gate": NeverTrips}, "after a trip|did not arrive"),
    ({"gate": TrustsTheClock}, "set back"),
    ({"gate": Talks}, "what inner wrote"),
    ({"gate": GrantsTokens}, "more model output"),
    (around(NewNumbers), "what nobody submitted, or again"),
    (around(FreeTiming), "TIMING"),
    (around(EndlessResends), "sent again too often"),
    (around(FreeResends), "RESEND"),
    (around(NewestFirst), "out of order"),
    ({"ledger": ForgetsNumbers}, "not durably given out|two frames with number"),
    ({"ledger": NeverOver}, "more left than is signed for|are reserved"),
    ({"disk": ForgetfulDisk}, "a crash lost durable entries"),
]


def found_after(law: str, parts: Mapping[str, object]) -> int:
    """Return how many worlds it takes until a law is broken; it must be one of these."""
    for seed in range(SEEDS):
        try:
            World(seed, **parts).run()
        except BrokenLawError as error:
            assert re.search(law, str(error)), error
            return seed + 1
    raise AssertionError(f"{SEEDS} worlds have not found {parts}")


@pytest.mark.parametrize(("parts", "law"), BROKEN, ids=[next(iter(parts.values())).__name__ for parts, _ in BROKEN])
def test_what_is_broken_is_found(parts: Mapping[str, object], law: str) -> None:
    assert found_after(law, parts) <= SEEDS


@pytest.mark.parametrize(
    ("owner", "name", "law"), [(Bucket, "take", "faster than"), (SlotClock, "is_at_edge", "ns after its edge")]
)
def test_frames_off_their_edges_or_above_the_rate_are_found(owner: type, name: str, law: str) -> None:
    with patch.object(owner, name, lambda *_: True):
        assert found_after(law, {}) <= SEEDS


class Still:
    """A world of one gate in which nothing goes wrong by chance; its witness takes as long as it is told to."""

    def __init__(self) -> None:
        self.chance = Chance(Random(0), Counter())
        self.chance.end()
        rules = policy(min_days=0, rate_bits_per_s=10**9, witnesses=Quorum(1, (public_key(WITNESSES[0]),)))
        self.disk, chain = Disk(), Chain()
        self.disk.commit([chain.extend(EntryKind.POLICY, policy_note(rules, signed(rules, 0, 1)))], chain)
        self.line = WitnessLine(Witness(WITNESSES[0], Checkpoint.empty(rules.lineage, rules.link)), self)
        self.now_ns = self.witness_ns = 0
        self.sent_ns: list[int] = []
        self.gate = Gate(
            SimLedger(self.disk, self),
            [self.line],
            KEYS,
            realtime_ns=REAL_NS,
            send=lambda _: self.sent_ns.append(self.now_ns),
            say=lambda *_, **__: None,
        )

    def effect(self, place: str, took_ns: int) -> None:
        self.now_ns += self.witness_ns if place == "witness answered" else 0

    def written(self) -> None:
        pass

    def step(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.gate.control(tagged(Message(Control.PERMIT, REAL_NS + now_ns + 1), KEYS), now_ns, REAL_NS + now_ns)
        self.gate.step(now_ns)


def test_a_clock_that_was_set_back_stops_the_gate() -> None:
    world = Still()
    world.step(5 * NS_PER_S)
    with pytest.raises(ClockError, match="set back by 1 ns"):
        world.step(5 * NS_PER_S - 1)


def test_a_frame_that_is_ready_does_not_leave_late_because_a_witness_is_slow() -> None:
    with patch.object(gate_module, "NUMBERS_AT_ONCE", 2):
        world = Still()
        world.step(0)
        slot_ns = world.gate._ledger.policy.slot_ns
        for value in range(4):
            world.gate.submit(request(TrafficClass.CONTROL, 0, Payload(value, 4)))
        # Two frames have numbers; the next numbers are written, but nobody signs for them.
        world.step(slot_ns)
        world.line.is_up = False
        for edge in range(2, 40):
            world.step(edge * slot_ns)
        world.line.is_up, world.witness_ns = True, slot_ns // 5
        for edge in range(40, 60):
            world.step(edge * slot_ns)
    assert len(world.sent_ns) == 4
    assert {sent_ns % slot_ns for sent_ns in world.sent_ns} == {0}


def test_the_command_lives_through_worlds_and_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--first", "5", "--processes", "1"]) == 0
    out, err = capsys.readouterr()
    assert "3 of 3 worlds from seed 5 on" in err
    assert "all arrived" in out


def test_a_failure_says_its_seed_and_how_to_see_it_again() -> None:
    with pytest.raises(BrokenLawError) as failure:
        live(0, disk=ForgetfulDisk)
    assert failure.value.__notes__ == ["seed 0; again: python -m tests.simulation.link_world --first 0 --seeds 1"]
