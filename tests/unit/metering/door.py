"""A policy, a gateway and a ledger that is only a number: what tests of the door start from."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import frame
from bitweir_metering.budget import Budget, Totals
from bitweir_metering.frame import TrafficClass
from bitweir_metering.gateway import Gateway, Need, Release
from bitweir_metering.policy import Policy, Quorum
from bitweir_metering.slots import SlotClock

KEY = bytes(range(32))
MS = 1_000_000
MEGABIT = 1_000_000
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


def policy(**changes: object) -> Policy:
    """A roomy policy: 10 ms slots, epochs of 100 slots."""
    limit = 1 << 40
    fields = {
        "serial": 1, "lineage": "test", "link": "inner-outer", "models": {"strong": 1 << 40}, "limit_bits": limit,
        "class_limits": dict.fromkeys(TrafficClass, limit), "rate_bits_per_s": MEGABIT, "burst_bits": 1 << 20,
        "lease_bits": 1 << 19, "min_days": 1, "slot_ns": 10 * MS, "epoch_slots": 100, "permit_ns": 1000 * MS,
        "resends_max": 2, "token_ceiling_bits": 64, "signers": Quorum(1, (SIGNER,)),
        "witnesses": Quorum(1, (SIGNER,)),
    }  # fmt: skip
    return Policy(**{**fields, **changes})


@dataclass
class Door:
    """A gateway whose leases are granted at once by a budget, and what left it."""

    rules: Policy = field(default_factory=policy)
    start_ns: int = 0
    sequence: int = 0
    durable: Budget = field(init=False)
    gateway: Gateway = field(init=False)
    released: list[Release] = field(default_factory=list)
    refused: list[Need] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.durable = Budget(self.rules, Totals())
        clock = SlotClock(self.start_ns, self.rules.slot_ns)
        self.gateway = Gateway(self.rules, KEY, clock, sequence=self.sequence)

    @property
    def wire_bits(self) -> int:
        """What a meter outside has seen."""
        return sum(frame.wire_bits(one.content) for one in self.released)

    def tick(self, now_ns: int) -> list[Release]:
        """One tick, leases granted as asked; returns what left now."""
        asked = self.gateway.tick(now_ns)
        for need in [one for one in asked if isinstance(one, Need)]:
            if self.durable.refusal(need.kind, need.wire_bits):
                self.refused.append(need)
                continue
            self.durable.add(need.kind, need.wire_bits, need.information_bits)
            self.gateway.lease(need)
        left = [one for one in asked if isinstance(one, Release)]
        self.released += left
        return left

    def run(self, from_ms: int, to_ms: int, step_ms: int = 5) -> list[Release]:
        """Tick through a span of time with the breaker held up; returns what left."""
        left = []
        for now_ms in range(from_ms, to_ms, step_ms):
            self.gateway.breaker.permit((now_ms + 100) * MS)
            left += self.tick(self.start_ns + now_ms * MS)
        return left
