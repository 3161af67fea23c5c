"""The gate as a process: what it loads, who reaches it, and that whatever it loses, nothing leaves unpaid."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitweir_metering import frame
from bitweir_metering.control import Control, Message, encode
from bitweir_metering.errors import FullError, RefusedError, SocketError
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gate import TRIPPED_EXIT
from bitweir_metering.gate_client import GateClient
from bitweir_metering.ledger import verify
from tests.security.running_gate import CONTROL, MODEL, SLOT_MS, TUNNEL, World, running, wait_for
from tests.unit.metering.example_ledger import opened, signed_reset

pytestmark = pytest.mark.system
# What it may load besides modules that come with Python; copy.py looks for one of Jython's, in vain.
ALLOWED = ("bitweir_metering", "cryptography", "_cffi_backend", "org")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running(tmp_path) as world:
        yield world


def sent(world: World, count: int, kind: TrafficClass = CONTROL) -> None:
    """Send so many payloads and wait until they have left."""
    before = len(world.received)
    with world.client() as client:
        for number in range(count):
            client.submit(kind, 0, Payload(number, 20))
        world.run_until(lambda: len(world.received) >= before + count)


def assert_paid(world: World) -> None:
    """The ledger is sound and covers what was received."""
    report = world.report()
    assert report.ok, report.problems
    assert report.totals.wire_bits >= world.wire_bits > 0
    for kind in (CONTROL, MODEL, TUNNEL):
        bits = sum(f.wire_bits for f in world.frames if f.kind is kind)
        assert report.totals.wire[kind] >= bits


def test_payloads_leave_as_frames_that_are_paid_for(world: World) -> None:
    world.say(Control.GRANTS, 10, 10)
    world.run(0.1)
    with world.client() as client:
        for number in range(10):
            client.submit(MODEL, 3, Payload(number, 64))
        with pytest.raises(RefusedError):
            client.submit(MODEL, 3, Payload(1, 1))
        client.submit(TUNNEL, 0, Payload(7, 8000))
        world.run_until(lambda: len(world.received) == 11)
    assert [(f.kind, f.lane, f.sequence, f.payload.value) for f in world.frames] == [
        *((MODEL, 3, number, number) for number in range(10)),
        (TUNNEL, 0, 10, 7),
    ]
    # A frame that is missed is sent again, the same bytes, as often as the policy says.
    for _ in range(world.policy.resends_max + 2):
        world.say(Control.RESEND, 4)
        world.run(0.2)
    assert world.received[11:] == [world.received[4]] * world.policy.resends_max
    assert world.end_gate() == 0
    assert_paid(world)
    assert world.report().losses.wire_bits > 0
    assert [event["event"] for event in world.events()] == [
        "started",
        "not durable",
        "not isolated",
        "stopped",
    ]


def loaded(log: str) -> set[str]:
    """Modules that a process says it has imported."""
    lines = [line for line in log.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def foreign(modules: set[str]) -> set[str]:
    """Modules that a gate should not have."""
    return {name for name in modules if name.partition(".")[0] not in {*sys.stdlib_module_names, *ALLOWED}}


@pytest.mark.parametrize("extra", ["", "typer"])
def test_the_running_process_has_loaded_nothing_else(tmp_path: Path, extra: str) -> None:
    module = "bitweir_metering.gate"
    if extra:  # A gate that imports more, to see that this would be seen.
        module = "more_than_a_gate"
        (tmp_path / f"{module}.py").write_text(
            f"import {extra}\nfrom bitweir_metering.gate import main\nif __name__ == '__main__':\n    main()\n"
        )
    environment = {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": str(tmp_path)}
    with running(tmp_path, module=module, environment=environment) as world:
        sent(world, 5)
        assert world.gate is not None
        maps = Path(f"/proc/{world.gate.pid}/maps").read_text()
        modules = loaded((tmp_path / "gate.log").read_text())
        assert {"bitweir_metering.gateway", "bitweir_metering.ledger", "sqlite3", "selectors"} <= modules
        # Python imports what .pth files of the environment name before the gate begins.
        command = [sys.executable, "-c", ""]
        empty = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        found = foreign(modules - loaded(empty.stderr))
        assert found == set() if not extra else extra in found
        for heavy in ("torch", "numpy", "ray", "grpc", "pydantic"):
            assert f"site-packages/{heavy}/" not in maps


def test_it_runs_as_its_own_user_in_its_own_namespaces(tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    gate_user, inner_user, stranger = 61001, 61002, 61003
    shared = Path("/var/tmp") / f"bitweir-gate-{os.getpid()}"  # noqa: S108 - pytest's own folders are closed to others
    shared.mkdir(mode=0o755)
    prefix = ["unshare", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child"]
    prefix += ["setpriv", f"--reuid={gate_user}", f"--regid={gate_user}", "--clear-groups", "--no-new-privs"]
    try:
        with World(shared, prefix=prefix, arguments=["--inner-user", str(inner_user)]) as world:
            for path in (world.state, *world.state.iterdir()):
                os.chown(path, gate_user, gate_user)
            (shared / "gate").mkdir(mode=0o711)
            os.chown(shared / "gate", gate_user, gate_user)
            world.inner = shared / "gate" / "inner"
            world.start_witness(client_user=gate_user)
            world.start_gate()
            submit = "import sys; from pathlib import Path; from bitweir_metering.gate_client import GateClient\n"
            submit += "from bitweir_metering.frame import Payload, TrafficClass\n"
            submit += "GateClient(Path(sys.argv[1])).submit(TrafficClass.CONTROL, 0, Payload(5, 20))"
            results = {}
            for user in (inner_user, stranger):
                become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
                command = [*become, sys.executable, "-c", submit, str(world.inner)]
                results[user] = subprocess.run(command, capture_output=True, text=True, check=False)
                steal = [*become, "cat", str(world.state / "outer.key")]
                assert subprocess.run(steal, capture_output=True, check=False).returncode != 0
            assert results[inner_user].returncode == 0, results[inner_user].stderr
            assert "does not answer" in results[stranger].stderr or "no answer" in results[stranger].stderr
            world.run_until(lambda: len(world.received) == 1)
            process = Path("/proc") / str(world.gate_process)
            assert process.stat().st_uid == gate_user
            for kind in ("pid", "mnt", "ipc", "uts"):
                assert (process / "ns" / kind).readlink() != Path(f"/proc/self/ns/{kind}").readlink()
            assert "not isolated" not in [event["event"] for event in world.events()]
    finally:
        shutil.rmtree(shared)


# What it loses.


def test_without_permits_nothing_leaves_and_nothing_is_lost(world: World) -> None:
    sent(world, 1)
    world.run(0.1)
    time.sleep(1.2)
    with world.client() as client:
        client.submit(CONTROL, 0, Payload(1, 20))
    assert world.run(1, permits=False) == []
    # A permit that was recorded is of no use.
    old = encode(Message(Control.PERMIT, time.time_ns() - 10**10), world.reconcile_key)
    forged = encode(Message(Control.PERMIT, time.time_ns()), world.outer_key)
    for content in (old, forged, b"x"):
        world.out.sendto(content, ("127.0.0.1", world.listen))
    assert world.run(0.3, permits=False) == []
    world.run_until(lambda: len(world.received) == 2)
    assert world.end_gate() == 0
    assert_paid(world)
    said = world.events()
    assert [event for event in said if event["event"] == "lapsed"]
    assert {"the tag is wrong", "an old message"} & {event.get("reason") for event in said}


def test_without_its_witness_nothing_more_leaves_than_was_leased(tmp_path: Path) -> None:
    # A lease holds about a dozen of these frames.
    with running(tmp_path, changes={"lease": "2 kB", "burst": "64 KiB"}) as world:
        sent(world, 3)
        world.stop_witness()
        with world.client() as client:
            for number in range(60):
                client.submit(CONTROL, 0, Payload(number, 20))
        world.run(2)
        count = len(world.received)
        assert count < 63
        assert world.run(1) == []
        world.start_witness()
        world.run_until(lambda: len(world.received) == 63)
        assert [f.payload.value for f in world.frames[3:]] == list(range(60))
        assert world.end_gate() == 0
        assert_paid(world)
        assert "not cosigned" in {event["event"] for event in world.events()}


def test_a_second_gate_on_the_same_ledger_does_not_start(world: World, tmp_path: Path) -> None:
    sent(world, 1)
    command = [word if word != str(world.inner) else str(tmp_path / "other") for word in world.command]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "it is open elsewhere" in result.stderr
    assert "Traceback" not in result.stderr
    sent(world, 1)


@pytest.mark.parametrize("how", ["rollback", "fork", "truncation"])
def test_an_old_copy_of_the_ledger_trips_the_link_before_anything_leaves(world: World, how: str) -> None:
    sent(world, 1)
    assert world.end_gate() == 0
    kept = world.folder / "kept"
    shutil.copytree(world.state, kept)
    world.start_gate()
    sent(world, 1)
    assert world.end_gate() == 0
    newest = world.report().entry_count
    if how == "truncation":
        with opened(world.ledger_path) as ledger:
            ledger.event(b"one more, which the witness has not seen")
        assert world.report().entry_count == newest + 1
        copy_of = world.ledger_path.read_bytes()
        world.ledger_path.write_bytes(copy_of[: len(copy_of) // 2])
    else:
        shutil.rmtree(world.state)
        shutil.copytree(kept, world.state)
        if how == "fork":
            with opened(world.ledger_path) as ledger:
                while ledger.head.entry_count < newest + 3:
                    ledger.event(b"another history")
    before = len(world.received)
    world.start_gate()
    # It ends before it takes a payload, or with the first one.
    with contextlib.suppress(SocketError), world.client() as client:
        client.submit(CONTROL, 0, Payload(1, 20))
    assert world.wait_gate() == (1 if how == "truncation" else TRIPPED_EXIT)
    assert len(world.received) == before
    last = world.events()[-1]
    assert last["event"] == "ended"
    if how == "truncation":
        return
    assert last["reason"].startswith("the link is tripped: witness: ")
    # It stays down until people have signed.
    world.start_gate()
    assert world.wait_gate() == TRIPPED_EXIT
    assert len(world.received) == before


def test_a_trip_is_latched_until_enough_people_have_signed(world: World) -> None:
    sent(world, 1)
    world.say(Control.TRIP, 1)
    assert world.wait_gate() == TRIPPED_EXIT
    report = world.report()
    assert report.trip is not None
    assert report.trip.reason == "reconcile: mismatch"
    world.start_gate()
    assert world.wait_gate() == TRIPPED_EXIT
    with opened(world.ledger_path) as ledger:
        ledger.reset(*signed_reset(ledger))
    world.start_gate()
    sent(world, 1)
    assert world.end_gate() == 0
    assert_paid(world)


def test_a_budget_that_is_used_up_ends_the_class_and_not_the_link(tmp_path: Path) -> None:
    limits = {"model": "1 GB", "control": "1 GB", "resend": "1 GB", "tunnel": "3 kB", "timing": "1 GB"}
    with running(tmp_path, changes={"class_limits": limits, "lease": "2 kB"}) as world:
        with world.client() as client:
            for _ in range(60):
                client.submit(TUNNEL, 0, Payload(1, 20))
            world.run(3)
            tunnelled = sum(f.wire_bits for f in world.frames)
            assert 8 * 2_500 < tunnelled <= 8 * 3_000
            with pytest.raises(RefusedError):
                client.submit(TUNNEL, 0, Payload(1, 20))
        sent(world, 2, CONTROL)
        assert world.end_gate() == 0
        assert_paid(world)
        assert world.report().totals.wire[TUNNEL] <= 8 * 3_000


def test_an_error_of_the_disk_ends_it_and_nothing_leaves_after_it(tmp_path: Path) -> None:
    if not shutil.which("strace"):
        pytest.fail("install strace: nothing else makes a system call of the gate fail")
    inject = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=fdatasync", "-e"]
    with running(tmp_path, prefix=[*inject, "inject=fdatasync:error=EIO:when=14+"], changes={"lease": "2 kB"}) as world:
        with world.client() as client:
            for _ in range(600):
                try:
                    client.submit(CONTROL, 0, Payload(1, 20))
                except SocketError:
                    break
        assert world.wait_gate() == 1
        assert "a commit failed: disk I/O error" in world.events()[-1]["reason"]
        assert "Traceback" not in (tmp_path / "gate.log").read_text()
        assert 0 < len(world.received) < 600
        assert_paid(world)
        world.prefix.clear()
        world.start_gate()
        sent(world, 3)


def test_a_full_disk_ends_it_and_nothing_leaves_after_it(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small disk")
    with World(tmp_path, changes={"lease": "2 kB"}) as world:
        kept = {path.name: path.read_bytes() for path in world.state.iterdir()}
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k,mode=700", "none", world.state], check=True)
        try:
            for name, content in kept.items():
                (world.state / name).write_bytes(content)
                (world.state / name).chmod(0o600)
            world.start_witness()
            world.start_gate()
            sent(world, 2)
            (world.state / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(world.state).free)))
            with world.client() as client:
                for _ in range(300):
                    try:
                        client.submit(CONTROL, 0, Payload(1, 20))
                    except SocketError:
                        break
            assert world.wait_gate() == 1
            assert "full" in world.events()[-1]["reason"]
            (world.state / "ballast").unlink()
            assert_paid(world)
        finally:
            subprocess.run(["umount", world.state], check=True)


# Who misbehaves.


def test_what_inner_sends_by_mistake_or_on_purpose_disturbs_nobody(world: World) -> None:
    with world.client() as good:
        for content in (b"", b"x", bytes(5), b"\1\1\0\xff\xff" + bytes(1024), b"\1\1\0\0\1\xff", b"\1\4\0\0\1\x80"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bad:
                bad.settimeout(10)
                bad.connect(str(world.inner))
                bad.send(content)
                assert bad.recv(10) in (b"", b"\1\3", b"\1\2")
        good.submit(CONTROL, 0, Payload(1, 20))
        world.run_until(lambda: len(world.received) == 1)
        taken = 0
        with pytest.raises(FullError):
            for _ in range(3000):
                good.submit(CONTROL, 0, Payload(1, 20))
                taken += 1
        assert taken >= 900
        world.run_until(lambda: len(world.received) == 1 + taken, seconds=60)
    assert world.end_gate() == 0
    assert_paid(world)


def test_frames_leave_on_edges(world: World) -> None:
    """The kernel's receive times against the slot clock: a share of a slot after an edge, never before it."""
    world.out.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
    offset_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    phases: list[float] = []
    with world.client() as client:
        for _ in range(50):
            client.submit(CONTROL, 0, Payload(1, 20))
        end = time.monotonic() + 30
        while len(phases) < 50 and time.monotonic() < end:
            world.say(Control.PERMIT)
            time.sleep(0.01)
            try:
                content, extra, _, _ = world.out.recvmsg(2048, 256)
            except BlockingIOError:
                continue
            frame.decode(content, world.outer_key)
            seconds, nanoseconds = (int.from_bytes(extra[0][2][i : i + 8], sys.byteorder) for i in (0, 8))
            since_boot_ns = seconds * 10**9 + nanoseconds - offset_ns
            phases.append(since_boot_ns % (SLOT_MS * 10**6) / (SLOT_MS * 10**6))
    assert len(phases) == 50
    # A busy machine may delay the kernel's stamp; a gate that ignored edges would spread them evenly.
    assert sum(phase < 0.25 for phase in phases) >= 45, sorted(phases)


