"""Around the gate's decisions: its sockets, its words and its ledger's opening. The process is tests/security's."""

import argparse
import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from bitweir_metering import gate as gates
from bitweir_metering import gate_client, policy
from bitweir_metering.control import Control, TripReason
from bitweir_metering.errors import LedgerError, PolicyError, SocketError, TrippedError, UnitError
from bitweir_metering.frame import Payload
from bitweir_metering.gate_client import ANSWER, Status
from bitweir_metering.local_socket import LocalServer
from tests.unit.metering.example_gate import CONTROL, MS, Rig
from tests.unit.metering.example_ledger import created, opened, place
from tests.unit.metering.example_policy import signed, toml

REQUEST = gate_client.request(CONTROL, 0, Payload(1, 4))
TAKEN, DAMAGED = ANSWER.pack(1, Status.TAKEN), ANSWER.pack(1, Status.DAMAGED)


class Running:
    """A rig's gate with its sockets, run round by round on a clock that goes 3 ms at each look."""

    def __init__(self, folder: Path) -> None:
        self.rig, self.path, self.now_ns = Rig(), folder / "inner", 0
        self.server = LocalServer(self.path, gates.CLIENTS_MAX)
        self.control = gates._bound(("127.0.0.1", 0))
        self.sent_ns: list[int] = []
        self._ready, self.server.ready = self.server.ready, self.ready  # type: ignore[method-assign]

    def ready(self, timeout_s: float | None) -> list[socket.socket]:
        """What can be read; where there is nothing, the time goes by."""
        found = self._ready(0)
        if not found and timeout_s:
            self.sleep(timeout_s)
        return found

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 10**9)

    def clock(self) -> int:
        self.now_ns += MS // 100
        return self.now_ns

    def rounds(self, count: int) -> None:
        """Serve so many rounds, and leave the server as it was."""
        left = iter(range(count))
        gates.serve(
            self.rig.gate,
            self.server,
            self.control,
            self.rig.rules.slot_ns,
            is_over=lambda: next(left, None) is None,
            clock=self.clock,
            realtime=lambda: self.rig.realtime_ns,
            sleep=self.sleep,
        )
        self.server._selector.unregister(self.control)

    def tell(self, content: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.sendto(content, self.control.getsockname())

    def client(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        found.settimeout(5)
        found.connect(str(self.path))
        return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    with closing(running.server), running.control:
        yield running


def test_a_payload_goes_in_at_one_socket_and_out_at_the_other(running: Running) -> None:
    running.tell(running.rig.message(Control.PERMIT))
    with running.client() as client:
        client.send(REQUEST)
        running.rounds(24)
        assert client.recv(10) == TAKEN
    assert len(running.rig.sent) == 1


def test_a_damaged_request_ends_its_connection_and_no_other(running: Running) -> None:
    with running.client() as bad, running.client() as good, running.client() as gone:
        bad.send(b"hello")
        good.send(REQUEST)
        gone.send(REQUEST)
        running.rounds(6)
        assert bad.recv(10) == DAMAGED
        assert bad.recv(10) == b""
        gone.close()  # with an answer that nobody has read
        running.rounds(4)
        good.send(REQUEST)
        running.rounds(4)
        assert [good.recv(10), good.recv(10)] == [TAKEN, TAKEN]
        assert len(running.server._clients) == 1


def test_damaged_control_messages_end_nothing(running: Running) -> None:
    for content in (b"", b"x", bytes(42), bytes(2000)):
        running.tell(content)
    running.tell(running.rig.message(Control.PERMIT))
    running.rounds(30)
    assert running.rig.events("control ignored")[-1]["count"] == 4
    assert running.rig.gate.verdict(running.now_ns).value == "up"


def test_a_trip_ends_the_loop(running: Running) -> None:
    running.tell(running.rig.message(Control.TRIP, int(TripReason.DROPS)))
    with pytest.raises(TrippedError):
        running.rounds(10)
    assert running.rig.book.tripped is not None


def test_permits_count_on_the_gates_clock(running: Running) -> None:
    running.tell(running.rig.message(Control.PERMIT))
    running.rounds(3)
    until_ns = running.rig.rules.permit_ns
    assert running.rig.gate.verdict(until_ns).value == "up"
    assert running.rig.gate.verdict(until_ns + 100 * MS).value == "lapsed"


def test_inner_cannot_choose_when_in_its_slot_a_frame_leaves(running: Running) -> None:
    """However much it sends, and whenever: a frame goes when the clock wakes the gate at an edge, and then only."""
    slot_ns = running.rig.rules.slot_ns
    send = running.rig.gate._send

    def watched(content: bytes) -> object:
        running.sent_ns.append(running.now_ns)
        return send(content)

    running.rig.gate._send = watched
    running.tell(running.rig.message(Control.PERMIT))
    random = Random(5)
    with running.client() as client:
        for _ in range(40):
            for _ in range(random.randrange(12)):
                client.send(REQUEST)
            running.rounds(random.randrange(1, 30))
            while select.select([client], [], [], 0)[0]:
                client.recv(10)
    phases = {sent_ns % slot_ns for sent_ns in running.sent_ns}
    assert len(running.sent_ns) > 10
    # The clock of this test counts its readings; a wake and the way to the kernel are always the same few.
    assert len(phases) == 1
    assert phases.pop() < slot_ns // 16


def test_an_address_that_is_taken(running: Running) -> None:
    with pytest.raises(SocketError, match=r"cannot listen at 127\.0\.0\.1") as caught:
        gates._bound(running.control.getsockname())
    assert caught.value.remedy


def test_what_the_gates_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    gates.say("refused", clock=lambda: 17, reason="two\nlines", count=3)
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "refused", "monotonic_ns": 17, "reason": "two\nlines", "count": 3}
    ]


