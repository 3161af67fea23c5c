"""Every command of the README runs, in order, with a small size. Its tests are left out: one of them is this."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.pair import needs_pair, tiny_pair

pytestmark = [pytest.mark.system, needs_pair]


def commands(readme: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", readme, flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_readme_commands_run(repository_root: Path) -> None:
    tiny_pair(repository_root)
    if not list((repository_root / ".venv").glob(".installed-*")):
        pytest.skip("the checkout has no .venv made by make")
    found = commands((repository_root / "README.md").read_text())
    assert "make test" in found
    assert any(command.startswith("make demo") for command in found)
    for command in found:
        if command in ("make test", "make test-system"):
            continue
        small = re.sub(r"SIZE=\d+", "SIZE=5", command)
        result = subprocess.run(small, shell=True, cwd=repository_root, capture_output=True, text=True, check=False)  # noqa: S602
        assert result.returncode == 0, f"{small}\n{result.stderr[-2000:]}"
