"""A gate without a process: its ledger and its witnesses in memory, what left it, and what both sides say to it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import frame, gate_client
from bitweir_metering.budget import Totals
from bitweir_metering.control import Control, Keys, Message, encode
from bitweir_metering.entries import (
    Chain,
    EntryKind,
    Head,
    Lease,
    Reservation,
    Trip,
    numbers_note,
    policy_note,
    reset_note,
)
from bitweir_metering.errors import BudgetError, WitnessError
from bitweir_metering.frame import Frame, Payload, TrafficClass
from bitweir_metering.gate import Gate
from bitweir_metering.gate_client import Status
from bitweir_metering.policy import Policy, Quorum
from bitweir_metering.resets import Reset
from bitweir_metering.witness import Checkpoint, Cosignature, Witness
from tests.unit.metering.example_log import KEYS as WITNESS_KEYS
from tests.unit.metering.example_log import WITNESSES
from tests.unit.metering.example_policy import PRIVATE, PUBLIC, policy, signed

KEYS = Keys(bytes(range(32)), bytes(range(32, 64)))
MS = 1_000_000
ROOM = 1 << 32
MODEL, CONTROL, TUNNEL = TrafficClass.MODEL, TrafficClass.CONTROL, TrafficClass.TUNNEL


def gate_policy(threshold: int = 1, witness_count: int = 1, **changes: Any) -> Policy:
    """A roomy policy: 10 ms slots, epochs of 100 slots, witnesses of example_log.py."""
    fields = {
        "limit_bits": ROOM, "class_limits": dict.fromkeys(TrafficClass, ROOM), "slot_ns": 10 * MS, "epoch_slots": 100,
        "lease_bits": 20_000, "resends_max": 2, "witnesses": Quorum(threshold, tuple(WITNESS_KEYS[:witness_count])),
    }  # fmt: skip
    return policy(**fields | changes)


class Book:
    """A ledger in memory: the chain of entries, without a file."""

    def __init__(self, document: Policy) -> None:
        self.chain = Chain()
        self.rows: list[tuple[int | bytes, ...]] = []
        self.add(EntryKind.POLICY, policy_note(document, signed(document, 0, 1)))

    @property
    def policy(self) -> Policy:
        return self.chain.policy

    @property
    def head(self) -> Head:
        return self.chain.head

    @property
    def tripped(self) -> Trip | None:
        return self.chain.trip

    def add(self, kind: EntryKind, note: bytes = b"", charge: Reservation | None = None) -> int:
        self.rows.append(self.chain.extend(kind, note, charge))
        return len(self.rows) - 1

    def reserve(self, requests: Sequence[Reservation]) -> list[Lease | BudgetError]:
        answers: list[Lease | BudgetError] = []
        for request in requests:
            try:
                answers.append(Lease(self.add(EntryKind.RESERVE, charge=request), request))
            except BudgetError as refusal:
                answers.append(refusal)
        return answers

    def trip(self, reason: str) -> int:
        return self.add(EntryKind.TRIP, reason.encode())

    def event(self, note: bytes) -> int:
        return self.add(EntryKind.EVENT, note)

    def give_numbers(self, count: int) -> range:
        start = self.chain.numbers_end
        self.add(EntryKind.NUMBERS, numbers_note(start + count))
        return range(start, start + count)

    def record_loss(self, loss: Reservation, note: bytes = b"") -> int:
        return self.add(EntryKind.LOSS, note, loss)

    def hashes(self, start: int, count: int) -> list[bytes]:
        return [bytes(row[-1]) for row in self.rows[start : start + count]]

    def reset(self) -> None:
        """Do what people do after a trip."""
        assert self.tripped is not None
        trip = (self.tripped.sequence, self.tripped.entry_hash.hex())
        reset = Reset(self.policy.lineage, self.policy.link, *trip, "somebody looked")
        self.add(EntryKind.RESET, reset_note(reset, {PUBLIC[i]: PRIVATE[i].sign(reset.message()) for i in (0, 1)}))

    def copied(self) -> "Book":
        """What somebody has who copies the file now."""
        other = copy.copy(self)
        other.chain, other.rows = copy.copy(self.chain), list(self.rows)
        return other

    def notes(self, kind: EntryKind) -> list[bytes]:
        """The notes of all entries of a kind."""
        return [bytes(row[-3]) for row in self.rows if row[1] == kind]


class Peer:
    """A witness in memory, as `cosigned` knows it; it may stop to answer."""

    def __init__(self, private: Ed25519PrivateKey, document: Policy) -> None:
        self.witness = Witness(private, Checkpoint.empty(document.lineage, document.link))
        self.is_silent = False
        self.loses_answers = False
        """It signs and remembers, and nobody hears of it."""
        self.proofs: list[int] = []
        """How many hashes each proof had."""

    @property
    def size(self) -> int:
        """Entries it has signed for."""
        return self.witness.last.size

    def latest(self) -> Checkpoint:
        self._answer(self.is_silent)
        return self.witness.last

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        self._answer(self.is_silent)
        self.proofs.append(len(proof))
        cosignature = self.witness.cosign(checkpoint, proof)
        self._answer(self.loses_answers)
        return cosignature

    def _answer(self, is_lost: bool) -> None:
        if is_lost:
            raise WitnessError("a witness does not answer", remedy="look at the witness")


def peers_of(document: Policy, count: int) -> list[Peer]:
    """New witnesses, the first ones of example_log.py."""
    return [Peer(private, document) for private in WITNESSES[:count]]


START_REALTIME_NS = 1_800_000_000_000_000_000


@dataclass
class Rig:
    """A gate over one book, started as often as a test likes, and the world around it."""

    rules: Policy = field(default_factory=gate_policy)
    witness_count: int = 1
    sent: list[bytes] = field(default_factory=list)
    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    send_error: OSError | None = None

    def __post_init__(self) -> None:
        self.book = Book(self.rules)
        self.peers = peers_of(self.rules, self.witness_count)
        self.realtime_ns = START_REALTIME_NS
        self.start()

    def start(self) -> Gate:
        """Start a gate, the first one or the next after a crash; the clock goes on."""
        self.realtime_ns += 1
        self.gate = Gate(
            self.book,
            self.peers,
            KEYS,
            realtime_ns=self.realtime_ns,
            send=self._sent,
            say=self._said,
        )
        return self.gate

    def _sent(self, content: bytes) -> None:
        """I1, at every frame: what is outside was reserved, and as many witnesses as must be know of it."""
        if self.send_error:
            raise self.send_error
        self.sent.append(content)
        known = self.cosigned.wire
        assert self.wire_bits <= sum(known[kind] for kind in TrafficClass if kind is not TrafficClass.TIMING)

    @property
    def cosigned(self) -> Totals:
        """The totals that a quorum has signed."""
        latest = sorted((peer.witness.last for peer in self.peers), key=lambda last: last.size, reverse=True)
        return latest[self.book.policy.witnesses.threshold - 1].totals

    def _said(self, event: str, **fields: object) -> None:
        self.said.append((event, fields))

    def message(self, kind: Control, first: int = 0, second: int = 0) -> bytes:
        """The next message of who may say this."""
        self.realtime_ns += 1
        return encode(Message(kind, self.realtime_ns, first, second), KEYS.of(kind))

    def tell(self, kind: Control, first: int = 0, second: int = 0, *, now_ms: int = 0) -> None:
        """Say something to the gate."""
        self.realtime_ns = max(self.realtime_ns, START_REALTIME_NS + now_ms * MS)
        content = self.message(kind, first, second)
        self.gate.control(content, now_ms * MS, self.realtime_ns)

    def submit(self, payload: Payload, kind: TrafficClass = CONTROL, lane: int = 0) -> Status:
        """Hand a payload over as inner does."""
        return self.gate.submit(gate_client.request(kind, lane, payload))

    def run(self, from_ms: int, to_ms: int, *, permits: bool = True) -> list[Frame]:
        """Let time go by, with permits; return what left meanwhile."""
        before = len(self.sent)
        for now_ms in range(from_ms, to_ms, 5):
            if permits:
                self.tell(Control.PERMIT, now_ms=now_ms)
            self.gate.step(now_ms * MS)
        return self.frames[before:]

    @property
    def frames(self) -> list[Frame]:
        """What has left, decoded."""
        return [frame.decode(content, KEYS.outer) for content in self.sent]

    @property
    def wire_bits(self) -> int:
        """What a meter outside has counted."""
        return sum(frame.wire_bits(content) for content in self.sent)

    def events(self, name: str) -> list[dict[str, object]]:
        """What the gate has said under a name."""
        return [fields for event, fields in self.said if event == name]
