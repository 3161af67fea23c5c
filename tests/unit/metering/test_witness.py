"""The witness's decisions and the encoding of checkpoints: nothing that forgets, forks or shrinks is signed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import keys, merkle, witness
from bitweir_metering.budget import Totals
from bitweir_metering.entries import Chain, EntryKind, policy_note
from bitweir_metering.errors import CheckpointError, CosignError, MeteringError, UnitError, WitnessError
from bitweir_metering.policy import Quorum
from bitweir_metering.witness import Checkpoint, Cosignature, Refusal, Witness, verify_cosignatures
from tests.unit.metering.example_log import KEYS, WITNESSES, Log
from tests.unit.metering.example_policy import policy, signed

LOG = Log().reserve(800, 1600, 0, 2400, 800)
NAMES = st.from_regex(r"[a-z0-9.-]{1,64}", fullmatch=True)
HASHES = st.binary(min_size=32, max_size=32)
CLASS_BITS = st.tuples(*[st.integers(0, 1 << 59)] * 5)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    wire = draw(CLASS_BITS)
    information = tuple(draw(st.integers(0, bits)) for bits in wire)
    size = draw(st.integers(1, (1 << 62) - 1))
    return Checkpoint(draw(NAMES), draw(NAMES), size, draw(HASHES), Totals(wire, information))


def refused(reason: Refusal, state: Witness, checkpoint: Checkpoint, proof: tuple[bytes, ...]) -> None:
    before = state.last
    with pytest.raises(CosignError, match=reason.name) as caught:
        state.cosign(checkpoint, proof)
    assert caught.value.reason == reason
    assert caught.value.remedy
    assert state.last == before


def at(size: int) -> Witness:
    return Witness(WITNESSES[0], LOG.at[size])


def other_policy_log() -> Log:
    """A log of the same lineage and link whose first entry is another policy."""
    log, document = Log(), policy(min_days=30)
    log.chain, log.tree, log.at = Chain(), merkle.Tree(), log.at[:1]
    log.chain.extend(EntryKind.POLICY, policy_note(document, signed(document, 0, 1)))
    log._grown()
    return log


def test_a_witness_signs_a_log_from_its_start_to_its_end() -> None:
    state = at(0)
    for size in range(1, 7):
        cosignature = state.cosign(LOG.at[size], LOG.proof(size - 1, size))
        assert cosignature.key == state.key == KEYS[0]
        assert cosignature.is_of(LOG.at[size])
        assert keys.verify(KEYS[0], cosignature.signature, b"bitweir checkpoint v1\n" + LOG.at[size].canonical())
        assert state.last == LOG.at[size]


@pytest.mark.parametrize("old", range(7))
def test_it_signs_whatever_follows_and_the_last_one_again(old: int) -> None:
    for new in range(old, 7):
        state = at(old)
        first = state.cosign(LOG.at[new], LOG.proof(old, new))
        assert state.cosign(LOG.at[new], ()) == first == state.signed_last()


@pytest.mark.parametrize("old", range(1, 7))
def test_a_log_that_was_rolled_back_is_refused(old: int) -> None:
    for new in range(old):
        refused(Refusal.SMALLER, at(old), LOG.at[new], ())
        refused(Refusal.SMALLER, at(old), LOG.at[new], LOG.proof(new, old))


@pytest.mark.parametrize("common", range(1, 6))
def test_a_fork_is_refused_however_it_goes_on(common: int) -> None:
    # The same entries up to `common`, then others: a ledger copied back and used again.
    charges = [800, 1600, 0, 2400, 800][: common - 1]
    fork = Log().reserve(*charges, 4000, 4000, 4000, 4000, 4000, 4000)
    assert fork.at[common] == LOG.at[common]
    for seen in range(common + 1, 7):
        refused(Refusal.FORK, at(seen), fork.at[seen], ())
        for size in range(seen + 1, len(fork.at)):
            refused(Refusal.PROOF, at(seen), fork.at[size], fork.proof(seen, size))
            refused(Refusal.PROOF, at(seen), fork.at[size], ())
    assert at(common).cosign(fork.at[6], fork.proof(common, 6)).is_of(fork.at[6])


def test_a_log_that_starts_otherwise_is_refused() -> None:
    other = other_policy_log().reserve(800)
    refused(Refusal.FORK, at(1), other.at[1], ())
    refused(Refusal.PROOF, at(1), other.at[2], other.proof(1, 2))


@pytest.mark.parametrize("change", [{"lineage": "other"}, {"link": "other"}, {"lineage": "other", "link": "other"}])
def test_another_log_is_refused(change: dict[str, str]) -> None:
    refused(Refusal.OTHER_LOG, at(3), replace(LOG.at[4], **change), LOG.proof(3, 4))
    refused(Refusal.OTHER_LOG, at(3), replace(LOG.at[3], **change), ())
    refused(Refusal.OTHER_LOG, at(0), replace(LOG.at[4], **change), ())


@pytest.mark.parametrize("name", ["wire", "information"])
@pytest.mark.parametrize("kind", range(5))
def test_a_total_that_shrinks_is_refused_even_if_others_grow(name: str, kind: int) -> None:
    last = replace(LOG.at[3], totals=Totals((900,) * 5, (100,) * 5))
    bits = {"wire": [2000] * 5, "information": [500] * 5}
    bits[name][kind] = 899 if name == "wire" else 99
    shrunk = replace(LOG.at[4], totals=Totals(tuple(bits["wire"]), tuple(bits["information"])))
    refused(Refusal.TOTALS, Witness(WITNESSES[0], last), shrunk, LOG.proof(3, 4))
    bits[name][kind] += 1
    level = replace(LOG.at[4], totals=Totals(tuple(bits["wire"]), tuple(bits["information"])))
    assert Witness(WITNESSES[0], last).cosign(level, LOG.proof(3, 4)).is_of(level)


def test_other_totals_of_the_same_entries_are_refused() -> None:
    more = replace(LOG.at[4], totals=LOG.at[6].totals)
    refused(Refusal.TOTALS, at(4), more, ())


@pytest.mark.parametrize("spoil", [lambda p: p[:-1], lambda p: (*p, p[0]), lambda p: p[::-1], lambda _: ()])
def test_a_spoilt_proof_is_refused(spoil: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
    proof = LOG.proof(3, 6)
    assert len(proof) > 2
    refused(Refusal.PROOF, at(3), LOG.at[6], spoil(proof))
    refused(Refusal.PROOF, at(3), LOG.at[6], (b"short", *proof[1:]))
    refused(Refusal.PROOF, at(6), LOG.at[6], proof)
    refused(Refusal.PROOF, at(3), replace(LOG.at[6], root=LOG.at[5].root), proof)


@given(checkpoints())
def test_a_checkpoint_is_read_back_as_it_was(checkpoint: Checkpoint) -> None:
    assert witness.parse(checkpoint.canonical()) == checkpoint
    assert len(checkpoint.canonical()) <= witness.CHECKPOINT_BYTES_MAX


@given(st.data(), checkpoints())
def test_bytes_are_the_one_encoding_or_no_checkpoint(data: st.DataObject, checkpoint: Checkpoint) -> None:
    content = bytearray(checkpoint.canonical())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content)[: data.draw(st.integers(0, 400))] + data.draw(st.binary(max_size=3))
    try:
        parsed = witness.parse(content)
    except CheckpointError:
        return
    assert parsed.canonical() == content


@given(st.binary(max_size=300))
def test_noise_is_no_checkpoint(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        witness.parse(content)


def test_every_other_byte_gives_another_checkpoint_or_none() -> None:
    content = LOG.at[3].canonical()
    for position in range(len(content)):
        changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        try:
            assert witness.parse(changed) != LOG.at[3]
        except CheckpointError as error:
            assert error.remedy
    for size in range(len(content)):
        with pytest.raises(CheckpointError):
            witness.parse(content[:size])
    with pytest.raises(CheckpointError):
        witness.parse(content + b"\0")


def test_a_name_fits_as_long_as_a_policy_allows() -> None:
    longest = replace(LOG.at[2], lineage="a" * 64, link="-" * 64)
    assert policy(lineage="a" * 64, link="-" * 64).lineage == longest.lineage
    assert len(longest.canonical()) == witness.CHECKPOINT_BYTES_MAX == 250
    assert witness.parse(longest.canonical()) == longest


@pytest.mark.parametrize("name", ["", "a" * 65, "A", "a b", "a\n", "ä", b"a", None, 1])
def test_what_is_no_name_is_refused(name: Any) -> None:
    for field in ("lineage", "link"):
        with pytest.raises(CheckpointError, match="is no name"):
            replace(LOG.at[2], **{field: name})
        with pytest.raises(MeteringError):
            policy(**{field: name})


def test_what_is_no_checkpoint_is_refused() -> None:
    for size in (True, -1, 1.0, None, 1 << 62):
        with pytest.raises(UnitError):
            replace(LOG.at[2], size=size)
    for root in (b"", bytes(31), bytes(33), bytearray(32), "0" * 32):
        with pytest.raises(CheckpointError, match="no root"):
            replace(LOG.at[2], root=root)
    with pytest.raises(CheckpointError, match="no totals"):
        replace(LOG.at[2], totals=(0,) * 10)
    for change in ({"root": bytes(32)}, {"totals": LOG.at[2].totals}):
        with pytest.raises(CheckpointError, match="no entries"):
            replace(LOG.at[0], **change)
    assert Checkpoint.empty(LOG.lineage, LOG.link) == LOG.at[0] == witness.parse(LOG.at[0].canonical())


@pytest.mark.parametrize(
    ("key", "signature"), [(b"", bytes(64)), (bytes(32), bytes(63)), (bytes(64), bytes(32)), (bytearray(32), bytes(64))]
)
def test_what_is_no_cosignature_is_refused(key: Any, signature: bytes) -> None:
    with pytest.raises(CheckpointError, match="another length"):
        Cosignature(key, signature)


def cosigned(checkpoint: Checkpoint, *numbers: int) -> list[Cosignature]:
    return [Witness(WITNESSES[number], checkpoint).signed_last() for number in numbers]


def test_a_quorum_is_counted_by_distinct_known_keys() -> None:
    checkpoint, quorum = LOG.at[5], Quorum(2, tuple(KEYS[:3]))
    for numbers in ((0, 1), (2, 0), (0, 1, 2), (0, 3, 4, 1)):
        verify_cosignatures(checkpoint, cosigned(checkpoint, *numbers), quorum)
    for numbers in ((), (0,), (0, 0), (0, 3), (3, 4)):
        with pytest.raises(WitnessError, match=f"{len({0} & set(numbers))} valid cosignatures of the 2"):
            verify_cosignatures(checkpoint, cosigned(checkpoint, *numbers), quorum)


def test_signatures_of_anything_else_do_not_count() -> None:
    quorum = Quorum(1, tuple(KEYS[:3]))
    sound = cosigned(LOG.at[5], 0)[0]
    for bad in (
        cosigned(LOG.at[4], 0)[0],
        Cosignature(KEYS[1], sound.signature),
        Cosignature(KEYS[0], bytes(64)),
        Cosignature(KEYS[0], WITNESSES[0].sign(LOG.at[5].canonical())),
    ):
        with pytest.raises(WitnessError, match="0 valid"):
            verify_cosignatures(LOG.at[5], [bad], quorum)
        verify_cosignatures(LOG.at[5], [bad, sound], quorum)


def test_more_signatures_than_witnesses_are_refused() -> None:
    quorum, one = Quorum(1, tuple(KEYS[:3])), cosigned(LOG.at[5], 0)
    verify_cosignatures(LOG.at[5], one * witness.COSIGNATURES_MAX, quorum)
    with pytest.raises(WitnessError, match="33 cosignatures"):
        verify_cosignatures(LOG.at[5], one * (witness.COSIGNATURES_MAX + 1), quorum)
