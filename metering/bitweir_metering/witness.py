"""What a witness signs, and when it refuses: the memory of a ledger that the ledger's own disk cannot change. Pure.

    checkpoint     1 B length, lineage, 1 B length, link, 8 B size, 32 B root, 8 B wire total of each class,
                   8 B information total of each class; classes in the order of `TrafficClass`, big endian
    cosignature    Ed25519 of `_CONTEXT` and the checkpoint

Rules:
1. A witness knows one log, by lineage and link, and one checkpoint of it: the last it signed. It starts with size 0.
2. It signs no smaller size, no other root or totals of the same size, no lower total, and nothing that does not start
   with what it signed before (merkle.py; a leaf is the hash of a ledger's entry).
3. Who signs keeps the checkpoint durably before the signature leaves: witness_store.py.
4. A checkpoint has one encoding, and no other bytes are one.
"""

import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import keys, merkle
from bitweir_metering.budget import Totals
from bitweir_metering.errors import CheckpointError, CosignError, MeteringError, ProofError, WitnessError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import KEYS_MAX, Quorum
from bitweir_metering.units import amount

NAME_BYTES_MAX: Final = 64
# People who could ever be asked; more would only cost time.
COSIGNATURES_MAX: Final = 2 * KEYS_MAX
_NAME: Final = re.compile(rf"[a-z0-9.-]{{1,{NAME_BYTES_MAX}}}", re.ASCII)  # as in policy.py
_NUMBERS: Final = struct.Struct(f">Q{merkle.HASH_BYTES}s{2 * len(TrafficClass)}Q")
CHECKPOINT_BYTES_MAX: Final = 2 * (1 + NAME_BYTES_MAX) + _NUMBERS.size
_CONTEXT: Final = b"bitweir checkpoint v1\n"


@dataclass(frozen=True)
class Checkpoint:
    """What a ledger says it is.

    Args:
        lineage: as in its policy.
        link: as in its policy.
        size: entries so far.
        root: of the Merkle tree over their hashes.
        totals: bits reserved so far.

    Raises:
        CheckpointError: a name is none, the root is no hash, or there are no entries and yet a root or totals.
        UnitError: the size is no amount.
    """

    lineage: str
    link: str
    size: int
    root: bytes
    totals: Totals

    def __post_init__(self) -> None:
        for name in (self.lineage, self.link):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise CheckpointError(f"{name!r:.40} is no name", remedy="1 to 64 of a to z, 0 to 9, dot and hyphen")
        if type(self.root) is not bytes or len(self.root) != merkle.HASH_BYTES:
            raise CheckpointError(f"{self.root!r:.40} is no root", remedy=f"give {merkle.HASH_BYTES} bytes")
        if not isinstance(self.totals, Totals):
            raise CheckpointError(f"{self.totals!r:.40} are no totals", remedy="give budget.Totals")
        is_nothing = self.root == merkle.EMPTY_ROOT and self.totals == Totals()
        if amount(self.size, "size") == 0 and not is_nothing:
            raise CheckpointError("no entries, and yet a root or totals", remedy="count the entries again")

    @classmethod
    def empty(cls, lineage: str, link: str) -> "Checkpoint":
        """Return the checkpoint of a log before its first entry."""
        return cls(lineage, link, 0, merkle.EMPTY_ROOT, Totals())

    def canonical(self) -> bytes:
        """Return the one encoding; `parse` reads it."""
        names = b"".join(bytes([len(name)]) + name.encode("ascii") for name in (self.lineage, self.link))
        return names + _NUMBERS.pack(self.size, self.root, *self.totals.wire, *self.totals.information)

    def message(self) -> bytes:
        """Return what is signed."""
        return _CONTEXT + self.canonical()


@dataclass(frozen=True)
class Cosignature:
    """A witness's signature of one checkpoint.

    Raises:
        CheckpointError: key or signature has not the length of one.
    """

    key: bytes
    signature: bytes

    def __post_init__(self) -> None:
        parts = ((self.key, keys.PUBLIC_KEY_BYTES), (self.signature, keys.SIGNATURE_BYTES))
        if any(type(part) is not bytes or len(part) != size for part, size in parts):
            raise CheckpointError("a key or a signature of another length", remedy="32 and 64 bytes")

    def is_of(self, checkpoint: Checkpoint) -> bool:
        """Return whether this key signed this checkpoint."""
        return keys.verify(self.key, self.signature, checkpoint.message())


