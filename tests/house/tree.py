"""Which files the house rules look at: what git tracks or would track, or a walk where there is no git."""

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Package -> its top-level folder. Changes together with `packages` in pyproject.toml and docs/concepts.md.
PACKAGES = {
    "bitweir_compression": "compression",
    "bitweir_metering": "metering",
    "bitweir_verification": "verification",
    "bitweir_services": "services",
    "bitweir_loadgen": "loadgen",
}
PACKAGE_PATHS = tuple(f"{folder}/{package}/" for package, folder in PACKAGES.items())

# Folders a walk leaves out: what .gitignore names, and git itself.
UNTRACKED_FOLDERS = frozenset(
    {
        ".git",
        ".hypothesis",
        ".import_linter_cache",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".venv",
        "__pycache__",
    }
)
# Left out only at the top: a package of ours may have a folder of this name.
UNTRACKED_AT_TOP = frozenset({"build", "dist", "models", "runs"})
# Files that are not text; everything else must be UTF-8.
BINARY_SUFFIXES = frozenset({".bin", ".gz", ".npy", ".npz", ".png", ".safetensors", ".woff2", ".zst"})


def files_git_tracks(root: Path) -> list[str] | None:
    """Return tracked and untracked-but-not-ignored files of `root`, or None where `root` is not a git checkout."""
    if not (root / ".git").exists():
        return None
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return None
    return sorted({name for name in result.stdout.split("\0") if name and (root / name).is_file()})


def files_walked(root: Path) -> list[str]:
    """Return the files below `root` that a fresh checkout would hold, found without git."""
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        folders = set(parts[:-1])
        if folders & UNTRACKED_FOLDERS or parts[0] in UNTRACKED_AT_TOP:
            continue
        if path.is_file() and path.suffix != ".pyc" and not any(part.endswith(".egg-info") for part in parts):
            found.append("/".join(parts))
    return sorted(found)


@functools.cache
def all_files() -> tuple[str, ...]:
    """Return every file of the repository, relative to its root, with forward slashes."""
    tracked = files_git_tracks(ROOT)
    return tuple(files_walked(ROOT) if tracked is None else tracked)


@functools.cache
def text_of(path: str) -> str:
    """Return the text of one file; undecodable bytes become U+FFFD, which `check_control_characters` reports."""
    return (ROOT / path).read_bytes().decode("utf-8", errors="replace")


def text_files() -> list[str]:
    """Return the files that must be text."""
    return [path for path in all_files() if Path(path).suffix not in BINARY_SUFFIXES]


def python_files() -> list[str]:
    """Return every Python file of the repository, tests included."""
    return [path for path in all_files() if path.endswith(".py")]


def library_files() -> list[str]:
    """Return the Python files of the five packages."""
    return [path for path in python_files() if path.startswith(PACKAGE_PATHS)]


def markdown_files() -> list[str]:
    """Return every Markdown file."""
    return [path for path in all_files() if path.endswith(".md")]
