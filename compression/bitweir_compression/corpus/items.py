"""What a corpus is made of, and which side of the train/eval line an item falls on."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

# Share of all problems held back for evaluation. Large enough that every family has some, small enough to train on
# the rest.
EVAL_SHARE = Fraction(1, 10)


class Split(StrEnum):
    """Which side of the line a problem is on."""

    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True)
class Item:
    """One prompt with a reference answer.

    Attributes:
        corpus: `tutor` or `documentation`.
        family: the template family or kind of question, e.g. `unit_conversion`.
        key: canonical name of the problem (all slot values), independent of wording.
        prompt: what the user asks.
        reasoning: worked steps, to be written between `<think>` and `</think>`; may be empty.
        answer: the visible text.
        final: the checkable final answer inside `answer`; empty where there is none.
    """

    corpus: str
    family: str
    key: str
    prompt: str
    reasoning: str
    answer: str
    final: str

    @property
    def split(self) -> Split:
        """The side this item is on."""
        return split_of(self.corpus, self.family, self.key)


def split_of(corpus: str, family: str, key: str) -> Split:
    """Return the side a problem is on; a function of its name alone (rule 2)."""
    digest = hashlib.sha256("\x1f".join((corpus, family, key)).encode()).digest()
    value = int.from_bytes(digest[:8], "big")
    return Split.EVAL if value * EVAL_SHARE.denominator < EVAL_SHARE.numerator << 64 else Split.TRAIN
