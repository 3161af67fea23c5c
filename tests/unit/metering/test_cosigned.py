"""A reservation counts once enough witnesses remember it, and only then; nothing is reserved twice for it."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import cosigned, keys
from bitweir_metering.cosigned import Connection, CosignedLedger
from bitweir_metering.entries import EntryKind, Lease, Reservation
from bitweir_metering.errors import BudgetError, CosignError, WitnessError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import Policy, Quorum
from bitweir_metering.witness import Refusal
from bitweir_metering.witness_server import WitnessServer
from bitweir_metering.witness_store import WitnessStore
from tests.unit.metering.example_gate import Book, Peer, gate_policy, peers_of
from tests.unit.metering.example_log import KEYS, Log
from tests.unit.metering.example_policy import policy

MODEL = TrafficClass.MODEL
TWO_OF_THREE = gate_policy(2, 3)


def bits(count: int) -> Reservation:
    return Reservation(MODEL, count, count // 2)


def joined(document: Policy, witness_count: int) -> tuple[Book, list[Peer], CosignedLedger]:
    book, peers = Book(document), peers_of(document, witness_count)
    return book, peers, CosignedLedger(book, peers)


def reserved(leases: list[Lease]) -> list[int]:
    return [lease.reservation.wire_bits for lease in leases]


# Leases.


def test_a_lease_comes_when_it_is_signed_for() -> None:
    book, (peer,), both = joined(gate_policy(), 1)
    assert (both.cosigned_count, both.is_behind) == (0, True)
    assert both.reserve([bits(1000), bits(2000)]) == [None, None]
    assert book.head.totals.wire_bits == 3000
    assert both.is_behind
    assert both.cosign() == [Lease(1, bits(1000)), Lease(2, bits(2000))]
    assert (both.cosigned_count, both.is_behind, peer.size) == (3, False, 3)
    assert peer.witness.last.totals == book.head.totals
    # A lease is given once, and a witness is not asked for nothing.
    assert both.cosign() == []
    assert peer.proofs == [0]


def test_what_does_not_fit_is_refused_at_once_and_in_order() -> None:
    limits = dict.fromkeys(TrafficClass, 10_000)
    _, _, both = joined(gate_policy(limit_bits=10_000, lease_bits=10_000, class_limits=limits), 1)
    refusals = both.reserve([bits(9000), bits(2000), bits(1000), bits(1)])
    assert [refusal is None for refusal in refusals] == [True, False, True, False]
    assert all(isinstance(refusals[number], BudgetError) for number in (1, 3))
    assert reserved(both.cosign()) == [9000, 1000]


def test_without_an_answer_nothing_counts_and_nothing_is_reserved_again() -> None:
    book, (peer,), both = joined(gate_policy(), 1)
    both.cosign()
    both.reserve([bits(1000)])
    peer.is_silent = True
    for _ in range(3):
        with pytest.raises(
            WitnessError, match=r"0 valid cosignatures of the 1 .*; a witness does not answer"
        ) as caught:
            both.cosign()
        assert not isinstance(caught.value, CosignError)
        assert caught.value.remedy
        assert both.is_behind
    both.reserve([bits(2000)])
    peer.is_silent = False
    assert reserved(both.cosign()) == [1000, 2000]
    assert book.head.totals.wire_bits == 3000
    assert both.cosign() == []


def test_an_answer_that_got_lost_is_made_up_for() -> None:
    """The witness signed and remembers; the gate did not hear of it."""
    book, (peer,), both = joined(gate_policy(), 1)
    both.reserve([bits(1000)])
    peer.loses_answers = True
    with pytest.raises(WitnessError):
        both.cosign()
    assert (peer.size, both.cosigned_count) == (2, 0)
    peer.loses_answers = False
    book.event(b"meanwhile")
    assert reserved(both.cosign()) == [1000]
    assert (peer.size, both.cosigned_count) == (3, 3)


@pytest.mark.parametrize("silent", range(3))
def test_two_of_three_need_two(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosigned, "SILENT_ASKED_EVERY", 1)
    _, peers, both = joined(TWO_OF_THREE, 3)
    peers[silent].is_silent = True
    both.reserve([bits(1000)])
    assert reserved(both.cosign()) == [1000]
    assert [peer.size for peer in peers] == [0 if number == silent else 2 for number in range(3)]
    peers[silent - 1].is_silent = True
    both.reserve([bits(2000)])
    with pytest.raises(WitnessError, match="1 valid cosignatures of the 2"):
        both.cosign()
    # The one that fell behind is brought up, from wherever it was.
    peers[silent].is_silent = False
    assert reserved(both.cosign()) == [2000]
    peers[silent - 1].is_silent = False
    both.reserve([bits(3000)])
    assert reserved(both.cosign()) == [3000]
    assert [peer.size for peer in peers] == [4, 4, 4]


def test_witnesses_that_the_policy_does_not_name_do_not_count() -> None:
    document = gate_policy(1, 1)
    both = CosignedLedger(Book(document), peers_of(document, 3)[1:])
    with pytest.raises(WitnessError, match="0 valid cosignatures of the 1"):
        both.cosign()
    assert both.cosigned_count == 0


def test_one_witness_twice_is_one() -> None:
    document = gate_policy(2, 3)
    (peer,) = peers_of(document, 1)
    both = CosignedLedger(Book(document), [peer, peer, peer])
    with pytest.raises(WitnessError, match="1 valid cosignatures of the 2"):
        both.cosign()


def test_no_witnesses_no_leases() -> None:
    both = CosignedLedger(Book(gate_policy()), [])
    both.reserve([bits(1000)])
    with pytest.raises(WitnessError, match="0 valid cosignatures"):
        both.cosign()


def test_a_witness_that_joins_late_is_brought_up() -> None:
    book, peers, both = joined(TWO_OF_THREE, 2)
    for number in range(20):
        both.reserve([bits(1000 + number)])
        both.cosign()
    late = Peer(peers_of(TWO_OF_THREE, 3)[2].witness._private, TWO_OF_THREE)
    again = CosignedLedger(book, [*peers, late])
    again.reserve([bits(1000)])
    assert reserved(again.cosign()) == [1000]
    assert late.witness.last == peers[0].witness.last


# Refusals.


def test_a_ledger_older_than_its_witness_is_found_out() -> None:
    book, peers, both = joined(gate_policy(), 1)
    old = book.copied()
    both.reserve([bits(1000), bits(1000)])
    both.cosign()
    with pytest.raises(CosignError, match="signed 3 entries, the ledger holds 1") as caught:
        CosignedLedger(old, peers).cosign()
    assert caught.value.reason == Refusal.SMALLER
    assert caught.value.remedy
    assert peers[0].size == 3


def test_a_ledger_that_went_another_way_is_found_out() -> None:
    book, peers, both = joined(gate_policy(), 1)
    other = book.copied()
    both.reserve([bits(1000)])
    both.cosign()
    # As many entries as the witness has signed, then more of them.
    for count, reason in ((1, Refusal.FORK), (2, Refusal.PROOF)):
        fork = other.copied()
        fork.reserve([bits(500)] * count)
        spent = CosignedLedger(fork, peers)
        with pytest.raises(CosignError) as caught:
            spent.cosign()
        assert caught.value.reason == reason
        assert spent.cosigned_count == 0
    assert reserved(both.cosign()) == []


def test_one_refusal_is_enough_though_a_quorum_would_sign() -> None:
    book, peers, both = joined(TWO_OF_THREE, 3)
    fork = book.copied()
    fork.event(b"elsewhere")
    with pytest.raises(WitnessError, match="1 valid cosignatures of the 2"):
        CosignedLedger(fork, peers[2:]).cosign()
    both.reserve([bits(1000), bits(1000)])
    with pytest.raises(CosignError) as caught:
        both.cosign()
    assert caught.value.reason == Refusal.PROOF
    # What was waiting still waits: nobody got it.
    assert both.cosigned_count == 0


def test_a_witness_of_another_log_refuses() -> None:
    document = gate_policy()
    other = Peer(peers_of(document, 1)[0].witness._private, gate_policy(link="elsewhere"))
    with pytest.raises(CosignError, match="OTHER_LOG"):
        CosignedLedger(Book(document), [other]).cosign()


# Many entries.


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_entries_are_read_in_pieces(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosigned, "HASHES_AT_ONCE", at_once)
    book, (peer,), both = joined(gate_policy(), 1)
    asked: list[tuple[int, int]] = []
    whole = book.hashes

    def hashes(start: int, count: int) -> list[bytes]:
        asked.append((start, count))
        return whole(start, count)

    monkeypatch.setattr(book, "hashes", hashes)
    for _ in range(20):
        book.event(b"seen")
    both.cosign()
    assert asked == [(start, at_once) for start in range(0, 21, at_once)]
    assert peer.size == 21
    book.event(b"seen")
    both.cosign()
    assert asked[-1] == (21, at_once)
    assert peer.size == 22


@given(
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("reserve"), st.integers(1, 5000)),
            st.tuples(st.just("cosign"), st.just(0)),
            st.tuples(st.sampled_from(["silent", "loses", "restart"]), st.integers(0, 2)),
        ),
        max_size=40,
    )
)
def test_what_is_given_out_a_quorum_remembers(calls: list[tuple[str, int]]) -> None:
    """Whatever fails meanwhile: leases are distinct entries, and two of three witnesses hold each."""
    book, peers, both = joined(TWO_OF_THREE, 3)
    given_out: list[Lease] = []
    for name, number in calls:
        if name == "reserve":
            assert both.reserve([bits(number)]) == [None]
        elif name == "silent":
            peers[number].is_silent = not peers[number].is_silent
        elif name == "loses":
            peers[number].loses_answers = not peers[number].loses_answers
        elif name == "restart":
            both = CosignedLedger(book, peers)
        else:
            can = sum(not peer.is_silent and not peer.loses_answers for peer in peers) >= 2 or not both.is_behind
            try:
                given_out += both.cosign()
            except WitnessError as error:
                assert not isinstance(error, CosignError)
                assert not can
                continue
            assert can
            assert sum(peer.size >= book.head.entry_count for peer in peers) >= 2
    assert len({lease.sequence for lease in given_out}) == len(given_out)
    for lease in given_out:
        assert book.rows[lease.sequence][1] == EntryKind.RESERVE
        assert sum(peer.size > lease.sequence for peer in peers) >= 2
    assert sum(reserved(given_out)) <= book.head.totals.wire_bits


# Connections.


class Served:
    """A real witness at a socket, in a thread, that may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket, self.key_file = folder / "socket", folder / "key"
        self.key = keys.new(self.key_file)
        self.log = Log().reserve(800, 1600, 0, 2400)
        self.store = WitnessStore.create(folder / "state", self.key_file, self.log.lineage, self.log.link)

    @contextmanager
    def running(self) -> Iterator[None]:
        server, over = WitnessServer(self.store, self.socket), threading.Event()

        def serve() -> None:
            while not over.is_set():
                server.step(0.01)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)
            server.close()

    def connection(self, *others: bytes, timeout_s: float = 10) -> Connection:
        """A connection that knows this witness's key, after others."""
        quorum = Quorum(1 + (1 + len(others)) // 2, (*others, self.key))
        return Connection(self.socket, policy(witnesses=quorum), timeout_s=timeout_s)

    def cosigned(self, connection: Connection, old: int, new: int) -> None:
        cosignature = connection.cosign(self.log.at[new], self.log.proof(old, new))
        assert cosignature.is_of(self.log.at[new])
        assert cosignature.key == self.key


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    with served.store:
        yield served


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """With which keys somebody connected to a witness, in order."""
    found: list[bytes] = []

    class Client(cosigned.WitnessClient):
        def __init__(self, path: Path, key: bytes, *words: str, timeout_s: float) -> None:
            found.append(key)
            super().__init__(path, key, *words, timeout_s=timeout_s)

    monkeypatch.setattr(cosigned, "WitnessClient", Client)
    return found


def test_a_connection_is_made_once_and_asks_once_for_the_latest(served: Served, connects: list[bytes]) -> None:
    with served.running():
        connection = served.connection()
        assert connects == []
        assert connection.latest() == served.log.at[0]
        served.cosigned(connection, 0, 2)
        assert connection.latest() == served.log.at[2]
        served.cosigned(connection, 2, 4)
        assert connects == [served.key]
        connection.close()
        connection.close()
        assert connection.latest() == served.log.at[4]
        assert connects == [served.key] * 2
        connection.close()


def test_a_witness_that_was_started_again_is_found_again(served: Served) -> None:
    connection = served.connection()
    with pytest.raises(WitnessError, match="no witness at"):
        connection.latest()
    with served.running():
        served.cosigned(connection, 0, 2)
    with pytest.raises(WitnessError, match=r"does not answer|end"):
        connection.cosign(served.log.at[3], served.log.proof(2, 3))
    with pytest.raises(WitnessError, match="no witness at"):
        connection.cosign(served.log.at[3], served.log.proof(2, 3))
    with served.running():
        assert connection.latest() == served.log.at[2]
        served.cosigned(connection, 2, 3)
        connection.close()


def test_a_refusal_closes_and_the_next_question_connects(served: Served, connects: list[bytes]) -> None:
    fork = Log().reserve(1, 2, 3, 4)
    with served.running():
        connection = served.connection()
        served.cosigned(connection, 0, 3)
        with pytest.raises(CosignError, match="FORK; it has signed 3"):
            connection.cosign(fork.at[3], ())
        assert connection._client is None
        served.cosigned(connection, 3, 4)
        assert len(connects) == 2
        connection.close()


def test_the_key_is_one_that_the_policy_names(served: Served, connects: list[bytes]) -> None:
    with served.running():
        connection = served.connection(*KEYS)
        served.cosigned(connection, 0, 2)
        assert connects == sorted([*KEYS, served.key])[: len(connects)]
        assert connects[-1] == served.key
        connection.close()
        stranger = Connection(served.socket, policy(witnesses=Quorum(3, tuple(KEYS))), timeout_s=10)
        with pytest.raises(WitnessError, match="not signed by the witness's key"):
            stranger.latest()
        with pytest.raises(WitnessError, match="not signed by the witness's key"):
            stranger.cosign(served.log.at[3], served.log.proof(2, 3))
    assert served.store.last == served.log.at[2]


def test_a_witness_that_hangs_is_waited_for_once_whatever_keys_there_are(served: Served, connects: list[bytes]) -> None:
    """The gate stands still meanwhile."""
    server = WitnessServer(served.store, served.socket)
    connection = served.connection(*KEYS, timeout_s=0.05)
    with pytest.raises(WitnessError, match="does not answer: timed out"):
        connection.latest()
    assert len(connects) == 1
    server.close()
    with pytest.raises(WitnessError, match="no witness at"):
        connection.latest()
    assert len(connects) == 2


def test_a_connection_that_says_it_is_none_is_an_error(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = served.connection()
    monkeypatch.setattr(connection, "latest", lambda: served.log.at[0])
    with pytest.raises(WitnessError, match="is not connected"):
        connection.cosign(served.log.at[2], ())


def test_leases_through_a_real_witness(served: Served) -> None:
    document = gate_policy(witnesses=Quorum(1, (served.key,)))
    connection = Connection(served.socket, document, timeout_s=10)
    both = CosignedLedger(Book(document), [connection])
    both.reserve([bits(1000)])
    with pytest.raises(WitnessError, match="no witness at"):
        both.cosign()
    with served.running(), closing(connection):
        assert reserved(both.cosign()) == [1000]
    assert served.store.last.size == 2


def test_a_witness_that_hangs_is_waited_for_seldom_while_the_others_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosigned, "SILENT_ASKED_EVERY", 5)
    _, peers, both = joined(TWO_OF_THREE, 3)
    asked: list[int] = []
    latest = peers[1].latest
    monkeypatch.setattr(peers[1], "latest", lambda: (asked.append(1), latest())[1])
    peers[1].is_silent = True
    for _ in range(12):
        both.reserve([bits(1000)])
        assert reserved(both.cosign()) == [1000]
    assert len(asked) == 3
    peers[1].is_silent = False
    for _ in range(5):
        both.reserve([bits(1000)])
        both.cosign()
    assert peers[1].size == peers[0].size
    # Where the others are not enough, nobody is left out.
    peers[1].is_silent = peers[0].is_silent = True
    both.reserve([bits(1000)])
    for _ in range(2):
        with pytest.raises(WitnessError):
            both.cosign()
    peers[1].is_silent = False
    assert reserved(both.cosign()) == [1000]
