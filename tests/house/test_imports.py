"""Imports go one way, the contracts that say so can fail, and asking for help loads nothing heavy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

HEAVY = frozenset({"kubernetes", "ray", "torch", "transformers", "vllm"})
LINTER = Path(sys.executable).with_name("lint-imports")
# What runs the command line and then names every top-level module that was loaded, on the last line.
LOADED = """
import sys
try:
{body}
except SystemExit as stop:
    if stop.code:
        raise
sys.stdout.flush()
sys.stdout.write("\\n" + " ".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def lint(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of the pyproject.toml in `folder`."""
    command = [str(LINTER), "--no-cache", "--no-logo"]
    environment = {"COLUMNS": "200", **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def loaded_by(body: str) -> set[str]:
    """Return the top-level modules a fresh interpreter holds after running `body`."""
    program = LOADED.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


@pytest.fixture
def copy_of_packages(tmp_path: Path) -> Path:
    """Return a folder with a copy of pyproject.toml and the Python files of the five packages."""
    for name in ["pyproject.toml", *tree.library_files()]:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree.ROOT / name, target)
    return tmp_path


def environment_of(folder: Path) -> dict[str, str]:
    """Return an environment in which the packages are those of `folder`, not the installed ones."""
    paths = os.pathsep.join(str(folder / package_folder) for package_folder in tree.PACKAGES.values())
    return {**os.environ, "PYTHONPATH": paths}


def test_import_contracts_hold() -> None:
    result = lint(tree.ROOT, dict(os.environ))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("folder", "source", "broken"),
    [
        ("compression", "import bitweir_services\n", "Imports go one way BROKEN"),
        ("compression", "import bitweir_metering\n", "Imports go one way BROKEN"),
        ("services", "def f() -> None:\n    import bitweir_loadgen\n", "Imports go one way BROKEN"),
        ("metering", "import numpy\n", "The meter depends on the standard library"),
        ("metering", "from torch import nn\n", "The meter depends on the standard library"),
        ("metering", "from typer import echo\n", "The meter depends on the standard library"),
        ("metering", "import prometheus_client\n", "The meter depends on the standard library"),
        ("metering", "from bitweir_metering import commands\n", "Nothing imports the meter's commands"),
        ("metering", "from bitweir_metering import export\n", "Nothing imports the metrics exporter"),
        ("compression", "from ray import serve\n", "Compression is pure: no serving stack BROKEN"),
    ],
)
def test_import_contracts_can_fail(copy_of_packages: Path, folder: str, source: str, broken: str) -> None:
    environment = environment_of(copy_of_packages)
    result = lint(copy_of_packages, environment)
    assert result.returncode == 0, result.stdout + result.stderr
    (copy_of_packages / folder / f"bitweir_{folder}" / "planted.py").write_text(source)
    result = lint(copy_of_packages, environment)
    assert result.returncode == 1
    assert "Contracts: " in result.stdout
    assert "1 broken" in result.stdout
    assert broken in result.stdout
    assert "planted" in result.stdout


@pytest.mark.parametrize("package", tree.PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert package in loaded
    assert not loaded & HEAVY


def test_help_loads_nothing_heavy() -> None:
    from bitweir_loadgen.cli import COMMANDS

    for command in ("", *COMMANDS):
        arguments = ["bitweir", *command.split(), "--help"]
        loaded = loaded_by(f"sys.argv = {arguments!r}\nfrom bitweir_loadgen.cli import main\nmain()")
        assert "bitweir_loadgen" in loaded
        assert not loaded & HEAVY, (
            f"`{' '.join(arguments)}` loads them; import them inside the functions that need them"
        )


def test_the_measure_of_loaded_modules_can_see_a_heavy_one() -> None:
    assert "kubernetes" in loaded_by("import types\nsys.modules['kubernetes.client'] = types.ModuleType('x')")
