"""What inner can say by the moment in a slot at which frames leave: `make bench NAME=timing_channel`. A minute.

A real gate with slots of 20 ms whose queue is full, and beside it a process that sends requests the gate refuses, which
cost nothing, in one of several patterns a slot:

    phase    one request, at a moment of the slot that is the symbol
    flood    requests up to the edge, more of them for a higher symbol
    after    one request after the edge, at a moment that is the symbol: what once released the frame

The kernel's receive times are cut into bins, and the mutual information of symbol and bin is estimated; the bias is
that of shuffled symbols. It is a lower bound on the channel, to be held against the bit a frame that is charged for it.
"""

import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from bitweir_metering import gate_client
from bitweir_metering.control import Control
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.slots import JITTER_BITS
from tests.security.running_gate import SLOT_MS, World, running

SEED = 3
SYMBOLS = 8
FRAMES = 500
BINS = 16
SHUFFLES = 50
PATTERNS = ("phase", "flood", "after")
SLOT_NS = SLOT_MS * 1_000_000
SO_TIMESTAMPNS = 35
FOLDER = Path("runs")


def wait_until(at_ns: int) -> None:
    """Sleep, then spin."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        if left_ns > 1_200_000:
            time.sleep((left_ns - 1_000_000) / 1e9)


def send(path: str, pattern: str) -> None:
    """Be the hostile process; print which symbol was sent for which edge."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(path)
    # Model output without a grant: refused, never charged.
    refused = gate_client.request(TrafficClass.MODEL, 0, Payload(0, 1))
    symbols, draw = {}, random.Random(SEED)  # noqa: S311 - has to be repeatable
    edge = time.monotonic_ns() // SLOT_NS + 10
    for _ in range(FRAMES):
        symbol, start_ns = draw.randrange(SYMBOLS), edge * SLOT_NS
        if pattern == "flood":
            wait_until(start_ns - (symbol + 1) * 400_000)
            while time.monotonic_ns() < start_ns + 50_000 * (symbol + 1):
                client.send(refused)
                client.recv(9)
        else:
            share = (symbol + 0.5) / SYMBOLS
            at_ns = start_ns - int(share * SLOT_NS / 2) if pattern == "phase" else start_ns + int(share * SLOT_NS / 8)
            wait_until(at_ns)
            client.send(refused)
            client.recv(9)
        symbols[edge] = symbol
        edge = max(edge, time.monotonic_ns() // SLOT_NS) + 1
    print(json.dumps(symbols))


def received(world: World, sender: "subprocess.Popen[str]") -> list[int]:
    """Return when frames arrived, on the monotonic clock."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    times_ns: list[int] = []
    while sender.poll() is None:
        world.say(Control.PERMIT)
        time.sleep(0.1)
        while True:
            try:
                _, extra, _, _ = world.out.recvmsg(2048, 256)
            except BlockingIOError:
                break
            seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
            times_ns.append(seconds * 10**9 + nanoseconds - offset_ns)
    return times_ns


def information(pairs: Sequence[tuple[int, int]]) -> float:
    """Return the mutual information of a sample, bits; biased upwards."""
    joint, first, second = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    count = len(pairs)
    return sum(n / count * math.log2(n * count / (first[a] * second[b])) for (a, b), n in joint.items())


def measured(pattern: str) -> dict[str, Any]:
    """Send one pattern through a gate and say what arrived of it."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name, running(Path(name).resolve()) as world:
        world.out.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with world.client() as client:
            for _ in range(999):
                client.submit(TrafficClass.CONTROL, 0, Payload(1, 16))
        command = [sys.executable, "-m", "benchmarks.timing_channel", str(world.inner), pattern]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            times_ns = received(world, sender)
            symbols = {int(edge): symbol for edge, symbol in json.load(sender.stdout).items()}  # type: ignore[arg-type]
    offsets = [(symbols[at // SLOT_NS], at % SLOT_NS) for at in times_ns if at // SLOT_NS in symbols]
    # Bins of equal counts: nothing is known of where the channel would be.
    ranked = {at: BINS * rank // len(offsets) for rank, at in enumerate(sorted(at for _, at in offsets))}
    pairs = [(symbol, ranked[at]) for symbol, at in offsets]
    draw, bins = random.Random(SEED), [one for _, one in pairs]  # noqa: S311 - has to be repeatable
    shuffled = []
    for _ in range(SHUFFLES):
        draw.shuffle(bins)
        shuffled.append(information([(symbol, one) for (symbol, _), one in zip(pairs, bins, strict=True)]))
    bias, found = sum(shuffled) / SHUFFLES, information(pairs)
    middle = sorted(at for _, at in offsets)[len(offsets) // 2]
    return {
        "frames": len(pairs),
        "bits_a_frame": max(0.0, found - bias),
        "estimate_before_bias": found,
        "bias": bias,
        "median_offset_us": middle / 1000,
    }


def main() -> None:
    if len(sys.argv) == 3:
        send(*sys.argv[1:])
        return
    FOLDER.mkdir(exist_ok=True)
    figures: dict[str, Any] = {"slot_ms": SLOT_MS, "charged_bits_a_frame": JITTER_BITS, "symbols": SYMBOLS}
    figures["patterns"] = {pattern: measured(pattern) for pattern in PATTERNS}
    figures["load_average"] = os.getloadavg()[0]
    print(record.write("timing_channel", seed=SEED, figures=figures))


if __name__ == "__main__":
    main()
