"""Merkle trees of RFC 6962 (RFC 9162, section 2.1) with SHA-256: one hash says what a whole log holds. Pure.

    leaf hash   SHA-256 of 0x00 and the entry          node hash   SHA-256 of 0x01, left hash and right hash
    A tree of n > 1 leaves has the largest power of two below n on its left. The tree of none is SHA-256 of nothing.

Rules:
1. An inclusion proof shows that a leaf is in a tree, a consistency proof that a newer tree starts with an older one.
2. A verifier walks down by the same rule as the prover and takes hashes off the end of the proof. All must be used.
3. Proofs bind hashes, not sizes: trees of 5 and of 6 leaves have proofs of one shape. Who signs a root signs the size
   beside it, and answers for it. A wrong size hides no leaf: the newer root still holds all that the older one held.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from bitweir_metering.errors import ProofError
from bitweir_metering.units import amount

HASH_BYTES: Final = 32
# Sizes stay below 2**62: 62 siblings on the way down, and the hash that an old tree ends in.
PROOF_HASHES_MAX: Final = 63
EMPTY_ROOT: Final = hashlib.sha256().digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_REMEDY: Final = "make it again, from all entries and for these two sizes"


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf, 32 bytes."""
    return hashlib.sha256(_LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees side by side, 32 bytes."""
    return hashlib.sha256(_NODE + left + right).digest()


class Tree:
    """A growing tree that keeps the hash of every complete subtree: about two hashes for each leaf.

    Appending takes two hashes on average; a root or a proof of any size so far takes about log2(size) of them.

    Args:
        leaves: leaf hashes of 32 bytes, first to last.

    Raises:
        ProofError: one is not a hash.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # _levels[k][i] covers the leaves from i * 2**k up to (i + 1) * 2**k.
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf.

        Raises:
            ProofError: it is not a hash; nothing was added.
        """
        grown = checked_hash(leaf)
        for level in self._levels:
            level.append(grown)
            if len(level) % 2:
                return
            grown = node_hash(level[-2], level[-1])
        self._levels.append([grown])

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, or of all.

        Raises:
            ProofError: there are not so many.
            UnitError: the size is no amount.
        """
        checked = self._checked_size(self.size if size is None else size)
        return self._hash(0, checked) if checked else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return what shows that leaf `index` is among the first `size` leaves.

        Raises:
            ProofError: it is not, or there are not so many.
            UnitError: a number is no amount.
        """
        if amount(index, "index") >= self._checked_size(size):
            raise ProofError(f"leaf {index} is not among the first {size}", remedy="count leaves from 0")
        return self._path(index, 0, size)

    def consistency_proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return what shows that the tree of the first `new_size` leaves starts with that of the first `old_size`.

        Raises:
            ProofError: the old size is above the new one, or there are not so many leaves.
            UnitError: a number is no amount.
        """
        if amount(old_size, "old_size") > self._checked_size(new_size):
            raise ProofError(f"{old_size} leaves are more than {new_size}", remedy="a log never shrinks")
        return self._subproof(0, old_size, new_size, is_known=True) if old_size else ()

    def _checked_size(self, size: int) -> int:
        if amount(size, "size") > self.size:
            raise ProofError(f"{size} leaves of {self.size}", remedy="append them first")
        return size

    def _hash(self, start: int, end: int) -> bytes:
        """Return the hash of some leaves, at least one; a complete subtree's was kept."""
        count = end - start
        if not count & (count - 1):
            return self._levels[count.bit_length() - 1][start // count]
        middle = start + _left_count(count)
        return node_hash(self._hash(start, middle), self._hash(middle, end))

    def _path(self, index: int, start: int, end: int) -> tuple[bytes, ...]:
        if end - start == 1:
            return ()
        middle = start + _left_count(end - start)
        if index < middle:
            return (*self._path(index, start, middle), self._hash(middle, end))
        return (*self._path(index, middle, end), self._hash(start, middle))

    def _subproof(self, start: int, old_end: int, end: int, *, is_known: bool) -> tuple[bytes, ...]:
        """SUBPROOF of RFC 6962, section 2.1.2; known is what is itself the root of the old tree."""
        if old_end == end:
            return () if is_known else (self._hash(start, end),)
        middle = start + _left_count(end - start)
        if old_end <= middle:
            return (*self._subproof(start, old_end, middle, is_known=is_known), self._hash(middle, end))
        return (*self._subproof(middle, old_end, end, is_known=False), self._hash(start, middle))


def verify_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Refuse a proof that does not show a leaf hash at `index` of the tree of `size` leaves with this root.

    Raises:
        ProofError: it does not show that.
        UnitError: a number is no amount.
    """
    if amount(index, "index") >= amount(size, "size"):
        raise ProofError(f"leaf {index} of a tree of {size}", remedy="count leaves from 0")
    left = _checked_proof(proof)
    found = _root_with(checked_hash(leaf), index, size, left)
    if left or found != checked_hash(root):
        raise ProofError(f"the proof does not show leaf {index} of {size}", remedy=_REMEDY)


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Refuse a proof that does not show that the new tree starts with all of the old one.

    Nothing is shown about the sizes themselves: see rule 3.

    Raises:
        ProofError: it does not show that.
        UnitError: a number is no amount.
    """
    if amount(old_size, "old_size") > amount(new_size, "new_size"):
        raise ProofError(f"{old_size} leaves are more than {new_size}", remedy="a log never shrinks")
    left = _checked_proof(proof)
    roots = checked_hash(old_root), checked_hash(new_root)
    if (old_size == 0 and old_root != EMPTY_ROOT) or (new_size == 0 and new_root != EMPTY_ROOT):
        raise ProofError("a tree without leaves and with another root than theirs", remedy="its root is EMPTY_ROOT")
    # Every tree starts with the empty one; that needs no hashes.
    found = _both_roots(old_size, new_size, old_root, left) if old_size else roots
    if left or found != roots:
        raise ProofError(f"the proof does not lead from {old_size} leaves to {new_size}", remedy=_REMEDY)


def checked_hash(value: object) -> bytes:
    """Return the value if it is a hash. Another length would let one hash's bytes pass for another's.

    Raises:
        ProofError: it is not 32 bytes.
    """
    if type(value) is not bytes or len(value) != HASH_BYTES:
        raise ProofError(f"{value!r:.40} is no hash", remedy=f"give {HASH_BYTES} bytes")
    return value


def _checked_proof(proof: Sequence[bytes]) -> list[bytes]:
    if len(proof) > PROOF_HASHES_MAX:
        raise ProofError(f"a proof of {len(proof)} hashes", remedy=f"no tree needs more than {PROOF_HASHES_MAX}")
    return [checked_hash(one) for one in proof]


def _left_count(count: int) -> int:
    """Return how many of at least two leaves are on the left: the largest power of two below their number."""
    return 1 << ((count - 1).bit_length() - 1)


def _last(proof: list[bytes]) -> bytes:
    if not proof:
        raise ProofError("the proof ends too early", remedy=_REMEDY)
    return proof.pop()


def _root_with(leaf: bytes, index: int, count: int, proof: list[bytes]) -> bytes:
    """Return the root of the tree that has this leaf and, beside the way to it, the hashes of the proof."""
    if count == 1:
        return leaf
    beside, left = _last(proof), _left_count(count)
    if index < left:
        return node_hash(_root_with(leaf, index, left, proof), beside)
    return node_hash(beside, _root_with(leaf, index - left, count - left, proof))


def _both_roots(old_count: int, new_count: int, known: bytes | None, proof: list[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of the old and the new tree that have the hashes of the proof in them.

    Args:
        old_count: leaves of the old tree below this node, at least one.
        new_count: leaves of the new tree below it.
        known: the old root while the old tree may still be exactly what lies below; then None.
        proof: what is left of it.
    """
    if old_count == new_count:
        found = _last(proof) if known is None else known
        return found, found
    beside, left = _last(proof), _left_count(new_count)
    if old_count <= left:
        old, new = _both_roots(old_count, left, known, proof)
        return old, node_hash(new, beside)
    old, new = _both_roots(old_count - left, new_count - left, None, proof)
    return node_hash(beside, old), node_hash(beside, new)
