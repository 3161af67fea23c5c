"""The wheel holds what the project needs and nothing else, and works outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.house import tree

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("wheel")]

# Prints where every package was imported from, the version, and the prefix of the environment.
PROBE = """
import importlib, importlib.metadata, json, sys
files = {name: importlib.import_module(name).__file__ for name in sys.argv[1:]}
print(json.dumps({"files": files, "prefix": sys.prefix, "version": importlib.metadata.version("bitweir")}))
"""


class Built(NamedTuple):
    """The two distributions, built from the checkout."""

    wheel: Path
    sdist: Path


def run(command: list[str], cwd: Path) -> str:
    """Run a command without any of the caller's Python paths and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(source: Path, target: Path) -> Built:
    """Build wheel and sdist of the project at `source` into `target`."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(target)], cwd=source)
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, sdist)


def names_in(wheel: Path) -> set[str]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the distributions built from the checkout."""
    return build(tree.ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment with the wheel in it and the dependencies of the running one within reach.

    The folder of the dependencies is added after the installation and by path alone: Python reads no .pth file in a
    folder that a .pth file names, so the editable installation of the checkout stays out of reach.
    """
    folder = tmp_path_factory.mktemp("outside")
    environment = folder / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], cwd=folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(built.wheel)], cwd=folder)
    (packages,) = environment.glob("lib/python*/site-packages")
    reachable = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "dependencies.pth").write_text("\n".join([*reachable, ""]))
    return environment


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built: Built) -> None:
    ours = {path.split("/", 1)[1] for path in tree.all_files() if path.startswith(tree.PACKAGE_PATHS)}
    names = names_in(built.wheel)
    stem = "-".join(built.wheel.name.split("-")[:2])
    data, info = f"{stem}.data/data/share/bitweir/", f"{stem}.dist-info/"
    manifests = {data + path for path in tree.all_files() if path.startswith("k8s/")}
    assert f"{data}k8s/README.md" in manifests
    assert {f"{package}/py.typed" for package in tree.PACKAGES} <= ours
    metadata = {name for name in names if name.startswith(info)}
    assert metadata >= {info + name for name in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names - metadata == ours | manifests


def test_the_sdist_holds_what_the_checkout_holds(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    included = (*tree.PACKAGES.values(), "k8s", "tests", "benchmarks", "docs")
    expected = {path for path in tree.all_files() if path.split("/")[0] in included and "/" in path}
    assert expected <= names
    assert {"LICENSE", "Makefile", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names - expected if name.endswith((".pyc", ".safetensors")) or ".venv" in name]


def test_the_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert names_in(build(source, tmp_path / "dist").wheel) == names_in(built.wheel)


def test_the_wheel_is_what_gets_imported(installed: Path, tmp_path: Path) -> None:
    answer = json.loads(run([str(installed / "bin/python"), "-c", PROBE, *tree.PACKAGES], cwd=tmp_path))
    assert Path(answer["prefix"]) == installed
    assert set(answer["files"]) == set(tree.PACKAGES)
    for name, file in answer["files"].items():
        assert Path(file).is_relative_to(installed), f"{name} comes from {file}"
    assert f'version = "{answer["version"]}"' in tree.text_of("pyproject.toml")


@pytest.mark.parametrize("arguments", [["--help"], ["noise", "--help"]], ids=" ".join)
def test_the_command_works_outside_the_checkout(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    output = run([str(installed / "bin/bitweir"), *arguments], cwd=tmp_path)
    assert "Usage" in output
    assert "noise" in output


def test_the_manifests_are_installed(installed: Path) -> None:
    for path in tree.all_files():
        if path.startswith("k8s/"):
            assert (installed / "share/bitweir" / path).read_bytes() == (tree.ROOT / path).read_bytes()
    assert (installed / "share/bitweir/k8s/README.md").is_file()
