"""The processes of a lab's link: cable, tap, nft and the simplest receiver, each answering at a socket in one folder.

Started in the order that leaves no packet uncounted: first who counts, last who carries.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from bitweir_metering.errors import LabError, MeterError
from bitweir_metering.lab.network import GATE, INTERFACE, OUTER, Lab, inside
from bitweir_metering.meters.reading import MeterClient, Reading
from bitweir_metering.meters.serving import format_end

NAMES: Final = ("application", "nft", "tap", "cable")
_START_S: Final = 10.0
_END_S: Final = 5.0


class LinkMeters:
    """A context that starts and ends them.

    Args:
        lab: set up.
        folder: for their sockets, what they say, and what was received.
        line_rate: of the cable, as people write it.
        budget_bytes: L2 bytes of the link's life, for the kernel's quota.
        cable: the module that is the cable; tests put a faulty one here.
        arguments: more for it.
        clock: in nanoseconds, for how long to wait.
        sleep: waits so many seconds.

    Raises:
        LabError: one of them does not start.
    """

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        *,
        line_rate: str = "100 Mbit/s",
        budget_bytes: int = 1 << 40,
        cable: str = "bitweir_metering.meters.cable",
        arguments: tuple[str, ...] = (),
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._lab, self._folder, self._clock, self._sleep = lab, folder, clock, sleep
        self._module, self._arguments = cable, arguments
        self._line_rate, self._budget_bytes = line_rate, budget_bytes
        self.received = folder / "received"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "LinkMeters":
        try:
            for name in NAMES:
                self.start(name)
        except LabError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def path(self, name: str) -> Path:
        """Return the socket of a meter."""
        return self._folder / f"{name}.meter"

    def start(self, name: str) -> None:
        """Start one meter and wait until it answers.

        Raises:
            LabError: it does not.
        """
        log = self._folder / f"{name}.log"
        with log.open("ab") as said:
            self.processes[name] = subprocess.Popen(self.command(name), stderr=said)  # noqa: S603 - our own program
        end_ns = self._clock() + int(_START_S * 1e9)
        while self._clock() < end_ns and self.processes[name].poll() is None:
            try:
                self.read(name)
            except MeterError:
                self._sleep(0.01)
            else:
                return
        raise LabError(f"{name} does not answer: {log.read_text()[-300:]}", remedy=f"see {log}")

    def command(self, name: str) -> list[str]:
        """Return how a meter is started."""
        ends = {"gate": format_end(GATE), "outer": format_end(OUTER)}
        if name == "cable":
            words = [sys.executable, "-m", self._module, str(self.path(name)), "--line-rate", self._line_rate]
            for side, namespace in (("gate", self._lab.gate), ("outer", self._lab.outer)):
                words += [f"--{side}-tap", f"{namespace}/{INTERFACE}", f"--{side}", ends[side]]
            return [*words, *self._arguments]
        words = [*inside(self._lab.outer), sys.executable, "-m", f"bitweir_metering.meters.{name}"]
        words += [str(self.path(name))]
        if name == "application":
            return [*words, "--listen", f"{OUTER.address}:{OUTER.port}", "--keep", str(self.received)]
        words += ["--interface", INTERFACE]
        if name == "nft":
            words += ["--source", ends["gate"], "--target", ends["outer"], "--budget-bytes", str(self._budget_bytes)]
        return words

    def read(self, name: str) -> Reading:
        """Return what a meter has counted.

        Raises:
            MeterError: it does not answer, or cannot tell.
        """
        client = MeterClient(self.path(name))
        try:
            return client.read()
        finally:
            client.close()

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return frames and L2 bytes by meter.

        Raises:
            MeterError: one cannot tell.
        """
        found = {name: self.read(name) for name in NAMES}
        return {name: (reading.frames, reading.l2_bytes) for name, reading in found.items()}

    def kill(self, name: str) -> None:
        """End one of them without warning."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
