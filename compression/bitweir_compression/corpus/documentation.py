"""Questions about documentation already on the machine: the standard library and packages this project depends on.

Nothing is shipped and nothing is downloaded: the text belongs to the installation, so the corpus differs between Python
versions and is the same for one installation. Use it as text the pair was not built for, not as a default.

Rules:
1. Sources are read and parsed with `ast`; no module is imported, no code is run.
2. Everything that could grow has a limit below. A file that cannot be read or parsed is counted and left out.
3. An inventory holds no two objects with the same summary or first paragraph, and no two sentences with the same
   second half (compared by words, without case or punctuation): no answer's text can be on both sides of the split.
4. `split_of` depends on the family too, so one object may be an evaluation problem in one family only. An object that
   is one in any family is never asked about in training: all questions about one object stay on one side.
5. Every prompt names its object (`which_module`: its short name and unique summary), so prompts differ as keys do.
"""

import ast
import codecs
import importlib.util
import inspect
import random
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from bitweir_compression.corpus.items import Item, Split, split_of
from bitweir_compression.errors import CorpusError

CORPUS = "documentation"
FAMILIES = ("signature_summary", "docstring", "completion", "which_module")

STANDARD_LIBRARY = "stdlib"
# Dependencies whose docstrings are written by hand and whose size is bearable. Left out: transformers, ray, kubernetes
# (15-75 MB of source each, much of it generated).
# fmt: off
DEPENDENCIES = (
    "cryptography", "fastapi", "jinja2", "matplotlib", "numpy", "prometheus_client", "pydantic", "rich", "safetensors",
    "tokenizers", "torch", "typer", "zstandard",
)
# Folders and modules that are tests, other people's packages, or programs nobody calls. Folders whose names are not
# identifiers (site-packages, lib-dynload) are no packages and are left out for that.
NAMES_SKIPPED = frozenset((
    "conftest", "ensurepip", "f2py", "idlelib", "lib2to3", "test", "testing", "tests", "turtledemo", "vendor",
))
# fmt: on

FILES_STANDARD_LIBRARY_MAX = 450  # files, shallow ones first; the rest (70-150) are internals; 1.5 s to parse
FILES_DEPENDENCY_MAX = 120  # files a dependency, shallow ones first; bounds torch (840) to a third of a second
DEPTH_MAX = 6  # directories below a source; deeper modules are internals nobody asks about
FILE_BYTES_MAX = 250_000  # bytes a file; the few above are tables, generated code or a whole API in one file
OBJECTS_SOURCE_MAX = 10_000  # objects a source; twice what the standard library has
DOCSTRING_CHARS_MAX = 20_000  # characters; longer ones are manuals
SIGNATURE_CHARS_MAX = 160  # characters; a longer signature is shown by its parameter names, or not at all
SUMMARY_WORDS_MIN = 3  # words; "See above." says nothing
SUMMARY_WORDS_MAX = 40  # words; answers should be short enough for a small context
PARAGRAPH_WORDS_MAX = 60  # words; cut at a sentence
TEXT_CHARS_MAX = 500  # characters of a summary or paragraph; bounds the words too
FRAGMENT_WORDS_MIN = 7  # words, so that the second half has three or more
FRAGMENT_WORDS_MAX = 30  # words; longer ones are not short sentences
FRAGMENTS_OBJECT_MAX = 3  # sentences an object: the summary and two parameter lines

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "signature_summary": (
        "What does the {kind} `{name}` do? Its signature is `{signature}`.",
        "Summarise in one sentence: {kind} `{name}`, `{signature}`.",
        "Give the one-line summary of `{name}`, which is declared as `{signature}`.",
        "`{signature}`\n\nThis is the {kind} `{name}`. Describe it in one line.",
    ),
    "docstring": (
        "Write the first paragraph of the docstring of `{name}`.",
        "How does the documentation introduce the {kind} `{name}`?",
        "Document the {kind} `{name}` in one paragraph.",
    ),
    "completion": (
        "Complete this sentence from the documentation of `{name}`: {head}",
        "The docstring of the {kind} `{name}` says: {head} ... How does it go on?",
        "Finish the line about `{name}`. It begins: {head}",
    ),
    "which_module": (
        "Which module defines the {kind} `{short}`, described as follows: {summary}",
        "Where is the {kind} `{short}` defined? Its summary reads: {summary}",
        "Name the module of the {kind} `{short}`. ({summary})",
    ),
}
MODULE_ANSWERS = (
    "`{short}` is defined in **{module}**.",
    "The {kind} `{short}` lives in the module **{module}**.",
    "Look in **{module}**: it defines `{short}`.",
)

