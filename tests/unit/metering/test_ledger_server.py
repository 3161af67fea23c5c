"""The ledger's server: messages, group commit, clients that misbehave, and processes that would spend twice."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import ledger_client, ledger_file, ledger_server
from bitweir_metering.errors import BudgetError, LedgerError, MeteringError, RefusedError, SocketError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import Ledger, Reservation, verify
from bitweir_metering.ledger_client import ANSWER, REQUEST, LedgerClient, Status
from bitweir_metering.ledger_server import LedgerServer, parse_request
from tests.unit.metering.example_ledger import LIMIT_BITS, created, model, opened, place
from tests.unit.metering.test_ledger_faults import Failing

GOOD = REQUEST.pack(1, TrafficClass.MODEL, 7, 10_000, 5_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.ledger"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = created(path)
    yield ledger
    ledger.close()


@pytest.fixture
def server(ledger: Ledger, path: Path) -> Iterator[LedgerServer]:
    with closing(LedgerServer(ledger, path.with_name("socket"))) as server:
        yield server


def connected(server: LedgerServer) -> socket.socket:
    """A raw client, accepted by the server."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(5)
    client.connect(str(server._server._path))
    server.step(0)
    return client


def answer(client: socket.socket) -> tuple[int, int, int]:
    """Status, number and sequence of the next answer."""
    version, status, number, sequence = ANSWER.unpack(client.recv(100))
    assert version == 1
    return status, number, sequence


# Messages.


def test_the_messages_are_these_bytes() -> None:
    assert GOOD.hex() == "01000000000700000000000027100000000000001388"
    assert ANSWER.pack(1, Status.GRANTED, 7, 3).hex() == "0100000000070000000000000003"
    assert parse_request(GOOD) == (7, model())


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", RefusedError),
        (GOOD[:-1], RefusedError),
        (GOOD + b"\0", RefusedError),
        (REQUEST.pack(0, 0, 7, 8, 8), RefusedError),
        (REQUEST.pack(2, 0, 7, 8, 8), RefusedError),
        (REQUEST.pack(1, 5, 7, 8, 8), RefusedError),
        (REQUEST.pack(1, 255, 7, 8, 8), RefusedError),
        (REQUEST.pack(1, 0, 7, 0, 0), UnitError),
        (REQUEST.pack(1, 0, 7, 1 << 62, 8), UnitError),
        (REQUEST.pack(1, 0, 7, (1 << 64) - 1, 8), UnitError),
        (REQUEST.pack(1, 0, 7, 8, 1 << 63), UnitError),
        (REQUEST.pack(1, 0, 7, 8, 9), BudgetError),
    ],
    ids=repr,
)
def test_who_sends_no_request_is_cut_off_and_the_others_do_not_notice(
    server: LedgerServer, ledger: Ledger, content: bytes, error: type[MeteringError]
) -> None:
    with pytest.raises(error):
        parse_request(content)
    with connected(server) as good, connected(server) as bad:
        # Nothing of one that is cut off is reserved, not even what was in order.
        bad.send(GOOD)
        bad.send(content)
        good.send(GOOD)
        assert server.step(0) == 1
        assert answer(good) == (Status.GRANTED, 7, 1)
        assert answer(bad) == (Status.REFUSED, 0, 0)
        assert bad.recv(100) == b""
        good.send(GOOD)
        assert server.step(0) == 1
        assert answer(good) == (Status.GRANTED, 7, 2)
    assert ledger.totals.wire_bits == 20_000


def test_what_waits_shares_one_commit_and_each_gets_its_own_answer(server: LedgerServer, ledger: Ledger) -> None:
    commits: list[int] = []
    reserve = ledger.reserve
    ledger.reserve = lambda requests: (commits.append(len(requests)), reserve(requests))[1]  # type: ignore[method-assign, assignment]
    clients = [connected(server) for _ in range(5)]
    for number, client in enumerate(clients):
        for index in range(2):
            client.send(REQUEST.pack(1, TrafficClass.CONTROL, 10 * number + index, 3_000, 0))
    assert server.step(0) == 10
    assert commits == [10]
    answers = [answer(client) for client in clients for _ in range(2)]
    assert [number for _, number, _ in answers] == [10 * number + index for number in range(5) for index in range(2)]
    granted = [sequence for status, _, sequence in answers if status == Status.GRANTED]
    assert sorted(granted) == [1, 2, 3, 4, 5, 6]
    assert [status for status, _, _ in answers].count(Status.OVER_BUDGET) == 4
    assert ledger.totals.wire[TrafficClass.CONTROL] == 18_000
    for client in clients:
        client.close()
    assert server.step(0) == 0
    assert not server._server._clients


