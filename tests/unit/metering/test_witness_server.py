"""A witness that runs: no client disturbs another, and nothing it signed is forgotten, whatever kills it."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import keys, witness_client, witness_server
from bitweir_metering.errors import CheckpointError, CosignError, SocketError, WitnessError
from bitweir_metering.witness import Checkpoint, Refusal, Witness
from bitweir_metering.witness_client import ANSWER, REQUEST, Request, Status, WitnessClient
from bitweir_metering.witness_server import WitnessServer, parse_request
from bitweir_metering.witness_store import WitnessStore
from tests.unit.metering.example_log import KEYS, Log

LOG = Log().reserve(800, 1600, 0, 2400, 800)
NAMES = (LOG.lineage, LOG.link)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.new(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def store(tmp_path: Path, key: Path) -> Iterator[WitnessStore]:
    with WitnessStore.create(tmp_path / "state", key, *NAMES) as store:
        yield store


class Thread(threading.Thread):
    """A server of the store in a thread; `error` is what ended it."""

    def __init__(self, server: WitnessServer) -> None:
        super().__init__(daemon=True)
        self.server, self.error, self.over = server, None, False

    def run(self) -> None:
        try:
            while not self.over:
                self.server.step(0.01)
        except WitnessError as error:
            self.error = error


@pytest.fixture
def served(tmp_path: Path, store: WitnessStore) -> Iterator[Thread]:
    with closing(WitnessServer(store, tmp_path / "socket")) as server:
        thread = Thread(server)
        thread.start()
        yield thread
        thread.over = True
        thread.join()


def client_of(tmp_path: Path, public: bytes) -> WitnessClient:
    return WitnessClient(tmp_path / "socket", public, *NAMES)


def raw_client(tmp_path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(10)
    connection.connect(str(tmp_path / "socket"))
    return connection


def test_a_client_gets_what_the_witness_signs(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    with client_of(tmp_path, store.key) as client, client_of(tmp_path, store.key) as other:
        assert client.latest() == LOG.at[0]
        for old, new in ((0, 1), (1, 4), (4, 4), (4, 6)):
            cosignature = client.cosign(LOG.at[new], LOG.proof(old, new))
            assert cosignature.key == store.key
            assert cosignature.is_of(LOG.at[new])
            assert other.latest() == LOG.at[new]
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600


def test_rollback_fork_and_the_rest_are_refused_with_their_reason(
    tmp_path: Path, served: Thread, store: WitnessStore
) -> None:
    fork = Log().reserve(800, 4000, 4000, 4000, 4000, 4000)
    with client_of(tmp_path, store.key) as client:
        client.cosign(LOG.at[4], LOG.proof(0, 4))
        for reason, checkpoint, proof in (
            (Refusal.SMALLER, LOG.at[3], ()),
            (Refusal.FORK, fork.at[4], ()),
            (Refusal.PROOF, fork.at[6], fork.proof(4, 6)),
            (Refusal.TOTALS, replace(LOG.at[5], totals=LOG.at[2].totals), LOG.proof(4, 5)),
            (Refusal.OTHER_LOG, replace(LOG.at[5], lineage="other"), LOG.proof(4, 5)),
        ):
            with pytest.raises(CosignError, match=f"{reason.name}; it has signed 4") as caught:
                client.cosign(checkpoint, proof)
            assert caught.value.reason == reason
        assert client.latest() == LOG.at[4]
        assert client.cosign(LOG.at[6], LOG.proof(4, 6)).is_of(LOG.at[6])


GOOD = REQUEST.pack(1, Request.COSIGN, 7, 1) + LOG.at[3].canonical() + b"".join(LOG.proof(2, 3))
LATEST = REQUEST.pack(1, Request.LATEST, 7, 0)
BAD_REQUESTS = {
    "empty": b"",
    "short": LATEST[:-1],
    "long": GOOD + bytes(witness_client.REQUEST_BYTES_MAX),
    "version": b"\2" + GOOD[1:],
    "kind 0": b"\1\0" + GOOD[2:],
    "kind 3": b"\1\3" + GOOD[2:],
    "latest with a body": LATEST + b"\0",
    "latest with a count": REQUEST.pack(1, Request.LATEST, 7, 1),
    "count above": REQUEST.pack(1, Request.COSIGN, 7, 64) + LOG.at[3].canonical() + bytes(64 * 32),
    "count over the end": REQUEST.pack(1, Request.COSIGN, 7, 63) + GOOD[REQUEST.size :],
    "a hash too many": REQUEST.pack(1, Request.COSIGN, 7, 0) + GOOD[REQUEST.size :],
    "a hash too few": REQUEST.pack(1, Request.COSIGN, 7, 2) + GOOD[REQUEST.size :],
    "no checkpoint": REQUEST.pack(1, Request.COSIGN, 7, 0),
    "cut checkpoint": GOOD[:-1],
    "noise": bytes(range(200)),
}


@pytest.mark.parametrize("content", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_what_is_no_request_cuts_off_its_sender_and_nobody_else(
    tmp_path: Path, served: Thread, store: WitnessStore, content: bytes
) -> None:
    with pytest.raises(CheckpointError):
        parse_request(content)
    with client_of(tmp_path, store.key) as client, closing(raw_client(tmp_path)) as bad:
        client.cosign(LOG.at[2], LOG.proof(0, 2))
        bad.send(content)
        if content:
            assert bad.recv(100) == ANSWER.pack(1, Status.DAMAGED, 0, 0)
        else:
            bad.shutdown(socket.SHUT_WR)
            assert bad.recv(100) in {b"", ANSWER.pack(1, Status.DAMAGED, 0, 0)}
        assert bad.recv(100) == b""
        assert client.cosign(LOG.at[3], LOG.proof(2, 3)).is_of(LOG.at[3])
    assert served.error is None


def test_the_longest_request_is_one() -> None:
    longest = replace(LOG.at[3], lineage="a" * 64, link="b" * 64)
    proof = tuple(bytes([number]) * 32 for number in range(63))
    content = REQUEST.pack(1, Request.COSIGN, 2**32 - 1, 63) + longest.canonical() + b"".join(proof)
    assert len(content) == witness_client.REQUEST_BYTES_MAX
    assert parse_request(content) == (2**32 - 1, (longest, proof))
    assert parse_request(GOOD) == (7, (LOG.at[3], LOG.proof(2, 3)))
    assert parse_request(LATEST) == (7, None)


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    with client_of(tmp_path, store.key) as client, closing(raw_client(tmp_path)) as deaf:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while True:
                deaf.send(LATEST)
        assert client.latest() == LOG.at[0]


def test_clients_that_come_and_go_leave_nothing(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    with client_of(tmp_path, store.key) as client:
        for _ in range(3 * witness_server.CLIENTS_MAX):
            with closing(raw_client(tmp_path)) as other:
                other.send(LATEST)
            assert client.latest() == LOG.at[0]


def test_so_many_clients_and_no_more(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    clients = [client_of(tmp_path, store.key) for _ in range(witness_server.CLIENTS_MAX)]
    assert [client.latest() for client in clients] == [LOG.at[0]] * len(clients)
    with client_of(tmp_path, store.key) as extra, pytest.raises(WitnessError):
        extra.latest()
    for client in clients:
        assert client.latest() == LOG.at[0]
        client.close()


def test_only_the_user_who_is_meant_to_ask_is_answered(tmp_path: Path, store: WitnessStore) -> None:
    with closing(WitnessServer(store, tmp_path / "socket", client_user=os.getuid() + 1)) as server:
        thread = Thread(server)
        thread.start()
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o666
        with client_of(tmp_path, store.key) as client, pytest.raises(WitnessError):
            client.latest()
        thread.over = True
        thread.join()


def test_a_witness_that_cannot_keep_says_so_and_ends(
    tmp_path: Path, served: Thread, store: WitnessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with closing(raw_client(tmp_path)) as client:
        client.send(REQUEST.pack(1, Request.COSIGN, 7, 0) + LOG.at[3].canonical())
        assert client.recv(1000) == ANSWER.pack(1, Status.CLOSED, 0, 7)
    served.join()
    assert "could not be kept" in str(served.error)


def test_a_socket_is_not_taken_from_a_server_that_runs(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    with pytest.raises(SocketError, match="a server answers there"):
        WitnessServer(store, tmp_path / "socket")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "none" / "socket", tmp_path / ("x" * 120)):
        with pytest.raises(SocketError, match="no socket at"):
            WitnessServer(store, path)


def test_nobody_answers_where_nobody_is(tmp_path: Path) -> None:
    with pytest.raises(WitnessError, match="no witness at"):
        client_of(tmp_path, KEYS[0])


class Fake(threading.Thread):
    """A witness that answers a request with whatever a function makes of it."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes]) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer = answer
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.send(self.answer(connection.recv(4096)))
        self.listener.close()


