"""Just enough Markdown to check documents: headings, anchors, links and marked code blocks. Pure functions of text."""

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*([^`]*)$")
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
INLINE_CODE = re.compile(r"(`+).*?\1")
LINK = re.compile(r"\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\))?)>?(?:\s+[\"'][^)]*)?\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)")
HTML_ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)=[\"']([^\"']+)")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
ASSIGNMENT = re.compile(r"^([A-Z_]+)=")
DECISION_NAME = re.compile(r"^docs/decisions/(\d{4})-[a-z0-9-]+\.md$")
DECISION_HEADINGS = ("Context", "Decision", "Cost")
# What one command of a console block may be chained with; each part is looked at on its own.
CHAIN = re.compile(r"\s*(?:&&|\|\||;|\|)\s*")


@dataclass(frozen=True)
class Line:
    """One line of a document: its number from 1, its text, and the info string of the code block it is in, if any."""

    number: int
    text: str
    block: str | None


def parsed(source: str) -> Iterator[Line]:
    """Yield the lines of a document without the fences themselves."""
    fence, block = "", None
    for number, text in enumerate(source.splitlines(), start=1):
        match = FENCE.match(text)
        if match and block is None:
            fence, block = match.group(1), match.group(2).strip()
        elif match and match.group(1).startswith(fence) and not match.group(2).strip():
            block = None
        else:
            yield Line(number, text, block)


def headings(source: str) -> list[tuple[int, int, str]]:
    """Return (line number, level, text) of every heading."""
    found = []
    for line in parsed(source):
        match = HEADING.match(line.text)
        if match and line.block is None:
            found.append((line.number, len(match.group(1)), match.group(2)))
    return found


def anchors(source: str) -> set[str]:
    """Return what a link may point at after `#`, by GitHub's rule: lower case, punctuation out, spaces to hyphens."""
    found: set[str] = set()
    for _, _, text in headings(source):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        unique, count = slug, 0
        while unique in found:
            count += 1
            unique = f"{slug}-{count}"
        found.add(unique)
    for line in parsed(source):
        if line.block is None:
            found.update(HTML_ANCHOR.findall(line.text))
    return found


def links(source: str) -> list[tuple[int, str]]:
    """Return (line number, target) of every link, image, definition and HTML link outside code."""
    found = []
    for line in parsed(source):
        if line.block is None:
            text = INLINE_CODE.sub("", line.text)
            for pattern in (LINK, DEFINITION, HTML_LINK):
                found += [(line.number, target) for target in pattern.findall(text)]
    return found


def check_links(path: str, source: str, files: Collection[str], text_of: Callable[[str], str]) -> list[str]:
    """Every relative link points at a file or folder of the repository, and every anchor at a heading."""
    folders = {posixpath.dirname(file) for file in files}
    folders |= {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, folder.count("/") + 1)}
    found = []
    for number, target in links(source):
        if SCHEME.match(target):
            continue
        name, _, anchor = target.partition("#")
        aimed = posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) if name else path
        if aimed not in files and aimed not in folders and aimed != ".":
            found.append(f"{path}:{number}: dead link: {target}; {aimed} does not exist")
        elif anchor and (aimed not in files or anchor not in anchors(text_of(aimed))):
            found.append(f"{path}:{number}: dead anchor: {target}; name a heading of {aimed}")
    return found


def check_title(path: str, source: str) -> list[str]:
    """A document has exactly one title, and it is its first heading."""
    levels = [level for _, level, _ in headings(source)]
    if levels.count(1) == 1 and levels[0] == 1:
        return []
    return [f"{path}:1: title: {levels.count(1)} headings of level 1; write exactly one, first"]


def check_decisions(sources: Mapping[str, str]) -> list[str]:
    """Decisions (path -> text) are numbered from 0001 without gaps and say context, decision and cost."""
    found, numbers = [], []
    for path, source in sorted(sources.items()):
        match = DECISION_NAME.match(path)
        if not match:
            found.append(f"{path}:1: decision: name; use docs/decisions/0001-what-was-decided.md")
            continue
        numbers.append(int(match.group(1)))
        if numbers[-1] != len(numbers):
            found.append(f"{path}:1: decision: number {numbers[-1]}; the next is {len(numbers)}")
        texts = [text for _, level, text in headings(source) if level == 2]
        found += [
            f"{path}:1: decision: heading missing; add `## {heading}`"
            for heading in DECISION_HEADINGS
            if heading not in texts
        ]
    return found


def console_commands(source: str) -> list[tuple[int, str]]:
    """Return (line number, command) of every `$ command` in blocks marked `console`; continued lines are joined."""
    found: list[tuple[int, str]] = []
    continued = False
    for line in parsed(source):
        if line.block != "console":
            continue
        text = line.text.strip()
        if continued:
            number, start = found.pop()
            found.append((number, f"{start} {text}".rstrip("\\").strip()))
        elif text.startswith("$ "):
            found.append((line.number, text[2:].rstrip("\\").strip()))
        else:
            continue
        continued = text.endswith("\\")
    return found


def make_names(makefile: str) -> tuple[set[str], set[str]]:
    """Return the targets and the settable variables of a Makefile."""
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    return targets, set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))


def check_console(path: str, source: str, makefile: str, commands: Collection[str]) -> list[str]:
    """Every `make` target and variable and every `bitweir` command that a console block shows exists."""
    targets, variables = make_names(makefile)
    found = []
    for number, line in console_commands(source):
        for part in CHAIN.split(line):
            words = part.partition(" #")[0].split()
            while words and ASSIGNMENT.match(words[0]):
                words.pop(0)
            program = posixpath.basename(words[0]) if words else ""
            if program == "make":
                for word in words[1:]:
                    match = ASSIGNMENT.match(word)
                    if match and match.group(1) not in variables:
                        found.append(f"{path}:{number}: console: make variable {match.group(1)}; use one of Makefile")
                    elif not match and not word.startswith("-") and word not in targets:
                        found.append(f"{path}:{number}: console: make target {word}; use one of Makefile")
            elif program == "bitweir" and len(words) > 1 and not words[1].startswith("-") and words[1] not in commands:
                found.append(f"{path}:{number}: console: bitweir command {words[1]}; use one of cli.COMMANDS")
    return found


def newest_version(changelog: str) -> str:
    """Return the version of the first released section of a changelog, empty if there is none."""
    for _, level, text in headings(changelog):
        match = re.match(r"\[?v?(\d+\.\d+\.\d+\S*?)\]?(?:\s|$)", text)
        if level == 2 and match:
            return match.group(1)
    return ""
