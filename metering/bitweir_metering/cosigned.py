"""The ledger and its witnesses together: a reservation counts once enough witnesses remember it.

    gate --reserve--> ledger (durable) --checkpoint, proof--> witnesses (durable) --cosignatures--> leases

Rules:
1. What is not cosigned by a quorum is reserved and may not be spent. It waits, and nothing is reserved a second time.
2. A witness that does not answer is asked again later, after the others and seldom while they are enough. The link is
   down only when too few answer and leases run out.
3. A witness that refuses, or has signed what this ledger does not hold, is reason to trip: `CosignError`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from bitweir_metering.budget import Totals
from bitweir_metering.entries import Head, Lease, Reservation
from bitweir_metering.errors import BudgetError, CosignError, LedgerError, WitnessError
from bitweir_metering.merkle import Tree, leaf_hash
from bitweir_metering.policy import Policy
from bitweir_metering.witness import Checkpoint, Cosignature, Refusal, verify_cosignatures
from bitweir_metering.witness_client import WitnessClient

# Checkpoints after which a witness that was silent is waited for again, where the others are enough.
SILENT_ASKED_EVERY: Final = 64
# Hashes of entries that are read at once.
HASHES_AT_ONCE: Final = 10_000


class Book(Protocol):
    """What is asked of a ledger; `ledger.Ledger` is one."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""

    @property
    def head(self) -> Head:
        """What is durable."""

    def reserve(self, requests: Sequence[Reservation]) -> list[Lease | BudgetError]:
        """Reserve for all, durably; see `ledger.Ledger.reserve`."""

    def hashes(self, start: int, count: int) -> list[bytes]:
        """Return hashes of entries; see `ledger.Ledger.hashes`."""


class Peer(Protocol):
    """One witness, as far as this side knows it; `Connection` is one."""

    def latest(self) -> Checkpoint:
        """Return the last checkpoint it signed."""

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        """Have a checkpoint signed."""


class Connection:
    """A witness at a socket, connected when it is needed and again after an error. It has one of the policy's keys.

    Args:
        path: the witness's socket.
        policy: the one in force.
        timeout_s: how long to wait for an answer. The gate stands still meanwhile.
    """

    def __init__(self, path: Path, policy: Policy, *, timeout_s: float) -> None:
        self._path = path
        self._policy = policy
        self._timeout_s = timeout_s
        self._client: WitnessClient | None = None
        self._latest: Checkpoint | None = None

    def latest(self) -> Checkpoint:
        """Return the last checkpoint it signed.

        Raises:
            WitnessError: nobody answers who has one of the policy's keys.
        """
        if self._client is None or self._latest is None:
            self._client, self._latest = self._connected()
        return self._latest

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        """Have a checkpoint signed that follows the latest.

        Raises:
            CosignError: refused.
            WitnessError: no answer; ask for the latest before the next proof.
        """
        self.latest()
        client, self._latest = self._client, None
        if client is None:
            raise WitnessError(f"{self._path} is not connected", remedy="report this as a defect")
        try:
            cosignature = client.cosign(checkpoint, proof)
        except WitnessError:
            self.close()
            raise
        self._latest = checkpoint
        return cosignature

    def close(self) -> None:
        """End the connection."""
        if self._client:
            self._client.close()
        self._client = self._latest = None

    def _connected(self) -> tuple[WitnessClient, Checkpoint]:
        error = WitnessError(f"{self._path}: the policy names no witness", remedy="name its key in [witnesses]")
        for key in self._policy.witnesses.keys:
            client = WitnessClient(self._path, key, self._policy.lineage, self._policy.link, timeout_s=self._timeout_s)
            try:
                return client, client.latest()
            except WitnessError as refusal:
                error = refusal
                if isinstance(refusal.__cause__, OSError):  # nobody answers: another key would not help
                    break
        raise error


