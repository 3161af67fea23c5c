"""Merkle trees against the published vectors of Certificate Transparency, and what a verifier must refuse."""

import hashlib
from typing import Any

import pytest

from bitweir_metering import merkle
from bitweir_metering.errors import ProofError, UnitError
from bitweir_metering.merkle import Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion

# The eight entries, roots and proofs of the reference implementation of RFC 6962 (its Merkle tree tests).
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
FIRST_FOUR = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
THIRD_AND_FOURTH = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
FIFTH = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
SEVENTH_AND_EIGHTH = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
FIFTH_AND_SIXTH = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

LEAVES = [leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES]
TREE = Tree(LEAVES)


def hashes(*texts: str) -> tuple[bytes, ...]:
    return tuple(map(bytes.fromhex, texts))


def test_roots_are_the_published_ones() -> None:
    assert [TREE.root(size).hex() for size in range(9)] == ROOTS
    assert TREE.root() == TREE.root(8)
    assert merkle.EMPTY_ROOT == Tree().root() == hashlib.sha256(b"").digest()
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@pytest.mark.parametrize(
    ("index", "size", "proof"),
    [
        (0, 1, []),
        (5, 8, [FIFTH, SEVENTH_AND_EIGHTH, FIRST_FOUR]),
        (2, 3, [ROOTS[2]]),
        (1, 5, [ROOTS[1], THIRD_AND_FOURTH, FIFTH]),
    ],
)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, proof: list[str]) -> None:
    assert TREE.inclusion_proof(index, size) == hashes(*proof)
    verify_inclusion(LEAVES[index], index, size, bytes.fromhex(ROOTS[size]), hashes(*proof))


@pytest.mark.parametrize(
    ("old_size", "new_size", "proof"),
    [
        (1, 1, []),
        (6, 8, [FIFTH_AND_SIXTH, SEVENTH_AND_EIGHTH, FIRST_FOUR]),
        (2, 5, [THIRD_AND_FOURTH, FIFTH]),
        (0, 5, []),
        (0, 0, []),
    ],
)
def test_consistency_proofs_are_the_published_ones(old_size: int, new_size: int, proof: list[str]) -> None:
    old_root, new_root = hashes(ROOTS[old_size], ROOTS[new_size])
    assert TREE.consistency_proof(old_size, new_size) == hashes(*proof)
    verify_consistency(old_size, old_root, new_size, new_root, hashes(*proof))


def test_the_example_of_rfc_9162() -> None:
    # Section 2.1.5: seven entries, of which the older trees have 3, 4 and 6.
    leaves = [leaf_hash(f"d{number}".encode()) for number in range(7)]
    a, b, c, d, e, f, j = leaves
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, m = node_hash(g, h), node_hash(i, j)
    tree = Tree(leaves)
    assert tree.root() == node_hash(k, m)
    assert tree.inclusion_proof(0, 7) == (b, h, m)
    assert tree.inclusion_proof(3, 7) == (c, g, m)
    assert tree.inclusion_proof(4, 7) == (f, j, k)
    assert tree.inclusion_proof(6, 7) == (i, k)
    assert tree.consistency_proof(3, 7) == (c, d, g, m)
    assert tree.consistency_proof(4, 7) == (m,)
    assert tree.consistency_proof(6, 7) == (i, j, k)


def test_a_tree_grows_and_still_knows_its_older_selves() -> None:
    tree = Tree()
    for size, leaf in enumerate(LEAVES, start=1):
        tree.append(leaf)
        assert tree.size == size
        assert [tree.root(older).hex() for older in range(size + 1)] == ROOTS[: size + 1]


@pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33), bytearray(32), "0" * 32, None])
def test_what_is_no_hash_is_no_leaf(leaf: Any) -> None:
    tree = Tree(LEAVES[:3])
    with pytest.raises(ProofError, match="no hash"):
        tree.append(leaf)
    assert (tree.size, tree.root().hex()) == (3, ROOTS[3])


@pytest.mark.parametrize("number", [True, -1, 1.0, None, 1 << 62])
def test_what_is_no_amount_is_no_size(number: Any) -> None:
    root = TREE.root()
    for call in (
        lambda: TREE.root(number) if number is not None else TREE.inclusion_proof(0, number),
        lambda: TREE.inclusion_proof(number, 8),
        lambda: TREE.inclusion_proof(0, number),
        lambda: TREE.consistency_proof(number, 8),
        lambda: TREE.consistency_proof(0, number),
        lambda: verify_inclusion(LEAVES[0], number, 8, root, ()),
        lambda: verify_inclusion(LEAVES[0], 0, number, root, ()),
        lambda: verify_consistency(number, root, 8, root, ()),
        lambda: verify_consistency(0, root, number, root, ()),
    ):
        with pytest.raises(UnitError):
            call()