def test_one_client_cannot_fill_a_commit(server: LedgerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger_server.CLIENTS_MAX * ledger_server.MESSAGES_MAX <= 4096
    monkeypatch.setattr(ledger_server, "MESSAGES_MAX", 3)
    with connected(server) as client:
        for _ in range(5):
            client.send(GOOD)
        assert [server.step(0), server.step(0), server.step(0)] == [3, 2, 0]


def test_so_many_clients_and_no_more(server: LedgerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._server, "_clients_max", 2)
    with connected(server) as first, connected(server), connected(server) as third:
        with pytest.raises(OSError, match=r"."):
            third.send(GOOD)
            third.recv(100) or third.send(GOOD)
        first.close()
        server.step(0)
        with connected(server) as fourth:
            fourth.send(GOOD)
            server.step(0)
            assert answer(fourth) == (Status.GRANTED, 7, 1)


def test_another_user_is_cut_off(server: LedgerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._server, "_user", os.getuid() + 1)
    with connected(server) as client:
        assert client.recv(100) == b""
    assert not server._server._clients


def test_a_client_that_does_not_read_is_cut_off(server: LedgerServer, ledger: Ledger) -> None:
    with connected(server) as silent, connected(server) as good:
        silent.setblocking(False)
        sent = 0
        while len(server._server._clients) == 2:
            silent.send(REQUEST.pack(1, TrafficClass.MODEL, 1, 8, 0))
            sent += 1
            server.step(0)
        assert sent > 10
        good.send(GOOD)
        server.step(0)
        assert answer(good)[0] == Status.GRANTED
        assert ledger.totals.wire_bits == 8 * sent + 10_000


def test_what_a_client_asked_for_is_spent_when_it_went_away_during_the_commit(
    server: LedgerServer, ledger: Ledger
) -> None:
    client, reserve = connected(server), ledger.reserve
    ledger.reserve = lambda requests: (client.close(), reserve(requests))[1]  # type: ignore[method-assign, assignment]
    client.send(GOOD)
    client.send(GOOD)
    assert server.step(0) == 2
    assert not server._server._clients
    assert ledger.totals.wire_bits == 20_000


def test_a_client_that_went_away_before_it_was_accepted_or_read(server: LedgerServer, ledger: Ledger) -> None:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(server._server._path))
    client.send(GOOD)
    client.close()
    assert [server.step(0), server.step(0)] == [0, 0]
    server._server._accept()  # nobody is there
    with connected(server) as reset, connected(server) as good:
        # An answer that lies unread when a client closes makes the server's next read fail.
        reset.send(GOOD)
        server.step(0)
        reset.close()
        good.send(GOOD)
        assert server.step(0) == 1
        assert answer(good) == (Status.GRANTED, 7, 2)
        assert len(server._server._clients) == 1
    assert ledger.totals.wire_bits == 20_000


def test_a_ledger_that_closes_itself_ends_the_server_and_everybody_is_told(
    server: LedgerServer, ledger: Ledger
) -> None:
    with connected(server) as one, connected(server) as other:
        ledger._connection = Failing(ledger._connection, "COMMIT", OSError(5, "Input/output error"))  # type: ignore[assignment]
        one.send(GOOD)
        other.send(GOOD)
        with pytest.raises(LedgerError, match="Input/output error"):
            server.serve()
        assert answer(one) == answer(other) == (Status.CLOSED, 7, 0)


# The socket.


def test_only_this_user_reaches_the_socket_and_it_goes_with_the_server(ledger: Ledger, path: Path) -> None:
    place_of_socket = path.with_name("socket")
    server = LedgerServer(ledger, place_of_socket)
    assert place_of_socket.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SocketError, match="a server answers there"):
        LedgerServer(ledger, place_of_socket)
    server.step(0)  # who asked whether somebody answers
    with connected(server) as client:
        server.close()
        assert client.recv(100) == b""
    assert not place_of_socket.exists()


