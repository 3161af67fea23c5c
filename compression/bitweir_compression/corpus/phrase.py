"""A tiny phrase grammar: how the tutor words one problem in thousands of ways.

    template := part*
    part     := text | "{" slot name "}" | "[" template ("|" template)+ "]"

Rules:
1. Brackets, braces and bars are always grammar; text that needs them comes in through a slot, whose value is never
   read as grammar.
2. Every choice is uniform over its alternatives, one `choice` of the given generator each, left to right: the text is
   a function of (template, slots, state of the generator).
3. The alternatives of one choice differ as written; an empty one is allowed.
4. A template is parsed whole before anything is drawn: a malformed one raises `CorpusError` even in a branch not
   taken.
"""

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from bitweir_compression.errors import CorpusError

# Nesting deeper than this is a slip of the pen, not a wording.
DEPTH_MAX = 12

_TOKENS = re.compile(r"[\[\]|{}]|[^\[\]|{}]+")
_SLOT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPACES = re.compile(r"(?<=\S) {2,}")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")


@dataclass(frozen=True)
class Slot:
    """A place filled with the value of that name."""

    name: str


@dataclass(frozen=True)
class Choice:
    """A place where one of two or more alternatives is taken."""

    alternatives: tuple["Phrase", ...]


Phrase = tuple[str | Slot | Choice, ...]


def _malformed(template: str, problem: str) -> CorpusError:
    return CorpusError(f"{problem} in template {template!r}", remedy="write choices as [a|b] and slots as {name}")


class _Parser:
    """Recursive descent over the tokens of one template."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._tokens = _TOKENS.findall(template)
        self._at = 0

    def whole(self) -> Phrase:
        phrase = self._phrase(0)
        if self._at < len(self._tokens):
            raise _malformed(self._template, f"{self._tokens[self._at]!r} outside a choice")
        return phrase

    def _next(self) -> str:
        if self._at == len(self._tokens):
            return ""
        self._at += 1
        return str(self._tokens[self._at - 1])

    def _phrase(self, depth: int) -> Phrase:
        if depth > DEPTH_MAX:
            raise _malformed(self._template, f"more than {DEPTH_MAX} nested choices")
        parts: list[str | Slot | Choice] = []
        while self._at < len(self._tokens) and self._tokens[self._at] not in "|]":
            piece = self._next()
            if piece == "[":
                parts.append(self._choice(depth + 1))
            elif piece == "{":
                parts.append(self._slot())
            elif piece == "}":
                raise _malformed(self._template, "'}' without '{'")
            else:
                parts.append(piece)
        return tuple(parts)

    def _choice(self, depth: int) -> Choice:
        alternatives = [self._phrase(depth)]
        while (piece := self._next()) == "|":
            alternatives.append(self._phrase(depth))
        if piece != "]":
            raise _malformed(self._template, "'[' without ']'")
        if len(alternatives) == 1:
            raise _malformed(self._template, "a choice of one")
        if len(set(alternatives)) < len(alternatives):
            raise _malformed(self._template, "the same alternative twice")
        return Choice(tuple(alternatives))

    def _slot(self) -> Slot:
        name, end = self._next(), self._next()
        if end != "}" or not _SLOT_NAME.fullmatch(name):
            raise _malformed(self._template, f"bad slot {'{' + name + end!r}")
        return Slot(name)


@lru_cache(maxsize=1024)
def parse(template: str) -> Phrase:
    """Return the parts of a template; raise `CorpusError` if it is malformed."""
    return _Parser(template).whole()


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Return one wording of a template.

    Args:
        template: text in the grammar above.
        slots: a value for each slot that may come up; inserted as is.
        rng: the only source of chance.

    Raises:
        CorpusError: malformed template, or a slot without a value anywhere in it.
    """
    phrase = parse(template)
    missing = slot_names(template) - slots.keys()
    if missing:
        raise CorpusError(
            f"unknown slot {min(missing)!r} in template {template!r}", remedy=f"give one of {sorted(slots)}"
        )
    pieces: list[str] = []
    _write(phrase, slots, rng, pieces)
    return "".join(pieces)


def _write(phrase: Phrase, slots: Mapping[str, str], rng: random.Random, pieces: list[str]) -> None:
    for part in phrase:
        if isinstance(part, str):
            pieces.append(part)
        elif isinstance(part, Slot):
            pieces.append(slots[part.name])
        else:
            _write(rng.choice(part.alternatives), slots, rng, pieces)


@lru_cache(maxsize=1024)
def slot_names(template: str) -> frozenset[str]:
    """Return the names of all slots of a template, in every branch."""
    return frozenset(_names(parse(template)))


def _names(phrase: Phrase) -> set[str]:
    names: set[str] = set()
    for part in phrase:
        if isinstance(part, Slot):
            names.add(part.name)
        elif isinstance(part, Choice):
            names.update(*(_names(alternative) for alternative in part.alternatives))
    return names


def entropy_bits(template: str) -> float:
    """Return the bits of choice in one expansion: log2 of the alternatives plus the mean of what is nested in them.

    This is the entropy of the choices made. It equals the entropy of the text where no two sequences of choices write
    the same text, and is above it otherwise.
    """
    return _entropy_bits(parse(template))


def _entropy_bits(phrase: Phrase) -> float:
    bits = 0.0
    for part in phrase:
        if isinstance(part, Choice):
            nested = [_entropy_bits(alternative) for alternative in part.alternatives]
            bits += math.log2(len(nested)) + sum(nested) / len(nested)
    return bits


def tidy(text: str) -> str:
    """Return expanded text with runs of spaces made one (indentation kept) and sentences begun with a capital."""
    single = _SPACES.sub(" ", text.strip())
    return _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), single)
