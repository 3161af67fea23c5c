"""The documentation corpus: what it reads, what it refuses, and that no object or answer is on both sides."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bitweir_compression.corpus import Item, Split, documentation
from bitweir_compression.corpus.documentation import FAMILIES, DocObject, questions, scan_source
from bitweir_compression.errors import CorpusError

DRAWS = 6_000
MODULE = '''
"""A module of our own."""

def measure(width: int, *, scale: float = 1.0) -> float:
    """Return the width of a beam after the lens.

    The second paragraph is not shown.

    Args:
        width (int): width before the lens, counted in whole pixels.
        scale: a factor.
    """

def plain(a, b=2):
    """Say nothing about a and b. Then say a little more, e.g. Nothing new."""

class Lens:
    """Bend light towards a point."""

    def __init__(self, focus):
        """Hidden, because it is private."""

    def bend(self, ray):
        """Bend one ray of light."""

    def _secret(self):
        """Never shown to anybody at all."""

async def fetch(url):
    """Fetch a page from the network."""

def _private():
    """Hidden from everybody who asks."""

def empty():
    """"""

def terse():
    """See above."""

def foreign():
    """Größe eines Bildes in Punkten."""

def example():
    """>>> example() shows how to call it"""

def huge():
    """Repeat %s"""
'''.replace("%s", "a word " * 100)


@pytest.fixture(scope="module")
def items() -> dict[Split, list[Item]]:
    return {split: list(itertools.islice(documentation.generate(7, split), DRAWS)) for split in Split}


def made(tmp_path: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = tmp_path / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path


def scanned(root: Path, prefix: str = "optics") -> dict[str, DocObject]:
    return {item.name: item for item in scan_source("ours", root, prefix=prefix, files_max=100).objects}


def test_public_usable_objects_are_found(tmp_path: Path) -> None:
    found = scanned(made(tmp_path, beams=MODULE))
    assert sorted(found) == [
        "optics.beams.Lens",
        "optics.beams.Lens.bend",
        "optics.beams.fetch",
        "optics.beams.measure",
        "optics.beams.plain",
    ]
    measure = found["optics.beams.measure"]
    assert measure.signature == "measure(width: int, *, scale: float=1.0) -> float"
    assert measure.summary == measure.paragraph == "Return the width of a beam after the lens."
    assert measure.fragments == (
        ("Return the width of a", "beam after the lens."),
        ("width: width before the lens,", "counted in whole pixels."),
    )
    plain = found["optics.beams.plain"]
    assert plain.summary == "Say nothing about a and b."
    assert plain.paragraph == "Say nothing about a and b. Then say a little more, e.g. Nothing new."
    lens = found["optics.beams.Lens"]
    assert (lens.kind, lens.signature, lens.module, lens.short) == (
        "class",
        "Lens(self, focus)",
        "optics.beams",
        "Lens",
    )
    assert found["optics.beams.Lens.bend"].kind == "method"
    assert found["optics.beams.Lens.bend"].short == "Lens.bend"


def test_module_names_and_skipped_places(tmp_path: Path) -> None:
    function = 'def f{0}(x):\n    """Return the value number {0} of x."""\n'
    root = made(
        tmp_path,
        __init__=function.format(1),
        sub__in____init__=function.format(2),
        sub__in__deep=function.format(3),
        tests__in__anything=function.format(4),
        _private=function.format(5),
        test_beams=function.format(6),
        idlelib__in__editor=function.format(7),
    )
    assert sorted(scanned(root)) == ["optics.f1", "optics.sub.deep.f3", "optics.sub.f2"]
    assert sorted(scanned(root, prefix="")) == ["sub.deep.f3", "sub.f2"], "no module, no name"


def test_same_text_is_kept_once(tmp_path: Path) -> None:
    twice = 'def {0}(x):\n    """{1} the distance between two points in the plane."""\n'
    root = made(
        tmp_path, b=twice.format("z", "Return"), a=twice.format("y", "RETURN: "), c=twice.format("x", "Compute")
    )
    found = scanned(root)
    assert sorted(found) == ["optics.a.y", "optics.c.x"]
    assert [len(item.fragments) for item in found.values()] == [1, 0], "the second half is the same sentence's"


def test_bad_files_are_counted_not_fatal(tmp_path: Path) -> None:
    good = 'def f(x):\n    """Return the square root of x."""\n    return "\\d"\n'
    root = made(
        tmp_path,
        broken="def f(:\n",
        latin=b"# coding: latin-1\nx = '\xe9'\n",
        nul=b"x = 1\x00",
        deep="x = " + "(" * 5_000 + ")" * 5_000,
        large="#" * (documentation.FILE_BYTES_MAX + 1),
        good=good,
    )
    scan = scan_source("ours", root, prefix="optics", files_max=100)
    assert [item.name for item in scan.objects] == ["optics.good.f"]
    assert (scan.files_read, scan.files_oversized, scan.files_unparsable) == (1, 1, 4)


def test_missing_source_gives_nothing(tmp_path: Path) -> None:
    assert scan_source("ours", tmp_path / "nowhere", prefix="optics", files_max=10).objects == ()
    assert documentation._package_root("bitweir_no_such_package") is None
    assert documentation._package_root("sys") is None


def test_file_limit_keeps_shallow_modules(tmp_path: Path) -> None:
    root = made(
        tmp_path,
        a__in__b__in__c='def f(x):\n    """Return the first of all x."""\n',
        z='def g(x):\n    """Return the last of all x."""\n',
    )
    scan = scan_source("ours", root, prefix="optics", files_max=1)
    assert [item.name for item in scan.objects] == ["optics.z.g"]


def test_long_signatures_fall_back_to_names_then_nothing(tmp_path: Path) -> None:
    def source(count: int) -> str:
        parameters = ", ".join(f"value_{index}: int | None = None" for index in range(count))
        return f'def f({parameters}):\n    """Return the sum of {count} values."""\n'

    found = scanned(made(tmp_path, some=source(8), many=source(60)))
    assert list(found) == ["optics.some.f"]
    assert found["optics.some.f"].signature == "f(" + ", ".join(f"value_{index}" for index in range(8)) + ")"


def test_inventory_of_this_installation() -> None:
    scan = documentation.scan_installed()
    assert scan is documentation.scan_installed(), "read once"
    assert documentation.inventory() == tuple(sorted(scan.objects, key=lambda item: item.name))
    assert len({item.name for item in scan.objects}) == len(scan.objects) == sum(scan.counts.values())
    assert scan.counts[documentation.STANDARD_LIBRARY] > 1_000
    assert len(scan.objects) > 2_000
    for item in scan.objects:
        texts = (item.name, item.signature, item.summary, item.paragraph, *itertools.chain(*item.fragments))
        assert all(text.isascii() and text.isprintable() and text == text.strip() for text in texts)
        assert len(item.summary.split()) >= documentation.SUMMARY_WORDS_MIN
        assert len(item.paragraph.split()) <= documentation.PARAGRAPH_WORDS_MAX
        assert item.paragraph.startswith(item.summary)
        assert not any(part.startswith("_") for part in item.name.split("."))


def test_items_have_their_fields(items: dict[Split, list[Item]]) -> None:
    for split, drawn in items.items():
        assert set(Counter(item.family for item in drawn)) == set(FAMILIES)
        for item in drawn:
            assert item.corpus == documentation.CORPUS
            assert item.split is split
            assert item.reasoning == ""
            assert item.prompt and item.answer
            assert "{" not in item.family and "<think>" not in item.prompt + item.answer
            if item.family == "which_module":
                assert item.key.startswith(item.final + ".")
                assert f"**{item.final}**" in item.answer
            else:
                assert item.final == ""


def test_sides_share_no_key_prompt_or_answer(items: dict[Split, list[Item]]) -> None:
    train, held_out = items[Split.TRAIN], items[Split.EVAL]
    assert not {item.key for item in train} & {item.key for item in held_out}, "over all families"
    assert not {item.prompt for item in train} & {item.prompt for item in held_out}

    def answers(drawn: list[Item]) -> set[str]:
        kinds = ("signature_summary", "docstring", "completion")
        return {
            " ".join(item.answer.casefold().split())
            for item in drawn
            if item.family in kinds and len(item.answer.split()) >= 3
        }

    assert len(answers(held_out)) > 500
    assert not answers(train) & answers(held_out)


def test_every_answer_of_the_inventory_is_on_one_side() -> None:
    seen: dict[str, str] = {}
    for item in documentation.inventory():
        own = {item.summary, item.paragraph, *(tail for _, tail in item.fragments)}
        for text in {" ".join(text.casefold().split()) for text in own}:
            assert seen.setdefault(text, item.name) == item.name


def test_same_seed_same_items_other_seed_others() -> None:
    def first(seed: int, split: Split) -> list[Item]:
        return list(itertools.islice(documentation.generate(seed, split), 50))

    assert first(1, Split.TRAIN) == first(1, Split.TRAIN)
    assert first(1, Split.TRAIN) != first(2, Split.TRAIN)
    assert first(-1, Split.EVAL) != first(1, Split.EVAL)


def test_nothing_to_ask_is_an_error_at_once() -> None:
    with pytest.raises(CorpusError, match="no documented object") as caught:
        questions((), 0, Split.TRAIN)
    assert caught.value.remedy


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_wordings_name_the_object(family: str) -> None:
    for wording in documentation.PROMPTS[family]:
        assert ("{short}" in wording and "{summary}" in wording) if family == "which_module" else "{name}" in wording


def test_scanning_imports_nothing_and_is_the_same_elsewhere() -> None:
    code = """
import hashlib, itertools, json, sys, sysconfig, unicodedata
sysconfig.get_paths()  # loads its own tables; unicodedata is what the compiler itself loads to read foreign identifiers
from bitweir_compression.corpus import Split, documentation
before = set(sys.modules)
scan = documentation.scan_installed()
drawn = [item.prompt + item.answer for item in itertools.islice(documentation.generate(3, Split.EVAL), 200)]
print(json.dumps([sorted(set(sys.modules) - before), hashlib.sha256("".join(drawn).encode()).hexdigest()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    imported, digest = json.loads(done.stdout)
    assert imported == []
    here = [item.prompt + item.answer for item in itertools.islice(documentation.generate(3, Split.EVAL), 200)]
    assert digest == hashlib.sha256("".join(here).encode()).hexdigest()
