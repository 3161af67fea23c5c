"""Where a result came from: machine, versions, commit. Every result file the project writes carries it."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

# The libraries whose version can change a result.
PACKAGES = ("bitweir", "constriction", "numpy", "safetensors", "tokenizers", "torch", "transformers", "zstandard")
GIT_TIMEOUT_S = 5


def provenance() -> dict[str, Any]:
    """Return machine, versions and commit of this process; what cannot be found out is `unknown`."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def machine() -> dict[str, Any]:
    """Return processor, core count and operating system."""
    return {"processor": _processor(), "core_count": os.cpu_count(), "system": platform.platform()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Return the commit of the checkout this file belongs to, `+` after it where anything differs from the commit.

    `unknown` where the file is installed rather than checked out, even inside somebody's repository.
    """
    here = Path(__file__)
    if _git(here, "ls-files", "--error-unmatch", here.name) is None:
        return "unknown"
    head, changes = _git(here, "rev-parse", "HEAD"), _git(here, "status", "--porcelain")
    return "unknown" if head is None else head + ("+" if changes else "")


def _git(file: Path, *words: str) -> str | None:
    """Return what git prints in the file's folder, or None where it fails."""
    command = ["git", "-C", str(file.parent), *words]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
