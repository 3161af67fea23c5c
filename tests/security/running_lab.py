"""A link with nothing simulated, for tests: gate, witness, cable, tap, nft, receiver, reconciler, each a process.

The gate lives in one network namespace, the receiving side in another, and the software cable is all that is between.
"""

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import frame
from bitweir_metering import status as statuses
from bitweir_metering.errors import MeterError, StatusError
from bitweir_metering.frame import Frame, Payload
from bitweir_metering.lab import network
from bitweir_metering.lab.meters import NAMES, LinkMeters
from bitweir_metering.lab.network import GATE, INTERFACE, OUTER, Lab, inside
from bitweir_metering.reconcile import Verdict
from tests.security.running_gate import CONTROL, World, wait_for

PERMIT_S = 1.0
# What a busy machine may add to a deadline: from the last permit to the gate's reading of it, and the watcher's own.
MARGIN_S = 0.4


def need_lab() -> None:
    """Skip, with the reason; where CI claims to test it, fail."""
    reason = network.missing()
    if reason and os.environ.get("CI"):
        pytest.fail(f"no lab: {reason}")
    if reason:
        pytest.skip(f"no lab: {reason}")


class LabWorld(World):
    """A gate in a namespace of its own."""

    @property
    def command(self) -> list[str]:
        words = super().command
        for name, end in (("--listen", GATE), ("--outer", OUTER)):
            words[words.index(name) + 1] = f"{end.address}:{end.port}"
        return words


class Site:
    """Both sides of the link and what is between."""

    def __init__(self, folder: Path, lab: Lab, meters: LinkMeters, world: LabWorld) -> None:
        self.folder, self.lab, self.meters, self.world = folder, lab, meters, world
        self.reconciler: subprocess.Popen[bytes] | None = None

    def start_reconciler(self, *extra: str) -> None:
        """Start it; `--carried 0 0` for a new link."""
        words = [*inside(self.lab.outer), sys.executable, "-m", "bitweir_metering.reconciler"]
        words += [str(self.world.policy_path), "--key", str(self.world.state / "reconcile.key")]
        words += ["--gate", f"{GATE.address}:{GATE.port}", "--witness", str(self.world.witness_socket)]
        words += ["--status", str(self.folder / "status"), "--state", str(self.folder / "carried"), *extra]
        for name in NAMES:
            words += ["--meter", f"{name}={self.meters.path(name)}"]
        with (self.folder / "reconciler.log").open("ab") as log:
            self.reconciler = subprocess.Popen(words, stderr=log)

    def kill_reconciler(self) -> None:
        """End it without warning."""
        if self.reconciler:
            self.reconciler.kill()
            self.reconciler.wait()

    @property
    def status(self) -> statuses.Status | None:
        """What reconciliation has written last."""
        try:
            return statuses.read(self.folder / "status")
        except StatusError:
            return None

    def wait_verdict(self, verdict: Verdict, seconds: float = 30) -> statuses.Status:
        """Wait until reconciliation says so."""
        end = time.monotonic() + seconds
        while not ((found := self.status) and found.verdict is verdict):
            assert time.monotonic() < end, (found, (self.folder / "reconciler.log").read_text())
            time.sleep(0.02)
        return found

    def submit(self, count: int) -> None:
        """Hand so many payloads to the gate, through its local socket."""
        with self.world.client() as client:
            for number in range(count):
                client.submit(CONTROL, 0, Payload(number, 20))

    @property
    def contents(self) -> list[bytes]:
        """What the receiver was given, frame by frame."""
        kept, found = self.meters.received.read_bytes(), []
        while kept:
            length = int.from_bytes(kept[:2], "big")
            found.append(kept[2 : 2 + length])
            kept = kept[2 + length :]
        return found

    @property
    def frames(self) -> list[Frame]:
        """Likewise, decoded."""
        return [frame.decode(content, self.world.outer_key) for content in self.contents]

    def wait_received(self, count: int, seconds: float = 60) -> None:
        """Wait until the receiver has so many frames."""
        end = time.monotonic() + seconds
        while len(self.contents) < count:
            assert time.monotonic() < end, (len(self.contents), self.status, self.world.events()[-3:])
            time.sleep(0.05)

    def last_frame_s(self, since: float, watch_s: float, meter: str = "cable") -> float:
        """Watch a meter for some time; return how long after `since` the last frame passed it."""
        last, count = since, -1
        while time.monotonic() < since + watch_s:
            with contextlib.suppress(MeterError):
                found = self.meters.read(meter).frames
                if found != count and count >= 0:
                    last = time.monotonic()
                count = found
            time.sleep(0.01)
        return last - since

    def wait_equal(self, seconds: float = 10) -> dict[str, tuple[int, int]]:
        """Return what all meters have counted, once it is the same."""
        end = time.monotonic() + seconds
        while len(set((counts := self.meters.counts()).values())) > 1:
            assert time.monotonic() < end, counts
            time.sleep(0.02)
        return counts


