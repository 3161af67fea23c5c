"""The procedural tutor: endless short problems with worked steps and answers in thousands of wordings.

Rules:
1. A stream is a function of (seed, split, family); the mixed stream draws the next family uniformly and takes the next
   item of that family's own stream.
2. A problem whose side of the train/eval line is not the asked one is redrawn before it is worded.
3. Every answer marks its final answer in bold, once; `check` reads that span and nothing else, so no other number in
   the text can fool it.
4. Prompts, steps and answers are ASCII. Any change of wording changes the frozen digest in tests/vectors/tutor.json.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from bitweir_compression.corpus import (
    families_code,
    families_lists,
    families_measures,
    families_strings,
    families_words,
)
from bitweir_compression.corpus.families_common import Family, Problem
from bitweir_compression.corpus.items import Item, Split, split_of
from bitweir_compression.corpus.phrase import expand, tidy
from bitweir_compression.errors import CorpusError

__all__ = ["CORPUS", "FAMILIES", "Family", "check", "generate", "generate_family"]

CORPUS: Final = "tutor"

# One problem in ten is on the eval side, so so many draws in a row miss it with odds below 1e-45.
REDRAWS_MAX: Final = 1000

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        family.name: family
        for module in (families_words, families_measures, families_lists, families_strings, families_code)
        for family in module.FAMILIES
    }
)

_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def generate(seed: int, split: Split) -> Iterator[Item]:
    """Yield items without end, families drawn uniformly, all on one side of the line."""
    names = tuple(FAMILIES)
    streams = {name: generate_family(name, seed, split) for name in names}
    rng = _stream(seed, split, "*")
    while True:
        yield next(streams[rng.choice(names)])


def generate_family(name: str, seed: int, split: Split) -> Iterator[Item]:
    """Yield items of one family without end.

    Raises:
        CorpusError: no such family (at the first `next`), or its problems are never on the asked side.
    """
    family = _family(name)
    rng = _stream(seed, split, name)
    while True:
        problem = _draw(family, split, rng)
        yield Item(
            corpus=CORPUS,
            family=name,
            key=problem.key,
            prompt=tidy(expand(family.prompts, problem.slots, rng)),
            reasoning=problem.steps,
            answer=tidy(expand(family.answers, problem.slots, rng)),
            final=problem.final,
        )


def check(item: Item, text: str) -> bool:
    """Return whether a visible answer marks exactly one final answer in bold, and the right one.

    Case (unless the family is about it), spaces, a trailing full stop and thousands separators do not matter.
    """
    spans = _BOLD.findall(text)
    if len(spans) != 1:
        return False
    case_matters = _family(item.family).case_matters
    return _normal(spans[0], case_matters) == _normal(item.final, case_matters)


def _normal(text: str, case_matters: bool) -> str:
    spaced = re.sub(r"\s*,\s+", ", ", " ".join(text.split()).removesuffix(".").rstrip())
    plain = _THOUSANDS.sub("", spaced)
    return plain if case_matters else plain.casefold()


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise CorpusError(f"no tutor family {name!r}", remedy=f"choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _stream(seed: int, split: Split, name: str) -> random.Random:
    digest = hashlib.sha256("\x1f".join((CORPUS, str(seed), split.value, name)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - text, not secrets


def _draw(family: Family, split: Split, rng: random.Random) -> Problem:
    for _ in range(REDRAWS_MAX):
        problem = family.draw(rng)
        if split_of(CORPUS, family.name, problem.key) is split:
            return problem
    raise CorpusError(
        f"family {family.name} has no {split.value} problem", remedy="widen what its slots are drawn from"
    )
