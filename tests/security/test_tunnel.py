"""Real ssh through a real gate: what people say and hear is whole, what leaves is charged, what fails ends."""

import hashlib
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitweir_metering import frame
from bitweir_metering.frame import Payload
from bitweir_metering.ledger import verify
from tests.security.running_gate import CONTROL, MODEL, TUNNEL, wait_for
from tests.security.running_tunnel import Tunnel, missing_programs

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def openssh() -> None:
    missing = missing_programs()
    if missing:
        message = f"{', '.join(missing)} not found: apt-get install openssh-client openssh-server"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Tunnel]:
    with Tunnel(tmp_path) as tunnel:
        yield tunnel


def assert_paid(tunnel: Tunnel) -> None:
    """The ledger covers what was received, in class TUNNEL and in no other that inner may send."""
    tunnel.finish()
    report = verify(tunnel.world.ledger_path)
    assert report.ok, report.problems
    assert report.totals.wire[TUNNEL] >= tunnel.tunnel_bits > 0
    assert report.totals.wire_bits >= tunnel.world.wire_bits
    assert (report.totals.wire[MODEL], report.totals.wire[CONTROL]) == (0, 0)


def test_ssh_says_hello_and_carries_files_both_ways_and_all_of_it_is_charged(tunnel: Tunnel) -> None:
    draw = random.Random(1)
    result = tunnel.ssh("echo hello")
    assert (result.returncode, result.stdout) == (0, b"hello\n"), (result.stderr, tunnel.log("sshd"))
    out = draw.randbytes(20_000)
    path = tunnel.folder / "inside"
    path.write_bytes(out)
    before = tunnel.tunnel_bits
    got = tunnel.ssh(f"cat {shlex.quote(str(path))}").stdout
    assert hashlib.sha256(got).digest() == hashlib.sha256(out).digest()
    assert tunnel.tunnel_bits - before > 8 * len(out)
    into = draw.randbytes(200_000)
    before = tunnel.tunnel_bits
    said = tunnel.ssh("sha256sum", content=into)
    assert said.stdout.split()[0].decode() == hashlib.sha256(into).hexdigest()
    # What goes in is free; what comes back is a login, acks and one line.
    assert tunnel.tunnel_bits - before < 8 * 10_000
    assert tunnel.world.end_gate() == 0
    assert_paid(tunnel)


def test_several_people_at_once_and_more_than_there_is_room_for(tunnel: Tunnel) -> None:
    people = [
        subprocess.Popen(tunnel.ssh_command(f"sleep 3; echo {number}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(5)
    ]
    found = [(person.communicate(timeout=60)[0], person.returncode) for person in people]
    assert sorted(code for _, code in found) == [0, 0, 0, 0, 255]
    assert sorted(out for out, code in found if code == 0) == sorted(
        b"%d\n" % number for number in range(5) if found[number][1] == 0
    )
    # The slots are free again.
    assert tunnel.ssh("echo again").stdout == b"again\n"


def test_a_service_that_is_not_there_ends_the_connection(tunnel: Tunnel) -> None:
    tunnel.processes[0].terminate()
    tunnel.processes[0].wait()
    result = tunnel.ssh("echo hello")
    assert (result.returncode, result.stdout) == (255, b"")
    assert len(tunnel.tunnel_frames) == 2  # START and GONE


def test_a_person_who_goes_away_ends_the_session_inside(tunnel: Tunnel) -> None:
    mark = tunnel.folder / "mark"
    command = tunnel.ssh_command(f"touch {mark}; cat; rm {mark}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as person:
        wait_for(mark.exists)
        person.kill()
    wait_for(lambda: not mark.exists())


def test_the_sub_cap_ends_the_session_and_leaves_the_other_classes_alone(tmp_path: Path) -> None:
    arguments = ("--check-s", "2", "--give-up-s", "4")
    cap = {"tunnel_limit": "30 kB", "lease": "4 KiB", "burst": "2 KiB"}
    with Tunnel(tmp_path, arguments=arguments, **cap) as tunnel:
        result = tunnel.ssh("head -c 100000 /dev/zero")
        assert result.returncode != 0
        assert len(result.stdout) < 30_000
        assert tunnel.tunnel_bits <= 8 * 30_000
        assert tunnel.tunnel_bits > 8 * 20_000
        # Another login is refused too, and the link still works for others.
        assert tunnel.ssh("echo hello").returncode != 0
        with tunnel.world.client() as client:
            client.submit(CONTROL, 0, Payload(5, 20))
        wait_for(lambda: any(one[0] >> 3 & 7 == CONTROL for one in list(tunnel.world.received)))
        assert tunnel.world.end_gate() == 0
        tunnel.finish()
        report = verify(tunnel.world.ledger_path)
        assert report.ok, report.problems
        assert 8 * 30_000 >= report.totals.wire[TUNNEL] >= tunnel.tunnel_bits
        assert report.totals.wire[MODEL] == 0


def test_nothing_more_is_delivered_after_the_gate_was_killed(tmp_path: Path) -> None:
    with Tunnel(tmp_path, arguments=("--give-up-s", "5")) as tunnel:
        command = tunnel.ssh_command("while true; do echo more; sleep 0.05; done")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as person:
            assert person.stdout is not None
            assert person.stdout.readline() == b"more\n"
            tunnel.world.end_gate(signal.SIGKILL)
            time.sleep(0.5)
            received = len(tunnel.world.received)
            # What the pipe held already is still read; nothing comes after that.
            os.set_blocking(person.stdout.fileno(), False)
            heard = person.stdout.read() or b""
            time.sleep(2)
            assert person.stdout.read() in (None, b"")
            assert len(heard) < sum(len(one) for one in tunnel.tunnel_frames)
            assert len(tunnel.world.received) == received
            wait_for(lambda: '"no gate"' in tunnel.log("inner"))
            person.kill()
        # A new gate, and a new connection works: nobody has to restart the ends.
        wait_for(lambda: "does not answer" in tunnel.log("outer"))
        tunnel.world.start_gate()
        assert tunnel.ssh("echo hello").stdout == b"hello\n"


def test_lost_frames_are_sent_again_and_charged_as_such(tunnel: Tunnel) -> None:
    draw = random.Random(3)
    original = tunnel.world.receive

    def lossy() -> None:
        before = len(tunnel.world.received)
        original()
        kept = [one for one in tunnel.world.received[before:] if draw.random() > 0.1]
        lost.extend(one for one in tunnel.world.received[before:] if one not in kept)
        del tunnel.world.received[before:]
        tunnel.world.received += kept

    lost: list[bytes] = []
    tunnel.world.receive = lossy  # type: ignore[method-assign]
    result = tunnel.ssh("seq 1 9000")
    assert (result.returncode, result.stdout) == (0, b"".join(b"%d\n" % number for number in range(1, 9001)))
    assert lost
    assert tunnel.world.end_gate() == 0
    assert_paid(tunnel)
    report = verify(tunnel.world.ledger_path)
    assert report.totals.wire[frame.TrafficClass.RESEND] >= min(frame.wire_bits(one) for one in lost)