def test_proofs_beyond_the_tree_are_refused() -> None:
    for call in (
        lambda: TREE.root(9),
        lambda: TREE.inclusion_proof(0, 9),
        lambda: TREE.inclusion_proof(8, 8),
        lambda: TREE.inclusion_proof(0, 0),
        lambda: TREE.consistency_proof(8, 9),
        lambda: TREE.consistency_proof(8, 7),
        lambda: verify_inclusion(LEAVES[0], 0, 0, LEAVES[0], ()),
        lambda: verify_inclusion(LEAVES[0], 1, 1, LEAVES[0], ()),
        lambda: verify_consistency(8, TREE.root(), 7, TREE.root(7), ()),
        lambda: verify_consistency(8, TREE.root(), 7, TREE.root(), ()),
    ):
        with pytest.raises(ProofError):
            call()


def test_the_empty_tree_has_one_root_and_no_proof() -> None:
    other = LEAVES[0]
    for arguments in (
        (0, other, 8, TREE.root(), ()),
        (0, other, 0, other, ()),
        (0, merkle.EMPTY_ROOT, 0, other, ()),
        (0, other, 0, merkle.EMPTY_ROOT, ()),
        (0, merkle.EMPTY_ROOT, 8, TREE.root(), (other,)),
        (0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, (other,)),
    ):
        with pytest.raises(ProofError):
            verify_consistency(*arguments)


def test_the_same_tree_is_consistent_with_itself_without_a_proof() -> None:
    verify_consistency(8, TREE.root(), 8, TREE.root(), ())
    for root, proof in ((LEAVES[0], ()), (TREE.root(), (LEAVES[0],)), (TREE.root(), (TREE.root(),))):
        with pytest.raises(ProofError):
            verify_consistency(8, TREE.root(), 8, root, proof)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(64), bytearray(32), None])
def test_what_is_no_hash_is_refused_everywhere(bad: Any) -> None:
    path, proof = TREE.inclusion_proof(5, 8), TREE.consistency_proof(6, 8)
    for call in (
        lambda: verify_inclusion(bad, 5, 8, TREE.root(), path),
        lambda: verify_inclusion(LEAVES[5], 5, 8, bad, path),
        lambda: verify_inclusion(LEAVES[5], 5, 8, TREE.root(), (bad, *path[1:])),
        lambda: verify_consistency(6, bad, 8, TREE.root(), proof),
        lambda: verify_consistency(6, TREE.root(6), 8, bad, proof),
        lambda: verify_consistency(6, TREE.root(6), 8, TREE.root(), (bad, *proof[1:])),
        lambda: verify_consistency(0, merkle.EMPTY_ROOT, 8, bad, ()),
    ):
        with pytest.raises(ProofError, match="no hash"):
            call()


def test_a_node_is_no_leaf() -> None:
    # Without the prefixes, the inner nodes of a tree would be the leaves of a smaller one with the same root.
    halves = [TREE.root(4), TREE.inclusion_proof(0, 8)[-1]]
    assert Tree(halves).root() == TREE.root()  # leaf hashes are not hashed again ...
    assert leaf_hash(halves[0] + halves[1]) != TREE.root()  # ... but entries are, and otherwise than nodes.
    assert Tree([leaf_hash(half) for half in halves]).root() != TREE.root()


def test_the_longest_proof_of_the_largest_tree_fits() -> None:
    size = (1 << 62) - 1
    with pytest.raises(ProofError, match="does not lead"):
        verify_consistency((1 << 61) - 1, LEAVES[0], size, LEAVES[1], [LEAVES[2]] * merkle.PROOF_HASHES_MAX)
    with pytest.raises(ProofError, match="too early"):
        verify_consistency((1 << 61) - 1, LEAVES[0], size, LEAVES[1], [LEAVES[2]] * (merkle.PROOF_HASHES_MAX - 1))
    with pytest.raises(ProofError, match="a proof of 64 hashes"):
        verify_consistency(1, LEAVES[0], size, LEAVES[1], [LEAVES[2]] * (merkle.PROOF_HASHES_MAX + 1))
    with pytest.raises(ProofError, match="a proof of 64 hashes"):
        verify_inclusion(LEAVES[0], 1, size, LEAVES[1], [LEAVES[2]] * (merkle.PROOF_HASHES_MAX + 1))