class CosignedLedger:
    """See the rules of this file.

    Args:
        ledger: open, and nobody else's.
        witnesses: at least as many as the policy's quorum.
    """

    def __init__(self, ledger: Book, witnesses: Sequence[Peer]) -> None:
        self._ledger = ledger
        self._witnesses = witnesses
        self._tree = Tree()
        self._cosigned_count = 0
        self._silent: set[int] = set()
        self._ask_count = 0
        self._waiting: list[Lease] = []

    @property
    def cosigned_count(self) -> int:
        """Entries that a quorum has signed for."""
        return self._cosigned_count

    @property
    def is_behind(self) -> bool:
        """Whether there are entries that no quorum has signed for yet."""
        return self._cosigned_count < self._ledger.head.entry_count

    @property
    def waiting(self) -> Sequence[Reservation]:
        """What is reserved, and nobody may spend before it is signed for."""
        return [lease.reservation for lease in self._waiting]

    def reserve(self, requests: Sequence[Reservation]) -> list[BudgetError | None]:
        """Reserve durably; `cosign` returns the leases. Return what was refused, None where it was not, in order.

        Raises:
            LedgerError: the ledger is closed for good.
        """
        answers = self._ledger.reserve(requests)
        self._waiting += [answer for answer in answers if isinstance(answer, Lease)]
        return [None if isinstance(answer, Lease) else answer for answer in answers]

    def cosign(self) -> list[Lease]:
        """Have everything signed that is not; return the leases that count from here on.

        Raises:
            CosignError: a witness refuses, or has signed what is not in this ledger: trip.
            WitnessError: too few answered; nothing counts yet, try again.
            LedgerError: the ledger is closed for good.
        """
        head = self._ledger.head
        while self._tree.size < head.entry_count:
            hashes = self._ledger.hashes(self._tree.size, HASHES_AT_ONCE)
            if not hashes:
                raise LedgerError(f"entries after {self._tree.size} cannot be read", remedy="bitweir ledger verify")
            for entry_hash in hashes:
                self._tree.append(leaf_hash(entry_hash))
        if self.is_behind:
            self._ask(self._checkpoint(head.entry_count, head.totals))
            self._cosigned_count = head.entry_count
        leases, self._waiting = self._waiting, []
        return leases

    def _ask(self, checkpoint: Checkpoint) -> None:
        quorum = self._ledger.policy.witnesses
        cosignatures: list[Cosignature] = []
        silent = ""
        self._ask_count += 1
        # Those that did not answer last time come last; where the others are enough, they are asked now and then.
        for index in sorted(range(len(self._witnesses)), key=self._silent.__contains__):
            is_enough = len({one.key for one in cosignatures}) >= quorum.threshold
            if is_enough and index in self._silent and self._ask_count % SILENT_ASKED_EVERY:
                continue
            try:
                cosignatures.append(self._asked(self._witnesses[index], checkpoint))
            except CosignError:
                raise
            except WitnessError as error:
                self._silent.add(index)
                silent = f"; {error}"
                continue
            self._silent.discard(index)
        try:
            verify_cosignatures(checkpoint, cosignatures, quorum)
        except WitnessError as error:
            raise WitnessError(f"{error}{silent}", remedy=error.remedy) from error

    def _asked(self, witness: Peer, checkpoint: Checkpoint) -> Cosignature:
        latest = witness.latest()
        if latest.size > checkpoint.size:
            raise CosignError(
                f"a witness has signed {latest.size} entries, the ledger holds {checkpoint.size}",
                reason=int(Refusal.SMALLER),
                remedy="this ledger is an old copy: find the newer one",
            )
        return witness.cosign(checkpoint, self._tree.consistency_proof(latest.size, checkpoint.size))

    def _checkpoint(self, size: int, totals: Totals) -> Checkpoint:
        policy = self._ledger.policy
        return Checkpoint(policy.lineage, policy.link, size, self._tree.root(), totals)