# Words.


def words(folder: Path, *more: str) -> argparse.Namespace:
    sockets = ["--inner", "inner", "--listen", "127.0.0.1:1", "--outer", "127.0.0.1:2", "--witness", "witness"]
    return gates._parsed([str(folder / "POLICY.toml"), "--state", str(folder), *sockets, *more])


def test_words_of_the_command(tmp_path: Path) -> None:
    found = words(tmp_path, "--witness", "other", "--inner-user", "17")
    assert found.witness == [Path("witness"), Path("other")]
    assert (found.listen, found.outer) == (("127.0.0.1", 1), ("127.0.0.1", 2))
    assert (found.inner_user, found.allow_filesystem) == (17, "")


@pytest.mark.parametrize("missing", ["--state", "--inner", "--listen", "--outer", "--witness"])
def test_nothing_has_a_default_that_opens_a_way(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--state": "s", "--inner": "i", "--listen": "h:1", "--outer": "h:2", "--witness": "w"}
    given.pop(missing)
    with pytest.raises(SystemExit) as caught:
        gates._parsed(["POLICY.toml", *(word for pair in given.items() for word in pair)])
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err


# The ledger it opens.


def write_policy(folder: Path, signers: tuple[int, ...] = (0, 1), **changes: object) -> policy.Policy:
    path = folder / "POLICY.toml"
    path.write_bytes(toml(**changes))
    document = policy.parse(path.read_bytes())
    policy.signatures_path(path).write_bytes(policy.format_signatures(signed(document, *signers)))
    return document


@pytest.fixture
def state(tmp_path: Path) -> Path:
    created(tmp_path / "link.ledger", write_policy(tmp_path)).close()
    return tmp_path


def entries_of(state: Path) -> int:
    with opened(state / "link.ledger") as ledger:
        return ledger.head.entry_count


def test_the_policy_in_force_is_left_as_it_is(state: Path) -> None:
    with gates._opened(words(state, "--allow-filesystem", place(state))) as ledger:
        assert ledger.head.entry_count == 1
    # Signatures are not looked at again.
    write_policy(state, ())
    gates._opened(words(state, "--allow-filesystem", place(state))).close()


def test_the_next_policy_holds_if_it_is_signed(state: Path) -> None:
    following = write_policy(state, serial=2, limit="2 GB")
    with gates._opened(words(state, "--allow-filesystem", place(state))) as ledger:
        assert ledger.policy == following
        assert ledger.head.entry_count == 2


@pytest.mark.parametrize(
    ("signers", "changes"),
    [
        ((0,), {"serial": 2, "limit": "2 GB"}),
        ((3, 4), {"serial": 2, "limit": "2 GB"}),
        ((0, 1), {"serial": 3, "limit": "2 GB"}),
        ((0, 1), {"serial": 1, "limit": "2 GB"}),
        ((0, 1), {"serial": 2, "link": "elsewhere"}),
    ],
)
def test_another_policy_opens_nothing_and_leaves_the_ledger_free(
    state: Path, signers: tuple[int, ...], changes: dict[str, object]
) -> None:
    write_policy(state, signers, **changes)
    with pytest.raises(PolicyError):
        gates._opened(words(state, "--allow-filesystem", place(state)))
    assert entries_of(state) == 1


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((LedgerError, PolicyError, UnitError), match=message) as caught:
        call()
    assert caught.value.remedy


def test_what_is_no_ledger_or_no_policy(state: Path) -> None:
    named = words(state, "--allow-filesystem", place(state))
    (state / "link.ledger").rename(state / "other")
    refused(lambda: gates._opened(named), "there is no ledger")
    (state / "POLICY.toml").unlink()
    refused(lambda: gates._opened(named), "cannot read")
