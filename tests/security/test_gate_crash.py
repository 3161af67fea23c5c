"""The gate when it is killed or its machine loses power: what left was reserved. A gate that sends first fails this.

One lease holds few frames here, so that kills fall into all of its work.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from bitweir_metering import frame
from bitweir_metering.errors import MeteringError
from bitweir_metering.frame import Payload
from bitweir_metering.ledger import verify
from tests.security import disk_images
from tests.security.running_gate import CONTROL, World

pytestmark = pytest.mark.system
KILLS = 200
# Killed worlds pile up entries, and opening a ledger reads all of them.
KILLS_OF_ONE_WORLD = 50
SENDS = 220
CHANGES = {"lease": "1300 B", "slot_ms": 5, "epoch_slots": 20}
PAYLOADS = 200


def fill(world: World) -> None:
    """Hand payloads over until no more are taken."""
    try:
        with world.client() as client:
            for number in range(PAYLOADS):
                client.submit(CONTROL, 0, Payload(number, 20))
    except MeteringError:
        pass  # killed, or enough


def kill_often(folder: Path, kills: int, module: str, *, violations_max: int) -> tuple[int, int, int]:
    """Kill a gate at random moments. Return kills after which less was reserved than sent, frames, most lost bits."""
    generator = random.Random(5)
    violations, frames, most_lost_bits = 0, 0, 0
    with World(folder, changes=CHANGES, module=module) as world:
        world.start_witness()
        for _ in range(kills):
            if violations == violations_max:
                break
            reserved_before, sent_before = world.report().totals.wire_bits, world.wire_bits
            world.start_gate()
            fill(world)
            world.run(0.02 + 0.1 * generator.random())
            world.end_gate(signal.SIGKILL)
            world.receive()
            report = world.report()
            assert report.ok, report.problems
            violations += report.totals.wire_bits < world.wire_bits
            most_lost_bits = max(
                most_lost_bits, report.totals.wire_bits - reserved_before - (world.wire_bits - sent_before)
            )
        frames = len(world.received)
        assert len({f.sequence for f in world.frames}) == frames
    return violations, frames, most_lost_bits


@pytest.mark.parametrize("part", range(KILLS // KILLS_OF_ONE_WORLD))
def test_a_killed_gate_has_reserved_what_it_sent(tmp_path: Path, part: int) -> None:
    del part
    violations, frames, most_lost_bits = kill_often(
        tmp_path, KILLS_OF_ONE_WORLD, "bitweir_metering.gate", violations_max=KILLS
    )
    assert violations == 0
    assert frames > KILLS_OF_ONE_WORLD
    # What a kill wastes: a lease of each class in use and one that was just granted.
    assert most_lost_bits <= 6 * 1300 * 8


def test_a_gate_that_sends_first_fails_the_same_test(tmp_path: Path) -> None:
    violations, _, _ = kill_often(tmp_path, 20, "tests.security.hasty_gate", violations_max=3)
    assert violations == 3


def power_losses(folder: Path, module: str) -> tuple[int, int, int]:
    """Return sends, and images of the disk at a send that hold less than had left, whole and with torn writes."""
    record, image = folder / "record", folder / "image"
    trace = ["strace", "-f", "-xx", "-s", "1000000", "-e", f"trace={disk_images.TRACED}", "-o", str(record)]
    with World(folder, prefix=trace, changes=CHANGES, module=module) as world:
        made = folder / "made"
        shutil.copytree(world.state, made)
        world.start_witness()
        world.start_gate()
        end = time.monotonic() + 90
        while len(world.received) < SENDS and time.monotonic() < end:
            fill(world)
            world.run(0.5)
        os.kill(world.gate_process, signal.SIGKILL)
        assert world.gate is not None
        world.gate.wait(30)
        world.receive()
        start = disk_images.Disk(str(world.state))
        for path in made.iterdir():
            file = disk_images.File(path.read_bytes(), bytearray(path.read_bytes()))
            start.names[str(world.state / path.name)] = start.durable_names[str(world.state / path.name)] = file
        generator = random.Random(7)
        sends = least = torn = sent_bits = 0
        for sends, disk in enumerate(disk_images.images(record, world.state, start), start=1):
            sent_bits += frame.wire_bits(world.received[sends - 1]) if sends <= len(world.received) else 0
            disk_images.write_image(disk.least(), image)
            least += held(image / "link.ledger") < sent_bits
            disk_images.write_image(disk.torn(generator), image)
            torn += held(image / "link.ledger") < sent_bits
            if sends == SENDS:
                break
    return sends, least, torn


def held(path: Path) -> int:
    """Bits that an image holds; nobody starts on a ledger that is missing or unsound."""
    report = verify(path)
    return report.totals.wire_bits if report.ok else 0


needs_strace = pytest.mark.skipif(not disk_images.has_strace(), reason="test_ledger_crash.py has another way")


@needs_strace
def test_a_gate_whose_machine_lost_power_has_reserved_what_it_sent(tmp_path: Path) -> None:
    assert power_losses(tmp_path, "bitweir_metering.gate") == (SENDS, 0, 0)


@needs_strace
def test_a_gate_that_sends_first_has_not(tmp_path: Path) -> None:
    sends, least, _ = power_losses(tmp_path, "tests.security.hasty_gate")
    assert sends == SENDS
    assert least > SENDS // 2