@contextlib.contextmanager
def running_lab(folder: Path, **fields: Any) -> Iterator[tuple[Lab, LinkMeters]]:
    """The namespaces, the cable and the meters."""
    need_lab()
    with Lab() as lab, LinkMeters(lab, folder, **fields) as meters:
        yield lab, meters


@contextlib.contextmanager
def running_site(folder: Path, **fields: Any) -> Iterator[Site]:
    """All of it, and the link up."""
    with running_lab(folder, **fields) as (lab, meters):
        world = LabWorld(folder, prefix=inside(lab.gate), changes={"permit_ms": int(PERMIT_S * 1000)})
        site = Site(folder, lab, meters, world)
        with world:
            world.start_witness()
            world.start_gate()
            site.start_reconciler("--carried", "0", "0")
            try:
                site.wait_verdict(Verdict.PERMIT)
                assert world.gate is not None
                assert world.gate.poll() is None, (folder / "gate.log").read_text()
                yield site
            finally:
                site.kill_reconciler()


def in_gate(lab: Lab, code: str, *words: str, seconds: float = 60) -> str:
    """Run Python as root in the gate's namespace; return what it prints."""
    command = [*inside(lab.gate), sys.executable, "-c", code, *words]
    return subprocess.run(command, check=True, timeout=seconds, capture_output=True, text=True).stdout


# Canonical packets, by the kernel's own UDP, up to so many bytes on the wire.
PLAIN_SENDER = """
import os, socket, sys, time
count, size, pause_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IP, 10, 3)
sender.bind(("10.77.0.1", 7001))
content = os.urandom(size)
for number in range(count):
    sender.sendto(content, ("10.77.0.2", 7002))
    if pause_s and number % 32 == 31:
        time.sleep(pause_s)
"""

# Any packets, past the queues and rules of the sender's own kernel.
RAW_SENDER = """
import socket, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.setsockopt(263, 20, 1)  # PACKET_QDISC_BYPASS
raw.bind(("link", 0))
for line in sys.argv[2:]:
    for _ in range(int(sys.argv[1])):
        raw.send(bytes.fromhex(line))
        time.sleep(0.001)
"""


class Capture:
    """tcpdump beside the receiver: a program that shares no code with the meters."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.path = path
        command = [*inside(lab.outer), "tcpdump", "-i", INTERFACE, "-Q", "in", "-n", "-U", "-w", str(path)]
        command += ["--immediate-mode", "-B", "65536", "-Z", "root"]
        with path.with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(lambda: "listening" in path.with_suffix(".log").read_text())

    def counts(self) -> tuple[int, int]:
        """End it; return packets, and their bytes on the wire, as the file says."""
        time.sleep(0.2)
        self.process.terminate()
        self.process.wait(10)
        content, at, packets, total = self.path.read_bytes(), 24, 0, 0
        while at < len(content):
            captured, original = struct.unpack_from("=II", content, at + 8)
            packets, total, at = packets + 1, total + original, at + 16 + captured
        return packets, total