def signed(private: Any, checkpoint: Checkpoint) -> bytes:
    return Witness(private, checkpoint).signed_last().signature + checkpoint.canonical()


ANSWERS = {
    "empty": lambda own, other: b"",
    "short": lambda own, other: ANSWER.pack(1, 0, 0, 1)[:-1],
    "long": lambda own, other: ANSWER.pack(1, 0, 0, 1) + signed(own, LOG.at[4]) + bytes(300),
    "nothing signed": lambda own, other: ANSWER.pack(1, 0, 0, 1),
    "version": lambda own, other: ANSWER.pack(2, 0, 0, 1) + signed(own, LOG.at[4]),
    "status": lambda own, other: ANSWER.pack(1, 9, 0, 1) + signed(own, LOG.at[4]),
    "damaged": lambda own, other: ANSWER.pack(1, 3, 0, 1) + signed(own, LOG.at[4]),
    "closed": lambda own, other: ANSWER.pack(1, 4, 0, 1) + signed(own, LOG.at[4]),
    "number": lambda own, other: ANSWER.pack(1, 0, 0, 2) + signed(own, LOG.at[4]),
    "reason": lambda own, other: ANSWER.pack(1, 0, 1, 1) + signed(own, LOG.at[4]),
    "no reason": lambda own, other: ANSWER.pack(1, 2, 0, 1) + signed(own, LOG.at[4]),
    "unknown reason": lambda own, other: ANSWER.pack(1, 2, 6, 1) + signed(own, LOG.at[4]),
    "latest": lambda own, other: ANSWER.pack(1, 1, 0, 1) + signed(own, LOG.at[4]),
    "another checkpoint": lambda own, other: ANSWER.pack(1, 0, 0, 1) + signed(own, LOG.at[3]),
    "another key": lambda own, other: ANSWER.pack(1, 0, 0, 1) + signed(other, LOG.at[4]),
    "another log": lambda own, other: ANSWER.pack(1, 0, 0, 1) + signed(own, replace(LOG.at[4], link="x")),
    "signature": lambda own, other: ANSWER.pack(1, 0, 0, 1) + bytes(64) + LOG.at[4].canonical(),
    "refusal unsigned": lambda own, other: ANSWER.pack(1, 2, 2, 1) + signed(other, LOG.at[4]),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_is_none_is_no_signature(tmp_path: Path, key: Path, answer: Callable[[Any, Any], bytes]) -> None:
    keys.new(tmp_path / "other")
    own, other = keys.load(key), keys.load(tmp_path / "other")
    fake = Fake(tmp_path / "socket", lambda _: answer(own, other))
    client = client_of(tmp_path, keys.public_key(own))
    with pytest.raises(WitnessError) as caught:
        client.cosign(LOG.at[4], ())
    assert not isinstance(caught.value, CosignError)
    fake.join()
    with pytest.raises(WitnessError, match="does not answer"):  # it has closed itself
        client.latest()


@pytest.mark.parametrize(("status", "reason"), [(Status.COSIGNED, 0), (Status.LATEST, 1), (Status.REFUSED, 2)])
def test_an_answer_to_another_question_is_no_latest(tmp_path: Path, key: Path, status: Status, reason: int) -> None:
    own = keys.load(key)
    fake = Fake(tmp_path / "socket", lambda _: ANSWER.pack(1, status, reason, 1) + signed(own, LOG.at[4]))
    with client_of(tmp_path, keys.public_key(own)) as client, pytest.raises(WitnessError, match=status.name):
        client.latest()
    fake.join()


def test_a_witness_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        client = WitnessClient(tmp_path / "socket", KEYS[0], *NAMES, timeout_s=0.05)
        with pytest.raises(WitnessError, match="does not answer: timed out"):
            client.latest()


def test_what_is_no_proof_is_not_sent(tmp_path: Path, served: Thread, store: WitnessStore) -> None:
    with client_of(tmp_path, store.key) as client:
        for proof in ([bytes(31)], [bytes(33), bytes(31)], [bytes(32)] * 64):
            with pytest.raises(CheckpointError):
                client.cosign(LOG.at[4], proof)
        assert client.cosign(LOG.at[4], LOG.proof(0, 4)).is_of(LOG.at[4])


# The process

KILLED_AT = """
import os, signal, sys
from bitweir_metering import witness_server
name, number = sys.argv.pop(1), int(sys.argv.pop(1))
owner = witness_server.WitnessServer if name == "_send" else os
call, count = getattr(owner, name), 0
def killed(*arguments, **options):
    global count
    count += 1
    if count == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*arguments, **options)
def armed(self):
    setattr(owner, name, killed)
    return serve(self)
serve, witness_server.WitnessServer.serve = witness_server.WitnessServer.serve, armed
witness_server.main()
"""


class Process:
    """A witness as a process; it runs when its socket answers."""

    def __init__(self, tmp_path: Path, *options: str, kill: tuple[str, int] | None = None) -> None:
        words = ["-m", "bitweir_metering.witness_server"] if kill is None else ["-c", KILLED_AT, kill[0], str(kill[1])]
        places = [str(tmp_path / "state"), str(tmp_path / "socket"), "--key", str(tmp_path / "key")]
        self.process = subprocess.Popen([sys.executable, *words, *places, *options], stderr=subprocess.PIPE, text=True)
        self.tmp_path = tmp_path
        self.public = keys.public_key(keys.load(tmp_path / "key"))

    def client(self) -> WitnessClient:
        while self.process.poll() is None:
            try:
                return client_of(self.tmp_path, self.public)
            except WitnessError:
                select.select([], [], [], 0.02)
        raise AssertionError(self.process.communicate()[1])

    def ended(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error


@pytest.mark.parametrize(
    ("name", "number", "size"),
    [("write", 1, 2), ("fsync", 1, 2), ("rename", 1, 2), ("fsync", 2, 5), ("_send", 1, 5)],
    ids=["before it writes", "before it syncs", "before it renames", "before the directory", "before it answers"],
)
def test_killed_at_any_moment_it_never_signs_a_smaller_tree(
    tmp_path: Path, key: Path, name: str, number: int, size: int
) -> None:
    with WitnessStore.create(tmp_path / "state", key, *NAMES) as store:
        store.cosign(LOG.at[2], LOG.proof(0, 2))
    killed = Process(tmp_path, kill=(name, number))
    with killed.client() as client, pytest.raises(WitnessError):
        client.cosign(LOG.at[5], LOG.proof(2, 5))
    assert killed.ended()[0] == -signal.SIGKILL
    again = Process(tmp_path)
    with again.client() as client:
        assert client.latest() == LOG.at[size]
        for smaller in range(size):
            with pytest.raises(CosignError, match="SMALLER"):
                client.cosign(LOG.at[smaller], ())
        assert client.cosign(LOG.at[5], LOG.proof(size, 5)).is_of(LOG.at[5])
        with pytest.raises(CosignError, match="SMALLER"):
            client.cosign(LOG.at[4], ())
    again.process.terminate()
    assert again.ended() == (0, "")
    assert not (tmp_path / "socket").exists()


def test_a_new_witness_runs_once_for_a_key_and_no_second_beside_it(tmp_path: Path, key: Path) -> None:
    assert Process(tmp_path).ended()[0] == 1
    first = Process(tmp_path, "--new", *NAMES)
    with first.client() as client:
        assert client.cosign(LOG.at[4], LOG.proof(0, 4)).is_of(LOG.at[4])
        code, error = Process(tmp_path).ended()
        assert code == 1
        assert "is in use" in error
        assert "Traceback" not in error
        assert client.latest() == LOG.at[4]
    first.process.kill()
    first.ended()
    (tmp_path / "state" / "checkpoint").write_bytes(b"damaged")
    for options in ((), ("--new", *NAMES)):
        code, error = Process(tmp_path, *options).ended()
        assert code == 1
        assert "bitweir: " in error
        assert "Traceback" not in error
    (tmp_path / "state" / "checkpoint").unlink()
    code, error = Process(tmp_path, "--new", *NAMES).ended()
    assert code == 1
    assert "lost its memory must be retired" in error


def test_a_process_that_cannot_keep_ends_with_an_error(tmp_path: Path, key: Path) -> None:
    process = Process(tmp_path, "--new", *NAMES)
    with process.client() as client:
        assert client.latest() == LOG.at[0]
        (tmp_path / "state").rename(tmp_path / "moved")
        with pytest.raises(WitnessError, match="CLOSED") as caught:
            client.cosign(LOG.at[4], LOG.proof(0, 4))
        assert not isinstance(caught.value, CosignError)
    code, error = process.ended()
    assert code == 1
    assert "could not be kept" in error