_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<=[.!?])\s+(?=[A-Z`*\"'])")
_PARAMETER_FIELD = re.compile(r":param\s+(?:[\w.]+\s+)?(\w+):\s+(\S.*\.)$")
_PARAMETER_LINE = re.compile(r"(\*{0,2}[a-z]\w*)(?:\s*\([^()]*\))?:\s+(\S.*\.)$")
_SECTION = re.compile(r"(?:Args|Arguments|Parameters|Attributes):?$")
_WORD = re.compile(r"[a-z0-9]+")
_FORBIDDEN = (">>>", "->", "=>", "<think", "</think", "::", "TODO")

_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class DocObject:
    """A public function, class or method with a usable docstring.

    Attributes:
        name: qualified name, e.g. `package.module.Class.method`; unique in an inventory.
        module: dotted name of the module that defines it.
        source: `stdlib` or the name of the dependency.
        kind: `function`, `class` or `method`.
        signature: short name with parameters, at most `SIGNATURE_CHARS_MAX` characters; of a class, its `__init__`'s.
        summary: first sentence, `SUMMARY_WORDS_MIN` to `SUMMARY_WORDS_MAX` words.
        paragraph: first paragraph, at most `PARAGRAPH_WORDS_MAX` words; starts with the summary.
        fragments: up to `FRAGMENTS_OBJECT_MAX` pairs (first half, second half) of a sentence; may be empty.
    """

    name: str
    module: str
    source: str
    kind: str
    signature: str
    summary: str
    paragraph: str
    fragments: tuple[tuple[str, str], ...]

    @property
    def short(self) -> str:
        """The name inside its module, e.g. `Class.method`."""
        return self.name.removeprefix(self.module + ".")


@dataclass(frozen=True)
class Scan:
    """What reading one or more sources gave.

    Attributes:
        objects: sorted by name; obeys rule 3.
        files_read: files that were parsed.
        files_oversized: files left out because they exceed `FILE_BYTES_MAX`.
        files_unparsable: files left out because they are not readable UTF-8 Python.
        sources_missing: dependencies that are not installed as a folder of Python files.
    """

    objects: tuple[DocObject, ...]
    files_read: int
    files_oversized: int
    files_unparsable: int
    sources_missing: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """Objects by source."""
        return Counter(item.source for item in self.objects)


def inventory() -> tuple[DocObject, ...]:
    """Return what this installation documents, sorted by name; read once a process, a few seconds."""
    return scan_installed().objects


@cache
def scan_installed() -> Scan:
    """Read the standard library and `DEPENDENCIES`; the result is kept for the life of the process."""
    scans = [
        scan_source(
            STANDARD_LIBRARY, Path(sysconfig.get_paths()["stdlib"]), prefix="", files_max=FILES_STANDARD_LIBRARY_MAX
        )
    ]
    missing: list[str] = []
    for source in DEPENDENCIES:
        root = _package_root(source)
        if root is None:
            missing.append(source)
        else:
            scans.append(scan_source(source, root, prefix=source, files_max=FILES_DEPENDENCY_MAX))
    return Scan(
        objects=_unique(item for scan in scans for item in scan.objects),
        files_read=sum(scan.files_read for scan in scans),
        files_oversized=sum(scan.files_oversized for scan in scans),
        files_unparsable=sum(scan.files_unparsable for scan in scans),
        sources_missing=tuple(missing),
    )


def scan_source(source: str, root: Path, *, prefix: str, files_max: int) -> Scan:
    """Read the public modules below a folder.

    Args:
        source: the name to report the objects under.
        root: the folder; a missing one gives an empty scan.
        prefix: dotted name of the package `root` is, or empty where `root` holds top-level modules.
        files_max: most files to look at, shallow ones first.

    Returns:
        What was found, in order of names.
    """
    found: list[DocObject] = []
    read = oversized = unparsable = 0
    paths = sorted(_python_files(root, depth=0), key=lambda path: (len(path.parts), path.as_posix()))
    for path in paths[:files_max]:
        if len(found) >= OBJECTS_SOURCE_MAX:
            break
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                oversized += 1
                continue
            tree = _parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            unparsable += 1
            continue
        read += 1
        found.extend(_module_objects(tree, _module_name(path.relative_to(root), prefix), source))
    return Scan(_unique(found[:OBJECTS_SOURCE_MAX]), read, oversized, unparsable)


def generate(seed: int, split: Split) -> Iterator[Item]:
    """Yield questions about this installation's documentation without end, a function of the arguments and of it.

    Raises:
        CorpusError: no source could be read.
    """
    return questions(inventory(), seed, split)


def questions(objects: Sequence[DocObject], seed: int, split: Split) -> Iterator[Item]:
    """Yield questions about the given objects without end; families are equally likely, as far as they have objects.

    Raises:
        CorpusError: no object is on this side of the line. Raised by the call, not by the first `next`.
    """
    pools = {family: members for family in FAMILIES if (members := _pool(objects, family, split))}
    if not pools:
        raise CorpusError(
            f"no documented object is on the {split.value} side",
            remedy="use an interpreter that has its library as .py files, or the tutor corpus",
        )
    return _draw(pools, random.Random(f"{CORPUS}/{seed}/{split.value}"))  # noqa: S311 - reproducible, not secret


def _pool(objects: Sequence[DocObject], family: str, split: Split) -> tuple[DocObject, ...]:
    """Return the objects a family may ask about on one side (rule 4)."""
    families = (family,) if split is Split.EVAL else FAMILIES
    return tuple(
        item
        for item in objects
        if (item.fragments or family != "completion")
        and all(split_of(CORPUS, each, item.name) is split for each in families)
    )


def _draw(pools: Mapping[str, Sequence[DocObject]], rng: random.Random) -> Iterator[Item]:
    families = tuple(pools)
    while True:
        family = rng.choice(families)
        item = rng.choice(pools[family])
        head, tail = rng.choice(item.fragments) if family == "completion" else ("", "")
        slots = {
            "name": item.name,
            "short": item.short,
            "kind": item.kind,
            "module": item.module,
            "signature": item.signature,
            "summary": item.summary,
            "head": head,
        }
        answer = {"signature_summary": item.summary, "docstring": item.paragraph, "completion": tail}.get(family, "")
        if family == "which_module":
            answer = rng.choice(MODULE_ANSWERS).format(**slots)
        yield Item(
            corpus=CORPUS,
            family=family,
            key=item.name,
            prompt=rng.choice(PROMPTS[family]).format(**slots),
            reasoning="",
            answer=answer,
            final=item.module if family == "which_module" else "",
        )


def _package_root(package: str) -> Path | None:
    """Return a top-level package's folder without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(locations[0]) if locations else None


def _python_files(folder: Path, *, depth: int) -> Iterator[Path]:
    """Yield the public modules below a folder, in no particular order; links to folders are not followed."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for path in entries:
        stem = path.name.removesuffix(".py")
        if (stem.startswith(("_", "test_")) and stem != "__init__") or stem in NAMES_SKIPPED:
            continue
        if not stem.isidentifier():
            continue
        if path.suffix == ".py":
            yield path
        elif depth < DEPTH_MAX and path.is_dir() and not path.is_symlink():
            yield from _python_files(path, depth=depth + 1)


def _module_name(relative: Path, prefix: str) -> str:
    parts = [prefix, *relative.with_suffix("").parts]
    return ".".join(part for part in parts if part not in ("", "__init__"))


def _parse(content: bytes) -> ast.Module:
    """Parse UTF-8 source; other encodings raise, since their codecs would have to be imported (rule 1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a foreign file's doubtful escapes are not our reader's concern
        return ast.parse(content.removeprefix(codecs.BOM_UTF8).decode())


def _module_objects(tree: ast.Module, module: str, source: str) -> Iterator[DocObject]:
    if not module:
        return
    for node in tree.body:
        if not isinstance(node, _Documented) or node.name.startswith("_"):
            continue
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        candidates = [(node, f"{module}.{node.name}", kind)]
        if isinstance(node, ast.ClassDef):
            candidates += [
                (child, f"{module}.{node.name}.{child.name}", "method")
                for child in node.body
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_")
            ]
        for each, name, label in candidates:
            item = _document(each, name, label, module, source)
            if item is not None:
                yield item


def _document(node: _Documented, name: str, kind: str, module: str, source: str) -> DocObject | None:
    """Return the object, or None where its docstring or signature is not usable."""
    raw = ast.get_docstring(node, clean=False)
    if raw is None or len(raw) > DOCSTRING_CHARS_MAX:
        return None
    text = inspect.cleandoc(raw)
    sentences = _SENTENCE_END.split(" ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split()))
    summary = sentences[0]
    if not _usable(summary) or not SUMMARY_WORDS_MIN <= len(summary.split()) <= SUMMARY_WORDS_MAX:
        return None
    if summary.startswith(f"{node.name}("):
        return None
    paragraph = summary
    for sentence in sentences[1:]:
        longer = f"{paragraph} {sentence}"
        if not _usable(longer) or len(longer.split()) > PARAGRAPH_WORDS_MAX:
            break
        paragraph = longer
    signature = _signature(node)
    if signature is None:
        return None
    return DocObject(name, module, source, kind, signature, summary, paragraph, _fragments(summary, text))


def _usable(text: str) -> bool:
    """Say whether a line is printable ASCII prose of bounded length, without code, markup or our own tags."""
    return (
        len(text) <= TEXT_CHARS_MAX
        and text.isascii()
        and text.isprintable()
        and text[:1].isalnum()
        and not any(mark in text for mark in _FORBIDDEN)
    )


def _signature(node: _Documented) -> str | None:
    """Return name and parameters; without annotations if that is too long, None if even that is."""
    function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    if not isinstance(node, ast.ClassDef):
        function = node
    else:
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and child.name == "__init__":
                function = child
    if function is None:
        return f"{node.name}()"
    arguments = function.args
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for signature in (
        f"{node.name}({ast.unparse(arguments)}){returns if function is node else ''}",
        f"{node.name}({', '.join(argument.arg for argument in every)})",
    ):
        if len(signature) <= SIGNATURE_CHARS_MAX and signature.isascii() and signature.isprintable():
            return signature
    return None


def _fragments(summary: str, text: str) -> tuple[tuple[str, str], ...]:
    """Return sentences cut after their first half: the summary, then parameter lines."""
    found: list[tuple[str, str]] = []
    inside = False
    lines = [summary]
    for line in text.splitlines():
        stripped = line.strip()
        if _SECTION.match(stripped):
            inside = True
        elif stripped and not line[0].isspace() and not stripped.startswith(":param"):
            inside = False
        match = _PARAMETER_FIELD.match(stripped) or (_PARAMETER_LINE.match(stripped) if inside else None)
        if match:
            lines.append(f"{match[1]}: {match[2]}")
    for line in lines:
        words = line.split()
        if FRAGMENT_WORDS_MIN <= len(words) <= FRAGMENT_WORDS_MAX and _usable(line):
            middle = (len(words) + 1) // 2
            found.append((" ".join(words[:middle]), " ".join(words[middle:])))
    return tuple(found[:FRAGMENTS_OBJECT_MAX])


def _unique(objects: Iterable[DocObject]) -> tuple[DocObject, ...]:
    """Keep the first object by name of each name and each text, and the first fragment of each second half (rule 3)."""
    names: set[str] = set()
    texts: set[str] = set()
    kept: list[DocObject] = []
    for item in sorted(objects, key=lambda item: (item.name, item.source)):
        own = {_normalised(item.summary), _normalised(item.paragraph)}
        if item.name not in names and "" not in own and not own & texts:
            names.add(item.name)
            texts |= own
            kept.append(item)
    result: list[DocObject] = []
    for item in kept:
        pairs: list[tuple[str, str]] = []
        for head, tail in item.fragments:
            words = _normalised(tail)
            if words and words not in texts:
                texts.add(words)
                pairs.append((head, tail))
        result.append(replace(item, fragments=tuple(pairs)))
    return tuple(result)


def _normalised(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
