"""The ledger when its machine fails: killed, without power, with a broken or full disk. Each oracle must also fail.

An oracle that finds nothing in the right order proves something only because it finds the wrong order, or weaker
settings, every time.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitweir_metering.errors import LedgerError
from bitweir_metering.ledger import verify
from tests.security import disk_images
from tests.security.ledger_sender import ROOMY, SEND_BITS, SENT, send
from tests.unit.metering.example_ledger import created, forked, opened

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("ledger-crash")]

KILLS = 240
# One ledger takes so many kills, so that opening it stays quick.
KILLS_OF_ONE_LEDGER = 40
SENDS = 240
SENDS_OF_WEAKER = 80
RECORDERS = [
    *(["strace"] if disk_images.has_strace() else []),
    *(["shim"] if disk_images.has_compiler() else []),
]


def test_there_is_a_way_to_watch_the_disk() -> None:
    assert RECORDERS, "install strace, or a C compiler as `cc`: without them nobody can watch what a process writes"


# Killed.


def killed_once(path: Path, order: str, generator: random.Random) -> int:
    """Start a sender, kill it at some moment, and return how often it sent."""
    reader, writer = os.pipe()
    child = forked()
    if child == 0:
        try:
            ledger = opened(path)
            while True:
                send(ledger, writer, order)
        finally:
            os._exit(1)
    os.close(writer)
    select.select([reader], [], [], 30)
    time.sleep(generator.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the sender ended by itself"
    with os.fdopen(reader, "rb") as pipe:
        return len(pipe.read()) // len(SENT)


def reserved(path: Path) -> int:
    """Bits that a ledger holds, which must be sound."""
    report = verify(path)
    assert report.ok, report.problems
    return report.totals.wire_bits


def after_kills(folder: Path, order: str, violations_max: int) -> tuple[int, int, int]:
    """Kill KILLS senders, or until that many had reserved less than they sent.

    Return how many had, how often all sent, and the most that one reserved in vain.
    """
    generator = random.Random(11)
    violations, sends, most_lost_bits = 0, 0, 0
    for kill in range(KILLS):
        if violations == violations_max:
            break
        path = folder / f"{kill // KILLS_OF_ONE_LEDGER}.ledger"
        if kill % KILLS_OF_ONE_LEDGER == 0:
            created(path, ROOMY).close()
        before_bits = reserved(path)
        count = killed_once(path, order, generator)
        surplus_bits = reserved(path) - before_bits - count * SEND_BITS
        violations += surplus_bits < 0
        most_lost_bits = max(most_lost_bits, surplus_bits)
        sends += count
    return violations, sends, most_lost_bits


def test_a_killed_process_has_reserved_what_it_sent(tmp_path: Path) -> None:
    violations, sends, most_lost_bits = after_kills(tmp_path, "reserve-first", violations_max=KILLS)
    assert violations == 0
    assert sends > KILLS
    assert most_lost_bits <= SEND_BITS


def test_the_other_order_fails_the_same_test(tmp_path: Path) -> None:
    # A kill leaves the page cache, so only the moment between sending and writing is caught, about one kill in ten.
    violations, _, _ = after_kills(tmp_path, "send-first", violations_max=3)
    assert violations == 3


# Without power.


def power_losses(
    folder: Path, root: Path, recorder: str, order: str, synchronous: str, *, sends: int
) -> tuple[int, int, int]:
    """Return images, images that hold less than was sent, and images of torn writes that do."""
    made, record, image = folder / "made", folder / "record", folder / "image"
    made.mkdir()
    path = made / "link.ledger"
    command = [sys.executable, "-m", "tests.security.ledger_sender", str(path), order, synchronous, str(sends)]
    assert disk_images.recorded(recorder, command, record, root) == sends * len(SENT)
    generator = random.Random(13)
    count, least, torn = 0, 0, 0
    for count, disk in enumerate(disk_images.images(record, made), start=1):
        disk_images.write_image(disk.least(), image)
        least += held(image / path.name) < count * SEND_BITS
        disk_images.write_image(disk.torn(generator), image)
        torn += held(image / path.name) < count * SEND_BITS
    return count, least, torn


def held(path: Path) -> int:
    """Bits that an image of the disk holds; a ledger that is missing or unsound holds none, and nobody starts on it."""
    report = verify(path)
    return report.totals.wire_bits if report.ok else 0


@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_machine_that_lost_power_has_reserved_what_it_sent(
    tmp_path: Path, repository_root: Path, recorder: str
) -> None:
    assert power_losses(tmp_path, repository_root, recorder, "reserve-first", "FULL", sends=SENDS) == (
        SENDS,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("order", "synchronous"), [("reserve-first", "NORMAL"), ("reserve-first", "OFF"), ("send-first", "FULL")]
)
@pytest.mark.parametrize("recorder", RECORDERS)
def test_weaker_settings_and_the_other_order_fail_the_same_test(
    tmp_path: Path, repository_root: Path, recorder: str, order: str, synchronous: str
) -> None:
    sends, least, torn = power_losses(tmp_path, repository_root, recorder, order, synchronous, sends=SENDS_OF_WEAKER)
    assert sends == SENDS_OF_WEAKER
    assert least > sends * 9 // 10
    assert torn > 0


# A broken disk, a full disk.


def run_sender(command: list[str], root: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """Return how often a sender sent, and its two messages."""
    result = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, check=False, timeout=120
    )
    lines = [line for line in result.stderr.decode().splitlines() if "ledger" in line]
    assert len(lines) == 2, result.stderr.decode()
    return len(result.stdout) // len(SENT), lines[0], lines[1]


@pytest.mark.parametrize("recorder", RECORDERS)
# The first of these hits a commit, the others the log's sync and the file's sync of a checkpoint.
@pytest.mark.parametrize("first_failure", [5, 17, 18])
def test_an_error_of_fdatasync_closes_the_ledger_and_nothing_is_sent_after_it(
    tmp_path: Path, repository_root: Path, recorder: str, first_failure: int
) -> None:
    path = tmp_path / "link.ledger"
    created(path, ROOMY).close()
    command = [sys.executable, "-m", "tests.security.ledger_sender", str(path), "reserve-first", "FULL", "100"]
    environment = {}
    if recorder == "strace":
        inject = f"inject=fdatasync:error=EIO:when={first_failure}+"
        command = ["strace", "-f", "-e", "trace=fdatasync", "-e", inject, "-o", os.devnull, *command]
    else:
        library = disk_images.compiled_shim(tmp_path)
        environment = {"LD_PRELOAD": str(library), "DISK_SHIM_FAIL": str(first_failure)}
    sends, first, second = run_sender(command, repository_root, environment)
    assert "disk I/O error" in first
    assert "is closed: a commit failed" in second
    assert 0 < sends < 100
    assert reserved(path) in {sends * SEND_BITS, (sends + 1) * SEND_BITS}
    with opened(path) as ledger:
        send(ledger, os.open(os.devnull, os.O_WRONLY), "reserve-first")


FULL_DISK = """
set -e
mount -t tmpfs -o size=256k none "$1"
head -c 150000 /dev/zero > "$1/ballast"
"$2" -m tests.security.ledger_sender "$1/link.ledger" reserve-first FULL 1000
cp "$1"/link.ledger* "$3"
"""


def namespace() -> list[str] | None:
    """How to get a mount namespace of one's own here, if at all."""
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return None


def test_a_full_disk_closes_the_ledger_and_what_was_granted_is_there(tmp_path: Path, repository_root: Path) -> None:
    command = namespace()
    if command is None:
        pytest.skip("needs a mount namespace; tests/unit/metering/test_ledger_faults.py has a limit on file sizes")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    sends, first, second = run_sender(
        [*command, "sh", "-c", FULL_DISK, "sh", str(small), sys.executable, str(kept)], repository_root, {}
    )
    assert "full" in first
    assert "is closed: a commit failed" in second
    assert 0 < sends < 1000
    assert reserved(kept / "link.ledger") in {sends * SEND_BITS, (sends + 1) * SEND_BITS}


def test_a_ledger_whose_log_was_removed_at_rest_is_only_an_older_one(tmp_path: Path) -> None:
    """What the file cannot know, stated here so that nobody thinks it can: the witness must."""
    path = tmp_path / "link.ledger"
    created(path, ROOMY).close()
    killed_once(path, "reserve-first", random.Random(1))
    before_bits = reserved(path)
    path.with_name(path.name + "-wal").unlink()
    assert reserved(path) < before_bits
    with pytest.raises(LedgerError, match="exists"):
        created(path, ROOMY)
