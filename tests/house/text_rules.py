"""House rules about text, file names and sizes, as pure functions; see tests/house/rules.py for the format.

The offending words are put together from parts, so that this file does not offend.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from tests.house.tree import PACKAGES

BLOB_BYTES_MAX = 512 * 1024
# Path -> why it may be larger than BLOB_BYTES_MAX. An entry whose file is gone or small again is a violation.
LARGE_FILES_ALLOWED: Mapping[str, str] = {}

FORBIDDEN_NAMES = frozenset({"common", "helper", "helpers", "misc", "util", "utils"})
LANDFILL = "say what it is for"

REGISTRIES = "|".join(
    host.replace(" ", r"\.")
    for host in (
        "pypi org",
        "pythonhosted org",
        "huggingface co",
        "hf co",
        "download pytorch org",
        "docker io",
        "docker com",
        "ghcr io",
        "gcr io",
        "quay io",
        "nvcr io",
        "npmjs org",
        "npmjs com",
        "crates io",
        "proxy golang org",
        "deb debian org",
        "archive ubuntu com",
    )
)
# Rule -> (pattern, what to do instead).
EVERYWHERE: Mapping[str, tuple[re.Pattern[str], str]] = {
    "machine path": (
        re.compile(r"(?<![\w.~$})%-])/(?:work|root|home)/"),
        "use a path relative to the repository or to an argument",
    ),
    "registry host": (
        re.compile(rf"(?<![\w-])(?:{REGISTRIES})(?![\w-])|--(?:extra-)?index-" + r"url\b"),
        "name the package; which registry serves it is the machine's configuration",
    ),
    # A quoted word is data, for example a filter's.
    "open end": (
        re.compile(r"(?<![\w\"'`])(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)(?![\w\"'`])"),
        "do it, or write it down in docs/LOG.md",
    ),
    "conflict marker": (
        re.compile(r"^(?:<{7}|>{7}|\|{7})(?: |$)|^={7}$"),
        "finish the merge",
    ),
    "trailing whitespace": (re.compile(r"[ \t]+$"), "remove it"),
}
TEMPORARY_PATH = re.compile(r"(?<![\w.~$})%-])/tm" + r"p/")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")
# A path of this repository named in prose or in a comment.
MENTION = re.compile(
    r"(?<![\w./$-])(?:docs|tests|k8s|benchmarks|compression|metering|verification|services|loadgen)"
    r"/[\w./-]*\w\.(?:md|py)\b(?!\.)"
)

TextRule = Callable[[str, str], list[str]]


def lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line); only a newline ends a line, so that stray control characters stay visible."""
    yield from enumerate(source.split("\n"), start=1)


def check_patterns(path: str, source: str) -> list[str]:
    """No machine path, registry host, open end, conflict marker or trailing whitespace."""
    return [
        f"{path}:{number}: {rule}: {match.group().strip()!r}; {instead}"
        for rule, (pattern, instead) in EVERYWHERE.items()
        for number, line in lines(source)
        if (match := pattern.search(line))
    ]


def check_temporary_paths(path: str, source: str) -> list[str]:
    """Nothing but a test may name the folder for temporary files."""
    if path.startswith("tests/"):
        return []
    return [
        f"{path}:{number}: machine path: {match.group()!r}; use the tempfile module or an argument"
        for number, line in lines(source)
        if (match := TEMPORARY_PATH.search(line))
    ]


def check_control_characters(path: str, source: str) -> list[str]:
    """Text is UTF-8 with newlines, and nothing that an editor would not show."""
    return [
        f"{path}:{number}: control character: {match.group()!r}; write an escape sequence, or rename a binary file"
        for number, line in lines(source)
        if (match := CONTROL.search(line))
    ]


def check_tabs(path: str, source: str) -> list[str]:
    """Tabs are for Makefile."""
    if PurePosixPath(path).name == "Makefile":
        return []
    return [f"{path}:{number}: tab: found; use spaces" for number, line in lines(source) if "\t" in line]


def check_final_newline(path: str, source: str) -> list[str]:
    """A file that is not empty ends with exactly one newline."""
    if not source or (source.endswith("\n") and not source.endswith("\n\n")):
        return []
    number = source.count("\n") + 1
    return [f"{path}:{number}: final newline: missing or repeated; end the file with exactly one"]


def check_mentions(path: str, source: str, files: Collection[str]) -> list[str]:
    """A file of this repository that a text names exists."""
    return [
        f"{path}:{number}: dead reference: {name}; name a file that exists"
        for number, line in lines(source)
        for name in MENTION.findall(line)
        if "..." not in name and name not in files
    ]


def check_names(paths: Iterable[str]) -> list[str]:
    """No file or folder is a landfill."""
    return [
        f"{path}:1: name: {part!r}; {LANDFILL}"
        for path in paths
        for part in PurePosixPath(path).parts
        if part.partition(".")[0].lower() in FORBIDDEN_NAMES
    ]


def check_layout(paths: Collection[str]) -> list[str]:
    """The five folders hold one typed package each and are not packages themselves."""
    found = []
    for package, folder in PACKAGES.items():
        if f"{folder}/__init__.py" in paths:
            found.append(f"{folder}/__init__.py:1: layout: the folder is a package; remove the file")
        for needed, why in (("__init__.py", "it is a package"), ("py.typed", "it is typed (PEP 561)")):
            if f"{folder}/{package}/{needed}" not in paths:
                found.append(f"{folder}/{package}/{needed}:1: layout: missing; add it, {why}")
    return found


def check_sizes(bytes_of: Mapping[str, int], allowed: Mapping[str, str]) -> list[str]:
    """No file is larger than `BLOB_BYTES_MAX` unless it is named, and no name is stale."""
    found = [
        f"{path}:1: size: {size_bytes} bytes; build it, or name it in LARGE_FILES_ALLOWED with the reason"
        for path, size_bytes in bytes_of.items()
        if size_bytes > BLOB_BYTES_MAX and path not in allowed
    ]
    return found + [
        f"{path}:1: size: allowed to be large but is not; remove it from LARGE_FILES_ALLOWED"
        for path in allowed
        if bytes_of.get(path, 0) <= BLOB_BYTES_MAX
    ]


TEXT_RULES: tuple[TextRule, ...] = (
    check_control_characters,
    check_final_newline,
    check_patterns,
    check_tabs,
    check_temporary_paths,
)
