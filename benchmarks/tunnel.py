"""What ssh through the operator tunnel costs in frames and bytes on the wire: `make bench NAME=tunnel`. A minute.

Real ssh and sshd, both ends of the tunnel, a real gate with slots of 20 ms and a witness, as in tests/security; frames
are counted where they arrive. Each figure is the median of several sessions. A login is `ssh ... true` from connecting
to the end, what it costs to open the epoch and to close included. A keystroke is one character typed into `cat` on a
terminal, echoed by the terminal inside, with time enough between two that none share a frame.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from bitweir_metering import frame
from tests.security.running_gate import SLOT_MS
from tests.security.running_tunnel import Tunnel, missing_programs

SEED = 0
LOGINS = 7
KEYSTROKES = 40
TYPING_S = 0.5
SETTLE_S = 1.5
BURST_BYTES = 100_000
FOLDER = Path("runs")


def main() -> None:
    if missing := missing_programs():
        raise SystemExit(f"{', '.join(missing)} not found: apt-get install openssh-client openssh-server")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name, Tunnel(Path(name).resolve()) as tunnel:
        figures: dict[str, Any] = {"slot_ms": SLOT_MS, "openssh": openssh()}
        figures["login"] = login(tunnel)
        figures["keystroke"] = keystroke(tunnel)
        figures["output"] = output(tunnel)
    print(record.write("tunnel", seed=SEED, figures=figures))


def openssh() -> str:
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.strip()


def cost(frames: list[bytes]) -> dict[str, int]:
    """Return how many frames these are, and their bytes: of the frame, and on the wire with its headers."""
    return {
        "frames": len(frames),
        "frame_bytes": sum(len(one) for one in frames),
        "wire_bytes": sum(frame.wire_bits(one) for one in frames) // 8,
    }


def medians(costs: list[dict[str, int]]) -> dict[str, Any]:
    return {"sessions": len(costs), **{name: statistics.median(one[name] for one in costs) for name in costs[0]}}


def login(tunnel: Tunnel) -> dict[str, Any]:
    costs = []
    for _ in range(LOGINS):
        before = len(tunnel.tunnel_frames)
        start = time.perf_counter()
        if tunnel.ssh("true").returncode:
            raise SystemExit(tunnel.log("outer"))
        seconds = time.perf_counter() - start
        time.sleep(SETTLE_S)
        costs.append({**cost(tunnel.tunnel_frames[before:]), "milliseconds": round(1000 * seconds)})
    return medians(costs)


def keystroke(tunnel: Tunnel) -> dict[str, Any]:
    command = tunnel.ssh_command("cat", options=("-tt",))
    costs, echo_ms = [], []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as person:
        if person.stdin is None or person.stdout is None:
            raise SystemExit("no pipes")
        time.sleep(SETTLE_S + 1)
        for _ in range(KEYSTROKES):
            before, start = len(tunnel.tunnel_frames), time.perf_counter()
            os.write(person.stdin.fileno(), b"k")
            if os.read(person.stdout.fileno(), 1) != b"k":
                raise SystemExit("no echo")
            echo_ms.append(round(1000 * (time.perf_counter() - start)))
            time.sleep(TYPING_S)
            costs.append(cost(tunnel.tunnel_frames[before:]))
        os.write(person.stdin.fileno(), b"\n\x04")
        person.stdin.close()
        person.stdout.read()
    time.sleep(SETTLE_S)
    found = medians(costs)
    found["keystrokes"] = found.pop("sessions")
    return {**found, "frames_max": max(one["frames"] for one in costs), "echo_milliseconds": statistics.median(echo_ms)}


def output(tunnel: Tunnel) -> dict[str, Any]:
    """A burst of output: how many bytes leave for each byte that a person reads."""
    path = tunnel.folder / "output"
    path.write_bytes(os.urandom(BURST_BYTES))
    before = len(tunnel.tunnel_frames)
    read = tunnel.ssh(f"cat {path}").stdout
    if len(read) != BURST_BYTES:
        raise SystemExit("not all of it came")
    time.sleep(SETTLE_S)
    found = cost(tunnel.tunnel_frames[before:])
    return {"bytes": BURST_BYTES, **found, "wire_bytes_per_byte": round(found["wire_bytes"] / BURST_BYTES, 3)}


if __name__ == "__main__":
    main()
