"""All processes of a link on one machine, without any rights: both sites, the gate, a witness and the meters.

Nothing is enforced: the processes could reach each other by other ways, and share one user and one kernel.

    inner process --local socket--> gate --UDP--> relay (meter) --UDP--> outer process (API, meter)
    reconciler reads both meters and the witness, and holds the link up

Rules:
1. Everything lies in one folder; sockets, whose names must be short, in a temporary one.
2. What a process writes to stderr is in FOLDER/logs. One that ends is an error, which names its log's last line.
3. `close` ends what was started, and nothing else, in the order in which the ledger stays whole.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bitweir_metering import keys, ledger_file
from bitweir_metering import policy as policies
from bitweir_metering.ledger import Ledger
from bitweir_services.errors import TopologyError

METERS: Final = "meters: application and receiver only; nothing enforced"
START_S: Final = 180.0
STOP_S: Final = 20.0
_GATE_FIRST: Final = ("gate", "inner", "outer", "reconciler", "relay", "witness")
POLICY: Final = """serial = 1
lineage = "{lineage}"
link = "inner-outer"
limit = "{limit}"
rate = "10 Mbit/s"
burst = "1 MiB"
lease = "64 KiB"
min_days = 0
slot_ms = {slot_ms}
epoch_slots = 100
permit_ms = 2000
resends_max = 3
token_ceiling_bits = 64
[models]
strong = {weights_bytes}
[class_limits]
model = "{limit}"
control = "{limit}"
resend = "{limit}"
tunnel = "0 B"
timing = "{limit}"
[signers]
threshold = 1
keys = ["{signer}"]
[witnesses]
threshold = 1
keys = ["{witness}"]
"""


@dataclass
class LocalTopology:
    """See the rules of this file; a context manager.

    Args:
        folder: new; keys, policy, ledger, logs and status go here.
        models: folder of a pair.
        weights_bytes: of the strong model, for the policy.
        slot_ms: of the gate.
        limit: of the link's whole life, as in a policy.
        slots: answers at once.
        silence_s: after so long without a frame, open answers are lost.
        environment: more of it, for the model processes.
    """

    folder: Path
    models: Path
    weights_bytes: int
    slot_ms: int = 20
    limit: str = "100 MB"
    slots: int = 32
    silence_s: float = 120.0
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets = Path(tempfile.mkdtemp(prefix="bw-"))
        self._ports = {name: _free_port() for name in ("api", "control", "down", "frames", "relay")}
        self.state = self.folder / "state"
        self.status_path = self.folder / "status.json"
        self.policy_path = self.folder / "POLICY.toml"

    @property
    def api(self) -> tuple[str, int]:
        """Where the API listens."""
        return "127.0.0.1", self._ports["api"]

    @property
    def ledger_path(self) -> Path:
        """The link's ledger; to be read when the gate has ended."""
        return self.state / "link.ledger"

    @property
    def filesystem(self) -> str:
        """What the ledger lies on; a gate's own list of file systems is not asked here."""
        return ledger_file.mount_of(self.state)[0]

    def __enter__(self) -> "LocalTopology":
        try:
            self._prepare()
            self._start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def check(self) -> None:
        """Look whether everything runs.

        Raises:
            TopologyError: something has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise TopologyError(f"{name} has ended: {self._last_line(name)}", remedy=f"read {self._log(name)}")

    def kill(self, name: str) -> None:
        """Kill one process, as a crash would. For tests and soaks."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End everything, the gate first, so that it can write down what it will not send."""
        for name in _GATE_FIRST:
            process = self._processes.pop(name, None)
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _prepare(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise TopologyError(f"{self.folder} is not empty", remedy="name a new folder")
        self.state.mkdir(parents=True, mode=0o700)
        (self.folder / "logs").mkdir()
        signer = keys.new(self.state / "signer.pem")
        witness = keys.new(self.folder / "witness.pem")
        for name in ("outer", "reconcile"):
            keys.new_shared(self.state / f"{name}.key")
        self.policy_path.write_text(
            POLICY.format(
                lineage="testbed",
                limit=self.limit,
                slot_ms=self.slot_ms,
                weights_bytes=self.weights_bytes,
                signer=signer.hex(),
                witness=witness.hex(),
            )
        )
        policy = policies.parse(self.policy_path.read_bytes())
        private = keys.load(self.state / "signer.pem")
        signatures = {signer: private.sign(policy.message())}
        policies.signatures_path(self.policy_path).write_bytes(policies.format_signatures(signatures))
        Ledger.create(self.ledger_path, policy, signatures, allow_filesystem=self.filesystem).close()
        self._policy = policy

    def _start_all(self) -> None:
        port, at = self._ports, "127.0.0.1"
        witness, inner, meters = (self._sockets / name for name in ("witness", "inner", "meters"))
        meters.mkdir()
        state, folder = str(self.state), self.folder
        new = ["--new", self._policy.lineage, self._policy.link]
        self._start("witness", "metering.witness_server", str(folder / "witness"), str(witness),
                    "--key", str(folder / "witness.pem"), *new)  # fmt: skip
        self._wait("witness", witness.is_socket)
        self._start("relay", "metering.meters.relay", str(meters / "relay"),
                    "--listen", f"{at}:{port['relay']}", "--to", f"{at}:{port['frames']}")  # fmt: skip
        self._start("gate", "metering.gate", str(self.policy_path), "--state", state, "--inner", str(inner),
                    "--listen", f"{at}:{port['control']}", "--outer", f"{at}:{port['relay']}",
                    "--witness", str(witness), "--allow-filesystem", self.filesystem)  # fmt: skip
        self._wait("gate", inner.is_socket)
        self._start("outer", "services.outer_process", str(self.models), "--slots", str(self.slots),
                    "--silence-s", str(self.silence_s),
                    "--frames", f"{at}:{port['frames']}", "--gate", f"{at}:{port['control']}",
                    "--inner", f"{at}:{port['down']}", "--api", f"{at}:{port['api']}",
                    "--key", f"{state}/outer.key", "--meter", str(meters / "application"),
                    "--status", str(self.status_path))  # fmt: skip
        self._start("inner", "services.inner_process", str(self.models), "--slots", str(self.slots),
                    "--listen", f"{at}:{port['down']}", "--gate", str(inner))  # fmt: skip
        self._wait("outer", (meters / "application").is_socket)
        self._start("reconciler", "metering.reconciler", str(self.policy_path), "--key", f"{state}/reconcile.key",
                    "--gate", f"{at}:{port['control']}", "--meter", f"relay={meters / 'relay'}",
                    "--meter", f"application={meters / 'application'}", "--witness", str(witness),
                    "--status", str(self.status_path), "--state", str(folder / "carried.json"),
                    "--carried", "0", "0")  # fmt: skip
        self._wait("inner", lambda: "ready" in self._log("inner").read_text())
        self._wait("reconciler", lambda: self.verdict() == "permit")
        self._wait("outer", self._is_listening)

    def verdict(self) -> str:
        """Return what reconcile said last; empty if nothing yet."""
        with contextlib.suppress(OSError, ValueError):
            document: dict[str, Any] = json.loads(self.status_path.read_bytes())
            return str(document.get("verdict", ""))
        return ""

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.api) == 0

    def _start(self, name: str, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"bitweir_{module}", *arguments]
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own modules, no shell
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                # A terminal's Ctrl-C is for who started this; `close` ends the others in their order.
                start_new_session=True,
            )

    def _wait(self, name: str, is_so: Any, seconds: float = START_S) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            self.check()
            if time.monotonic() > end:
                raise TopologyError(f"{name} is not ready: {self._last_line(name)}", remedy=f"read {self._log(name)}")
            time.sleep(0.02)

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def _free_port() -> int:
    """Return a port that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