def test_a_socket_that_nobody_answers_at_is_replaced_and_nothing_else_is(ledger: Ledger, path: Path) -> None:
    stale = path.with_name("socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(stale))
    with closing(LedgerServer(ledger, stale)) as server:
        connected(server).close()
    stale.write_text("a file")
    for other in (stale, path.with_name("missing") / "socket", path.with_name("x" * 120)):
        with pytest.raises(SocketError, match="no socket at"):
            LedgerServer(ledger, other)
    assert stale.read_text() == "a file"


# The client.


@pytest.fixture
def served(path: Path) -> Iterator[Path]:
    """A socket with a server in a thread behind it."""
    created(path).close()
    place_of_socket, ready, stopped = path.with_name("socket"), threading.Event(), threading.Event()

    def serve() -> None:
        with opened(path) as ledger, closing(LedgerServer(ledger, place_of_socket)) as server:
            ready.set()
            while not stopped.is_set():
                server.step(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    yield place_of_socket
    stopped.set()
    thread.join()


def test_a_client_gets_leases_and_refusals(served: Path, path: Path) -> None:
    with LedgerClient(served) as client:
        lease = client.reserve(TrafficClass.MODEL, 10_000, 5_000)
        assert (lease.sequence, lease.reservation) == (1, model())
        with pytest.raises(BudgetError, match="tunnel") as caught:
            client.reserve(TrafficClass.TUNNEL, 1, 0)
        assert caught.value.remedy
        for bad in (True, -1, 1.0, 1 << 62, None):
            with pytest.raises(UnitError):
                client.reserve(TrafficClass.MODEL, bad, 0)
        with pytest.raises(BudgetError):
            client.reserve(TrafficClass.MODEL, 1, 2)
        assert client.reserve(TrafficClass.MODEL, 1, 1).sequence == 2
    with pytest.raises(LedgerError, match="does not answer"):
        client.reserve(TrafficClass.MODEL, 1, 1)


def test_nobody_there(path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger server"):
        LedgerClient(path)


def answering(path: Path, reply: Callable[[bytes], bytes | None]) -> threading.Thread:
    """A server that says what a test wants it to say, once."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            content = reply(client.recv(100))
            if content is None:
                client.recv(100)
            elif content:
                client.send(content)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda _: b"", "no answer to the question: end"),
        (lambda _: ANSWER.pack(1, 0, 1, 5)[:-1], "no answer"),
        (lambda _: ANSWER.pack(1, 0, 1, 5) + b"\0", "no answer"),
        (lambda _: ANSWER.pack(2, 0, 1, 5), "no answer"),
        (lambda _: ANSWER.pack(1, 4, 1, 0), "no answer"),
        (lambda _: ANSWER.pack(1, 0, 2, 5), "no answer"),
        (lambda _: ANSWER.pack(1, 0, 1, 0), "no answer"),
        (lambda _: ANSWER.pack(1, 0, 1, 1 << 62), "no answer"),
        (lambda _: ANSWER.pack(1, 1, 1, 5), "no answer"),
        (lambda _: ANSWER.pack(1, 2, 1, 0), "REFUSED"),
        (lambda _: ANSWER.pack(1, 3, 1, 0), "CLOSED"),
        (lambda _: None, "does not answer: timed out"),
    ],
)
def test_any_other_answer_closes_the_client(path: Path, reply: Callable[[bytes], Any], message: str) -> None:
    thread = answering(path, reply)
    client = LedgerClient(path, timeout_s=0.2)
    with pytest.raises(LedgerError, match=message) as caught:
        client.reserve(TrafficClass.MODEL, 8, 8)
    assert caught.value.remedy
    assert client._socket.fileno() == -1
    with pytest.raises(LedgerError, match="does not answer"):
        client.reserve(TrafficClass.MODEL, 8, 8)
    thread.join()


def test_numbers_of_requests_begin_again(path: Path) -> None:
    thread = answering(path, lambda content: ANSWER.pack(1, 0, REQUEST.unpack(content)[2], 1))
    with LedgerClient(path) as client:
        client._number = (1 << 32) - 1
        assert client.reserve(TrafficClass.MODEL, 8, 8).sequence == 1
        assert client._number == 0
    thread.join()


# The process, and processes against each other.

PROGRAM = """
import sys
from bitweir_metering import ledger_file, ledger_server
ledger_file.FILESYSTEMS |= {sys.argv[3]}
ledger_server.main(sys.argv[1:3])
"""


def started(path: Path, place_of_socket: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(path), str(place_of_socket), place(path.parent)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(2_000):
        if place_of_socket.exists() or process.poll() is not None:
            return process
        time.sleep(0.01)
    raise AssertionError("the server did not start")


def test_the_process_serves_until_it_is_told_to_end(path: Path) -> None:
    created(path).close()
    place_of_socket = path.with_name("socket")
    with started(path, place_of_socket) as process, LedgerClient(place_of_socket) as client:
        assert client.reserve(TrafficClass.MODEL, 10_000, 0).sequence == 1
        with pytest.raises(LedgerError, match="open elsewhere"):
            opened(path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        with pytest.raises(LedgerError):
            client.reserve(TrafficClass.MODEL, 8, 0)
    assert not place_of_socket.exists()
    assert verify(path).totals.wire_bits == 10_000


def test_a_process_that_cannot_serve_says_why_in_one_line(path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bitweir_metering.ledger_server", path, path.with_name("socket")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"bitweir: .*; .*\n", result.stderr)


def test_a_ledger_is_closed_when_its_server_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created(path).close()
    monkeypatch.setattr(ledger_file, "FILESYSTEMS", ledger_file.FILESYSTEMS | {place(path.parent)})
    served: list[Path] = []
    monkeypatch.setattr(LedgerServer, "serve", lambda server: served.append(server._server._path))
    before = signal.getsignal(signal.SIGTERM)
    try:
        ledger_server.main([str(path), str(path.with_name("socket"))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(served) == 1
    opened(path).close()
    with pytest.raises(SystemExit, match="bitweir: there is no ledger"):
        ledger_server.main([str(path.with_name("missing")), str(path.with_name("socket"))])
    signal.signal(signal.SIGTERM, before)


GREEDY = """
import sys
from pathlib import Path
from bitweir_metering.errors import BudgetError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger_client import LedgerClient

granted_bits, bits = 0, int(sys.argv[2])
with LedgerClient(Path(sys.argv[1])) as client:
    try:
        while True:
            granted_bits += client.reserve(TrafficClass.MODEL, bits, bits).reservation.wire_bits
    except BudgetError:
        pass
print(granted_bits)
"""
# What a ledger must not be: read the total, find room, write it back.
NAIVE = """
import os, sys, time

granted_bits, bits, limit_bits = 0, int(sys.argv[2]), int(sys.argv[3])
descriptor = os.open(sys.argv[1], os.O_RDWR)
while True:
    total_bits = int(os.pread(descriptor, 20, 0))
    if total_bits + bits > limit_bits:
        break
    time.sleep(0.001)
    os.pwrite(descriptor, b"%020d" % (total_bits + bits), 0)
    granted_bits += bits
print(granted_bits)
"""


def granted_to_four(program: str, *arguments: object) -> int:
    """Bits that four processes got at the same time."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with ExitStack() as ended:
        processes = [
            ended.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(4)
        ]
        for process in processes:
            ended.callback(process.kill)
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return sum(map(int, outputs))


def test_four_processes_together_get_exactly_the_limit(path: Path) -> None:
    created(path).close()
    place_of_socket = path.with_name("socket")
    with started(path, place_of_socket) as process:
        assert granted_to_four(GREEDY, place_of_socket, 5_000) == LIMIT_BITS
        process.terminate()
    report = verify(path)
    assert report.ok
    assert report.totals.wire_bits == LIMIT_BITS
    assert report.entry_count == 1 + LIMIT_BITS // 5_000


def test_the_same_four_overspend_a_total_that_is_read_and_written(path: Path) -> None:
    path.write_text("0" * 20)
    assert granted_to_four(NAIVE, path, 5_000, LIMIT_BITS) > LIMIT_BITS


def test_a_reservation_is_the_same_thing_on_both_sides() -> None:
    for kind in TrafficClass:
        wire_bits, information_bits = 1 + kind, int(kind)
        content = REQUEST.pack(ledger_client.VERSION, kind, 3, wire_bits, information_bits)
        assert parse_request(content) == (3, Reservation(kind, wire_bits, information_bits))