def test_a_gate_that_cannot_run_says_why_in_one_line(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        good = world.command
        (world.folder / "empty").mkdir()
        for old, new, reason in (
            (str(world.state), str(world.folder / "empty"), "outer.key"),
            (str(world.policy_path), str(tmp_path / "none.toml"), "none.toml"),
            (str(world.inner), str(tmp_path / ("x" * 120)), "no socket at"),
            (f"127.0.0.1:{world.listen}", "192.0.2.1:9", "cannot listen"),
        ):
            command = [new if word == old else word for word in good]
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            lines = result.stderr.splitlines()
            assert (result.returncode, len(lines)) == (1, 1), result.stderr
            assert reason in json.loads(lines[0])["reason"]
        (world.state / "outer.key").write_bytes((world.state / "reconcile.key").read_bytes())
        result = subprocess.run(good, capture_output=True, text=True, check=False, timeout=60)
        assert "have one key" in result.stderr
        assert subprocess.run(good[:4], capture_output=True, check=False, timeout=60).returncode == 2


def test_a_policy_that_is_not_the_next_one_or_not_signed_is_refused(world: World) -> None:
    sent(world, 1)
    assert world.end_gate() == 0
    text = world.policy_path.read_text()
    world.policy_path.write_text(text.replace('"1 GB"', '"2 GB"').replace("serial = 1", "serial = 2"))
    world.start_gate()
    assert world.wait_gate() == 1
    assert "valid signatures" in world.events()[-1]["reason"]
    world.write_signatures()
    world.start_gate()
    sent(world, 1)
    assert world.end_gate() == 0
    assert verify(world.ledger_path).policy == world.write_signatures()
    wait_for(lambda: world.gate is not None and world.gate.poll() is not None)
    with pytest.raises(SocketError):
        GateClient(world.inner)