class Refusal(IntEnum):
    """Why a witness does not sign. Each is reason to take the link down for good."""

    OTHER_LOG = 1
    """Another lineage or link than the one it watches."""
    SMALLER = 2
    """Fewer entries than it signed before: the ledger was rolled back."""
    FORK = 3
    """As many entries, but another root."""
    TOTALS = 4
    """A total is lower than before, or another for the same entries."""
    PROOF = 5
    """Not shown to start with the entries it signed before."""


class Witness:
    """The state: a key, and the last checkpoint it signed. Only `cosign` changes it.

    Args:
        private: the witness's key.
        last: `Checkpoint.empty` for a new witness, else what was kept.
    """

    def __init__(self, private: Ed25519PrivateKey, last: Checkpoint) -> None:
        self._private = private
        self._key = keys.public_key(private)
        self._last = last

    @property
    def key(self) -> bytes:
        """The public key."""
        return self._key

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint it signed."""
        return self._last

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        """Sign what follows the last checkpoint, or the last one again; it is the last one from here on.

        Args:
            checkpoint: the newer one.
            proof: consistency proof from the size of the last one to the size of this one.

        Raises:
            CosignError: refused; nothing changed. Its `reason` is a `Refusal`.
        """
        check_next(self._last, checkpoint, proof)
        self._last = checkpoint
        return self.signed_last()

    def signed_last(self) -> Cosignature:
        """Return the signature of the last checkpoint; Ed25519 makes the same one each time."""
        return Cosignature(self._key, self._private.sign(self._last.message()))


def parse(content: bytes) -> Checkpoint:
    """Return the checkpoint that these bytes are.

    Raises:
        CheckpointError: they are none; the reason is in the text.
    """
    lineage, rest = _name_and_rest(content)
    link, numbers = _name_and_rest(rest)
    if len(numbers) != _NUMBERS.size:
        raise CheckpointError(f"{len(content)} bytes are no checkpoint", remedy="read witness.py for its form")
    size, root, *bits = _NUMBERS.unpack(numbers)
    classes = len(TrafficClass)
    try:
        return Checkpoint(lineage, link, size, root, Totals(tuple(bits[:classes]), tuple(bits[classes:])))
    except MeteringError as error:
        raise CheckpointError(f"no checkpoint: {error}", remedy=error.remedy) from error


def check_next(last: Checkpoint, following: Checkpoint, proof: Sequence[bytes]) -> None:
    """Refuse what does not follow the last checkpoint; the last one itself, with an empty proof, follows.

    Raises:
        CosignError: it does not follow; its `reason` is a `Refusal`.
    """
    if (following.lineage, following.link) != (last.lineage, last.link):
        raise _refused(Refusal.OTHER_LOG, f"{following.lineage}, {following.link}: not {last.lineage}, {last.link}")
    if following.size < last.size:
        raise _refused(Refusal.SMALLER, f"{following.size} entries after {last.size}")
    if following.size == last.size and following.root != last.root:
        raise _refused(Refusal.FORK, f"another root of {last.size} entries")
    if following.size == last.size and following.totals != last.totals:
        raise _refused(Refusal.TOTALS, f"other totals of the same {last.size} entries")
    if not following.totals.holds(last.totals):
        raise _refused(Refusal.TOTALS, "a total is lower than before")
    try:
        merkle.verify_consistency(last.size, last.root, following.size, following.root, proof)
    except ProofError as error:
        raise _refused(Refusal.PROOF, f"{following.size} entries after {last.size}: {error}") from error


def verify_cosignatures(checkpoint: Checkpoint, cosignatures: Collection[Cosignature], quorum: Quorum) -> None:
    """Refuse a checkpoint that too few of these witnesses have signed. Others' signatures and bad ones do not count.

    Raises:
        WitnessError: too few, or more signatures than there could be witnesses.
    """
    if len(cosignatures) > COSIGNATURES_MAX:
        raise WitnessError(f"{len(cosignatures)} cosignatures", remedy=f"at most {COSIGNATURES_MAX}")
    valid = {one.key for one in cosignatures if one.key in quorum.keys and one.is_of(checkpoint)}
    if len(valid) < quorum.threshold:
        raise WitnessError(
            f"{len(valid)} valid cosignatures of the {quorum.threshold} that {checkpoint.size} entries need",
            remedy="ask the other witnesses; until then nothing may leave",
        )


def _refused(reason: Refusal, text: str) -> CosignError:
    remedy = "keep the ledger as it is, and compare it with the witness's last checkpoint"
    return CosignError(f"{reason.name}: {text}", reason=int(reason), remedy=remedy)


def _name_and_rest(content: bytes) -> tuple[str, bytes]:
    """Split off a name; whether it is one, `Checkpoint` says."""
    end = 1 + content[0] if content else 1
    return content[1:end].decode("latin-1"), content[end:]
