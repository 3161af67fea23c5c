"""The odometer: one meter's figure, or that there is none; and nothing that is not of now."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitweir_metering import odometer_commands
from bitweir_metering.meters.reading import Reading
from tests.unit.metering.test_meters import Told, served


def test_it_shows_what_the_meter_says_and_never_an_old_figure() -> None:
    lines: list[str] = []
    meter = Told(Reading(1_000, 63_000, 0, 63, 5), None, Reading(1_000, 63_000, 2, 63, 5))
    with pytest.raises(IndexError):
        odometer_commands.show(meter, lines.append, lambda _: None)
    assert lines == [
        "              63,000 bytes (63 kB), 1,000 packets",
        "NO READING: blind",
        "              63,000 bytes (63 kB), 1,000 packets, 2 MISSED",
    ]


def test_one_reading_as_json(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from bitweir_loadgen.cli import main; main()", "odometer", str(tmp_path / "m")]
    with served(Told(Reading(3, 189, 0, 63, 7)), tmp_path / "m"):
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"drops": 0, "frames": 3, "l2_bytes": 189, "longest": 63, "time_ns": 7}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bitweir: no meter at ")
