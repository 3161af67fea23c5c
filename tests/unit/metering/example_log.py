"""A log for tests of witnesses: a real chain of entries, its tree, and the checkpoints of any older state of it."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering.entries import Chain, EntryKind, Reservation, policy_note
from bitweir_metering.frame import TrafficClass
from bitweir_metering.keys import public_key
from bitweir_metering.merkle import Tree, leaf_hash
from bitweir_metering.witness import Checkpoint
from tests.unit.metering.example_policy import policy, signed

WITNESSES = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(101, 106)]
KEYS = [public_key(private) for private in WITNESSES]


class Log:
    """A chain that remembers its checkpoints: `at[n]` is that of n entries, `proof(a, b)` leads from one to another."""

    def __init__(self) -> None:
        self.lineage, self.link = policy().lineage, policy().link
        self.chain, self.tree = Chain(), Tree()
        self.at = [Checkpoint.empty(self.lineage, self.link)]
        self.chain.extend(EntryKind.POLICY, policy_note(policy(), signed(policy(), 0, 1)))
        self._grown()

    def reserve(self, *charges: int) -> "Log":
        """Add a reservation of so many wire bits for each charge, or an event where it is 0."""
        for bits in charges:
            if bits:
                self.chain.extend(EntryKind.RESERVE, charge=Reservation(TrafficClass.MODEL, bits, bits // 2))
            else:
                self.chain.extend(EntryKind.EVENT, b"seen")
            self._grown()
        return self

    def proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the consistency proof between two of its checkpoints."""
        return self.tree.consistency_proof(old_size, new_size)

    def _grown(self) -> None:
        head = self.chain.head
        self.tree.append(leaf_hash(head.entry_hash))
        self.at.append(Checkpoint(self.lineage, self.link, head.entry_count, self.tree.root(), head.totals))
