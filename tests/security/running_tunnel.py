"""A real operator tunnel for tests and figures: sshd, both ends, a real gate and witness, and ssh to go through it.

What leaves the gate passes a relay here, which counts it before the outer end gets it: the meter of the receiving side.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from bitweir_metering import frame, keys
from bitweir_metering.frame import TrafficClass
from tests.security.running_gate import SLOT_MS, World, free_port, wait_for

PROGRAMS = ("ssh", "sshd", "ssh-keygen")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SSHD_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/person.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
"""


def missing_programs() -> list[str]:
    """Which programs of OpenSSH are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_tcp_port() -> int:
    """A TCP port that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Tunnel:
    """Everything that runs, in one folder. `world` is the gate's side of it.

    Args:
        folder: an empty one, on a disk.
        tunnel_limit: the sub-cap of class TUNNEL.
        arguments: more for both ends.
        changes: of the policy.
    """

    def __init__(
        self, folder: Path, *, tunnel_limit: str = "100 MB", arguments: tuple[str, ...] = (), **changes: Any
    ) -> None:
        self.folder = folder
        limits = dict.fromkeys(("model", "control", "resend", "timing"), "100 MB") | {"tunnel": tunnel_limit}
        self.world = World(folder, changes={"class_limits": limits, **changes})
        self.arguments = ["--pace-ms", str(SLOT_MS), *arguments]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.key = folder / "tunnel.key"
        keys.new_shared(self.key)
        self.sshd_port, self.ssh_port = free_tcp_port(), free_tcp_port()
        self.frames_port, self.down_port = free_port(), free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self._relayed = 0
        self._is_over = threading.Event()
        self._relay = threading.Thread(target=self._run_relay)
        self.is_relaying = True

    def __enter__(self) -> "Tunnel":
        try:
            self.world.start_witness()
            self.world.start_gate()
            self._start_sshd()
            self._start_ends()
        except BaseException:
            self._stop()
            raise
        self._relay.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        self._stop()

    def finish(self) -> None:
        """Stop relaying: what was received stays as it is."""
        self._is_over.set()
        if self._relay.is_alive():
            self._relay.join()

    def _stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
            process.wait(30)
        self.world.__exit__(None, None, None)

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _start_sshd(self) -> None:
        keygen = shutil.which("ssh-keygen", path=PATH)
        for name in ("host", "person"):
            command = [str(keygen), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
            subprocess.run(command, check=True)
        host = (self.folder / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.ssh_port} {host}")
        config = self.folder / "sshd_config"
        config.write_text(SSHD_CONFIG.format(port=self.sshd_port, folder=self.folder))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself in
        self._start("sshd", [str(shutil.which("sshd", path=PATH)), "-D", "-e", "-f", str(config)])
        wait_for(lambda: answers(self.sshd_port))

    def _start_ends(self) -> None:
        ends = [sys.executable, "-m", "bitweir_metering.tunnel_ends"]
        inner = ["--gate", str(self.world.inner), "--listen", f"127.0.0.1:{self.down_port}"]
        inner += ["--to", f"127.0.0.1:{self.sshd_port}", "--key", str(self.key)]
        outer = ["--listen", f"127.0.0.1:{self.ssh_port}", "--frames", f"127.0.0.1:{self.frames_port}"]
        outer += ["--gate", f"127.0.0.1:{self.world.listen}", "--down", f"127.0.0.1:{self.down_port}"]
        outer += ["--frame-key", str(self.world.state / "outer.key"), "--key", str(self.key)]
        self._start("inner", [*ends, "inner", *inner, *self.arguments])
        self._start("outer", [*ends, "outer", *outer, *self.arguments])
        wait_for(lambda: all('"ready"' in self.log(name) for name in ("inner", "outer")))

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.folder / f"{name}.log").read_text()

    def _run_relay(self) -> None:
        while not self._is_over.is_set():
            self.world.run(0.01)
            if not self.is_relaying:
                continue
            while self._relayed < len(self.world.received):
                self.world.out.sendto(self.world.received[self._relayed], ("127.0.0.1", self.frames_port))
                self._relayed += 1

    @property
    def tunnel_frames(self) -> list[bytes]:
        """The frames of class TUNNEL that were received so far, as they were."""
        return [one for one in list(self.world.received) if one[0] >> 3 & 7 == TrafficClass.TUNNEL]

    @property
    def tunnel_bits(self) -> int:
        """What they take on the wire."""
        return sum(frame.wire_bits(one) for one in self.tunnel_frames)

    def ssh_command(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """How ssh is started to run a command inside."""
        command = [str(shutil.which("ssh", path=PATH)), "-F", "none", "-i", str(self.folder / "person")]
        for option in (
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=none",
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
        ):
            command += ["-o", option]
        return [*command, *options, "-p", str(self.ssh_port), f"{self.user}@127.0.0.1", *words]

    def ssh(self, *words: str, content: bytes = b"", timeout_s: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run a command inside."""
        command = self.ssh_command(*words)
        return subprocess.run(command, input=content, capture_output=True, timeout=timeout_s, check=False)
