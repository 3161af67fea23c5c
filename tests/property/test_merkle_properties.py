"""Laws of Merkle trees, against the definition of RFC 6962 written out and the verifiers of RFC 9162 step by step."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering.errors import ProofError
from bitweir_metering.merkle import EMPTY_ROOT, Tree, leaf_hash, verify_consistency, verify_inclusion

SIZE_MAX = 40
LEAVES = [leaf_hash(bytes([number])) for number in range(SIZE_MAX)]
TREE = Tree(LEAVES)
SIZES = st.integers(1, SIZE_MAX)
PAIRS = st.tuples(SIZES, SIZES).map(sorted)
HASHES = st.binary(min_size=32, max_size=32)


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, but of leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = max(2**power for power in range(10) if 2**power < len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = max(2**power for power in range(10) if 2**power < len(leaves))
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], is_known: bool) -> list[bytes]:
    """SUBPROOF, section 2.1.2."""
    if m == len(leaves):
        return [] if is_known else [naive_root(leaves)]
    k = max(2**power for power in range(10) if 2**power < len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], is_known), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def stepwise_consistency(first: int, second: int, first_root: bytes, second_root: bytes, path: list[bytes]) -> bool:
    """The verifier of RFC 9162, section 2.1.4.2, for 0 < first < second."""
    if not path:
        return False
    if first & (first - 1) == 0:
        path = [first_root, *path]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = hashlib.sha256(b"\x01" + c + fr).digest(), hashlib.sha256(b"\x01" + c + sr).digest()
            while not (fn & 1 or fn == 0):
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = hashlib.sha256(b"\x01" + sr + c).digest()
        fn, sn = fn >> 1, sn >> 1
    return fr == first_root and sr == second_root and sn == 0


def stepwise_inclusion(leaf: bytes, index: int, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """The verifier of RFC 9162, section 2.1.3.2."""
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = hashlib.sha256(b"\x01" + p + r).digest()
            while not (fn & 1 or fn == 0):
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hashlib.sha256(b"\x01" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        verify_consistency(old, old_root, new, new_root, proof)
    except ProofError:
        return False
    return True


def is_included(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        verify_inclusion(leaf, index, size, root, proof)
    except ProofError:
        return False
    return True


def mutant(draw: st.DrawFn, content: bytes) -> bytes:
    position = draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= draw(st.integers(1, 255))
    return bytes(changed)


def test_roots_and_proofs_are_the_defined_ones() -> None:
    for size in range(SIZE_MAX + 1):
        leaves = LEAVES[:size]
        assert TREE.root(size) == Tree(leaves).root() == naive_root(leaves)
        for index in range(size):
            assert list(TREE.inclusion_proof(index, size)) == naive_path(index, leaves)
        for old in range(1, size + 1):
            assert list(TREE.consistency_proof(old, size)) == naive_subproof(old, leaves, True)
        assert TREE.consistency_proof(0, size) == ()


def test_every_proof_verifies() -> None:
    for size in range(SIZE_MAX + 1):
        for index in range(size):
            verify_inclusion(LEAVES[index], index, size, TREE.root(size), TREE.inclusion_proof(index, size))
        for old in range(size + 1):
            verify_consistency(old, TREE.root(old), size, TREE.root(size), TREE.consistency_proof(old, size))


@given(st.data(), PAIRS)
def test_no_altered_byte_verifies(data: st.DataObject, sizes: list[int]) -> None:
    old, new = sizes
    proof = TREE.consistency_proof(old, new)
    parts = [TREE.root(old), TREE.root(new), *proof]
    which = data.draw(st.integers(0, len(parts) - 1))
    parts[which] = data.draw(st.composite(mutant)(parts[which]))
    assert not is_consistent(old, parts[0], new, parts[1], parts[2:])
    index = old - 1
    parts = [LEAVES[index], TREE.root(new), *TREE.inclusion_proof(index, new)]
    which = data.draw(st.integers(0, len(parts) - 1))
    parts[which] = data.draw(st.composite(mutant)(parts[which]))
    assert not is_included(parts[0], index, new, parts[1], parts[2:])


@given(st.data(), PAIRS, HASHES)
def test_no_shorter_longer_or_reordered_proof_verifies(data: st.DataObject, sizes: list[int], extra: bytes) -> None:
    old, new = sizes
    for proof, holds in (
        (TREE.consistency_proof(old, new), lambda p: is_consistent(old, TREE.root(old), new, TREE.root(new), p)),
        (TREE.inclusion_proof(old - 1, new), lambda p: is_included(LEAVES[old - 1], old - 1, new, TREE.root(new), p)),
    ):
        assert holds(proof)
        where = data.draw(st.integers(0, len(proof)))
        assert not holds((*proof[:where], extra, *proof[where:]))
        for gone in range(len(proof)):
            assert not holds(proof[:gone] + proof[gone + 1 :])
        other = data.draw(st.permutations(proof))
        assert holds(other) == (tuple(other) == proof)


def test_a_wrong_old_size_never_verifies() -> None:
    for new in range(1, 20):
        for old in range(1, new + 1):
            proof = TREE.consistency_proof(old, new)
            for other in set(range(20)) - {old}:
                assert not is_consistent(other, TREE.root(old), new, TREE.root(new), proof)
            for other in set(range(20)) - {old - 1}:
                path = TREE.inclusion_proof(old - 1, new)
                assert not is_included(LEAVES[old - 1], other, new, TREE.root(new), path)


def test_a_wrong_new_size_verifies_only_where_proofs_have_the_same_shape() -> None:
    # Proofs bind hashes, not sizes (rule 3 of merkle.py). It is never an older tree's size that passes, and never a
    # proof of another length.
    passed = set()
    for new in range(1, 20):
        for old in range(1, new + 1):
            proof = TREE.consistency_proof(old, new)
            for other in set(range(20)) - {new}:
                if is_consistent(old, TREE.root(old), other, TREE.root(new), proof):
                    passed.add((old, new, other))
                    assert other > old
                    assert len(TREE.consistency_proof(old, other)) == len(proof)
    assert (4, 5, 6) in passed
    assert not [one for one in passed if one[0] == one[1]]


@given(PAIRS, PAIRS, st.integers(0, SIZE_MAX - 1), st.none() | st.lists(HASHES, max_size=8))
def test_the_verifiers_agree_with_those_of_the_rfc(
    sizes: list[int], claimed: list[int], index: int, made_up: list[bytes] | None
) -> None:
    (old, new), (first, second) = sizes, claimed
    proof = made_up if made_up is not None else list(TREE.consistency_proof(old, new))
    if first < second:
        expected = stepwise_consistency(first, second, TREE.root(old), TREE.root(new), proof)
        assert is_consistent(first, TREE.root(old), second, TREE.root(new), proof) == expected
    path = made_up if made_up is not None else list(TREE.inclusion_proof(old - 1, new))
    if index < second:
        expected = stepwise_inclusion(LEAVES[old - 1], index, second, TREE.root(new), path)
        assert is_included(LEAVES[old - 1], index, second, TREE.root(new), path) == expected


@given(st.integers(1, SIZE_MAX - 1), st.integers(0, SIZE_MAX - 1), SIZES)
def test_no_proof_leads_from_a_log_to_one_with_a_changed_entry(old: int, changed: int, new: int) -> None:
    new = max(old, new)
    fork = Tree([*LEAVES[:changed], leaf_hash(b"forged"), *LEAVES[changed + 1 :]])
    held = is_consistent(old, TREE.root(old), new, fork.root(new), fork.consistency_proof(old, new))
    assert held == (changed >= old)


@given(st.integers(1, 2**62 - 1), st.integers(1, 2**62 - 1), st.lists(HASHES, max_size=70), HASHES, HASHES)
def test_made_up_proofs_of_any_size_are_refused(a: int, b: int, proof: list[bytes], old: bytes, new: bytes) -> None:
    if a == b and old == new:
        return
    with pytest.raises(ProofError):
        verify_consistency(min(a, b), old, max(a, b), new, proof)
    with pytest.raises(ProofError):
        verify_inclusion(old, min(a, b) - 1, max(a, b), new, [*proof, EMPTY_ROOT])
