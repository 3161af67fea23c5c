"""A real gate for tests: its process, its witness's process, its ledger, and both sides of the link around it.

What leaves is read from a UDP socket, as outer would; permits are sent as reconcile would, though nothing is
reconciled here.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bitweir_metering import control, frame, keys, ledger_file
from bitweir_metering.control import Control, Message
from bitweir_metering.frame import Frame, TrafficClass
from bitweir_metering.gate_client import GateClient
from bitweir_metering.ledger import Ledger, Report, verify
from tests.unit.metering.example_policy import DOCUMENT, PUBLIC, signed, toml

MS = 1_000_000
SLOT_MS = 20
ROOM = "1 GB"


def free_port() -> int:
    """A UDP port that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class World:
    """A folder with everything a gate needs, and the processes."""

    folder: Path
    prefix: list[str] = field(default_factory=list)
    """Put before the gate's command: strace, unshare, ..."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the policy."""
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    module: str = "bitweir_metering.gate"
    outer_port: int = 0
    """Where frames go; by default here."""
    gate: subprocess.Popen[str] | None = None
    witness: subprocess.Popen[str] | None = None
    received: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        self.inner, self.witness_socket = self.folder / "inner", self.folder / "witness"
        self.witness_key = self.folder / "witness.pem"
        witness_public = keys.new(self.witness_key)
        for name in ("outer", "reconcile"):
            keys.new_shared(self.state / f"{name}.key")
        self.outer_key = keys.load_shared(self.state / "outer.key")
        self.reconcile_key = keys.load_shared(self.state / "reconcile.key")
        limits = dict.fromkeys(DOCUMENT["class_limits"], ROOM)
        document: dict[str, Any] = {
            "class_limits": limits, "slot_ms": SLOT_MS, "epoch_slots": 50, "token_ceiling_bits": 64,
            "witnesses": {"threshold": 1, "keys": [witness_public.hex()]}, **self.changes,
        }  # fmt: skip
        self.policy_path = self.folder / "POLICY.toml"
        self.policy_path.write_bytes(toml(**document))
        self.policy = self.write_signatures()
        self.ledger_path = self.state / "link.ledger"
        Ledger.create(
            self.ledger_path, self.policy, signed(self.policy, 0, 1), allow_filesystem=self.filesystem
        ).close()
        self.listen, self.out = free_port(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.out.bind(("127.0.0.1", 0))
        self.out.setblocking(False)

    @property
    def filesystem(self) -> str:
        """Where the test's folder lies, which may be a tmpfs."""
        return ledger_file.mount_of(self.state)[0]

    def write_signatures(self) -> Any:
        """Sign what POLICY.toml says; return the policy."""
        from bitweir_metering import policy as policies

        policy = policies.parse(self.policy_path.read_bytes())
        signatures = policies.format_signatures(signed(policy, 0, 1))
        policies.signatures_path(self.policy_path).write_bytes(signatures)
        assert set(policy.signers.keys) <= set(PUBLIC)
        return policy

    def start_witness(self, client_user: int | None = None) -> None:
        """Start it, the first time with a new store."""
        command = [sys.executable, "-m", "bitweir_metering.witness_server", str(self.folder / "signed")]
        command += [str(self.witness_socket), "--key", str(self.witness_key)]
        if not (self.folder / "signed").exists():
            command += ["--new", self.policy.lineage, self.policy.link]
        if client_user is not None:
            command += ["--client-user", str(client_user)]
        self.witness = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(self.witness_socket.is_socket)

    def stop_witness(self) -> None:
        """Kill it."""
        assert self.witness is not None
        self.witness.kill()
        self.witness.communicate()
        self.witness_socket.unlink(missing_ok=True)

    @property
    def command(self) -> list[str]:
        """How the gate is started."""
        port = self.outer_port or self.out.getsockname()[1]
        words = [sys.executable, "-m", self.module, str(self.policy_path), "--state", str(self.state)]
        words += ["--inner", str(self.inner), "--listen", f"127.0.0.1:{self.listen}", "--outer", f"127.0.0.1:{port}"]
        words += ["--witness", str(self.witness_socket), "--allow-filesystem", self.filesystem]
        return [*self.prefix, *words, *self.arguments]

    def start_gate(self) -> None:
        """Start it and wait until inner can reach it."""
        self.inner.unlink(missing_ok=True)
        with (self.folder / "gate.log").open("a") as log:
            environment = {**os.environ, **self.environment}
            self.gate = subprocess.Popen(self.command, stderr=log, text=True, env=environment, start_new_session=True)
        wait_for(lambda: self.gate.poll() is not None or self._is_answering())

    def _is_answering(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.inner)) == 0

    def wait_gate(self) -> int:
        """Go on with permits until the gate ends by itself; return its exit code."""
        assert self.gate is not None
        self.run_until(lambda: self.gate.poll() is not None)
        self.receive()
        return int(self.gate.returncode)

    def end_gate(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and return its exit code."""
        assert self.gate is not None
        self.gate.send_signal(number)
        return self.gate.wait(30)

    @property
    def gate_process(self) -> int:
        """The gate's own process, whatever was put before it."""
        assert self.gate is not None
        process = self.gate.pid
        for _ in self.prefix:
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            process = int(children[0]) if children else process
        return process

    def events(self) -> list[dict[str, Any]]:
        """What the gate has said so far, over all its starts."""
        lines = (self.folder / "gate.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def client(self) -> GateClient:
        """Inner's connection to the gate."""
        return GateClient(self.inner)

    def say(self, kind: Control, first: int = 0, second: int = 0) -> None:
        """Send a control message."""
        key = self.outer_key if kind in control.OUTER else self.reconcile_key
        self.out.sendto(control.encode(Message(kind, time.time_ns(), first, second), key), ("127.0.0.1", self.listen))

    def run(self, seconds: float, *, permits: bool = True) -> list[bytes]:
        """Let time go by, with permits; return what has left meanwhile."""
        end, before = time.monotonic() + seconds, len(self.received)
        while time.monotonic() < end:
            if permits:
                self.say(Control.PERMIT)
            time.sleep(0.02)
            self.receive()
        return self.received[before:]

    def receive(self) -> None:
        """Read what has left."""
        while True:
            try:
                self.received.append(self.out.recv(2048))
            except BlockingIOError:
                return

    def run_until(self, is_done: Any, seconds: float = 30) -> None:
        """Let time go by with permits until something is so."""
        end = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < end, self.events()[-5:]
            self.run(0.05)

    @property
    def frames(self) -> list[Frame]:
        """What has left, decoded."""
        return [frame.decode(content, self.outer_key) for content in self.received]

    @property
    def wire_bits(self) -> int:
        """What a meter outside has counted."""
        return sum(frame.wire_bits(content) for content in self.received)

    def report(self) -> Report:
        """What the ledger holds; the gate must not run."""
        return verify(self.ledger_path)

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.gate is not None:
            with contextlib.suppress(ProcessLookupError):  # with what was put before it
                os.killpg(self.gate.pid, signal.SIGKILL)
        for process in (self.gate, self.witness):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            if process is not None and process.stderr is not None:
                process.stderr.close()
        self.out.close()


def wait_for(is_so: Any, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@contextlib.contextmanager
def running(folder: Path, **fields: Any) -> Iterator[World]:
    """A world whose witness and gate run."""
    with World(folder, **fields) as world:
        world.start_witness()
        world.start_gate()
        yield world


CONTROL, TUNNEL, MODEL = TrafficClass.CONTROL, TrafficClass.TUNNEL, TrafficClass.MODEL
