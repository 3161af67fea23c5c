"""How fast the meters of a real link are: the cable with the longest packets, the tap with the shortest. Linux, root.

Part of `make bench NAME=metering`. Both in the lab's namespaces, beside whatever else runs on this machine:

1. Cable: root of the gate's namespace sends as fast as it can; the receiving interface drops what came, after its
   counter. Bits a second, and bits a second of the process's own CPU time, which is what a core of its own would give.
2. Tap: packets written into the receiver's TAP interface as fast as one process can; what the tap counted until it had
   all, with no drops.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitweir_metering import wire
from bitweir_metering.lab import network
from bitweir_metering.lab.meters import LinkMeters
from bitweir_metering.lab.network import INTERFACE, Lab, inside
from bitweir_metering.meters.cable import open_tap

REPEATS = 5
CABLE_S = 2.0
TAP_FRAMES = 100_000
LONGEST, SHORTEST = bytes(1037), bytes(21)
SENDER = """
import socket, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.setsockopt(263, 20, 1)
raw.bind((sys.argv[1], 0))
packet, send = bytes.fromhex(sys.argv[2]), raw.send
while True:
    try:
        send(packet)
    except OSError:
        time.sleep(0.001)  # the interface's queue is full, which is many packets
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(process: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def cable_bits(lab: Lab, meters: LinkMeters) -> tuple[float, float]:
    """Return bits a second through the cable, and bits a second of its CPU time.

    Raises:
        SystemExit: the kernel counted something else.
    """
    packet = wire.encode(lab.route, LONGEST).hex()
    with subprocess.Popen([*inside(lab.gate), sys.executable, "-c", SENDER, INTERFACE, packet]) as sender:
        time.sleep(0.3)
        process = meters.processes["cable"].pid
        start, start_cpu = meters.read("cable"), cpu_s(process)
        time.sleep(CABLE_S)
        end, end_cpu = meters.read("cable"), cpu_s(process)
        sender.kill()
    time.sleep(0.3)
    if meters.read("cable").l2_bytes != meters.read("nft").l2_bytes:
        raise SystemExit("cable and kernel disagree: nothing to report")
    bits = 8 * (end.l2_bytes - start.l2_bytes)
    return bits / (end.time_ns - start.time_ns) * 1e9, bits / (end_cpu - start_cpu)


def tap_rate(write: Callable[[], object], meters: LinkMeters) -> float:
    """Return frames a second that the tap counted.

    Raises:
        SystemExit: it missed some.
    """
    before = meters.read("tap").frames
    start = time.perf_counter()
    for _ in range(TAP_FRAMES):
        write()
    while (found := meters.read("tap")).frames < before + TAP_FRAMES and not found.drops:
        time.sleep(0.001)
    seconds = time.perf_counter() - start
    if found.drops:
        raise SystemExit(f"the tap missed {found.drops} frames: nothing to report")
    return TAP_FRAMES / seconds


def measure() -> dict[str, Any]:
    """Return both figures; None and the reason where there can be no lab."""
    if reason := network.missing():
        return {"cable_mbit_per_s": None, "tap_frames_per_s": None, "link_reason": reason}
    with tempfile.TemporaryDirectory() as folder, Lab() as lab:
        meters = LinkMeters(lab, Path(folder), line_rate="100 Gbit/s", budget_bytes=0)
        try:
            for name in ("nft", "cable"):
                meters.start(name)
            cable = [cable_bits(lab, meters) for _ in range(REPEATS)]
            meters.kill("cable")
            meters.start("tap")
            descriptor, packet = open_tap(lab.outer, INTERFACE), wire.encode(lab.route, SHORTEST)
            tap = [tap_rate(lambda: os.write(descriptor, packet), meters) for _ in range(REPEATS)]
            os.close(descriptor)
        finally:
            meters.close()
    return {
        "cable_mbit_per_s": statistics.median(one for one, _ in cable) / 1e6,
        "cable_mbit_per_cpu_s": statistics.median(one for _, one in cable) / 1e6,
        "tap_frames_per_s": statistics.median(tap),
    }


if __name__ == "__main__":
    print(measure())
