"""The degeneracy guard: is the strong model's output worth compressing at all?

A broken model that loops, says nothing or says the same thing to everybody, be it with another number each time, costs
almost no bits, and would be the best result in any report. The guard looks at the output alone and says `warn` with
reasons, or `pass`.

Rules:
1. It never changes or filters output, and a warning never becomes a pass by taking more of the same: shares are of all
   sequences, and the measures that change with length (distinct-n, xz, templates) are taken over a fixed budget from
   the front.
2. Thresholds let short answers in one style pass (distinct-2 of .05 to .4 over the budget) where they are worded in
   many ways, and are lower or upper bounds with a reason each. A sample too small to judge by one measure passes it; no
   sample at all warns.
3. `pass` means "not obviously broken", not "good".
"""

import lzma
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitweir_compression.errors import CorpusError

TOKENS_BUDGET = (
    2_000  # tokens from the front; 50-100 short answers. distinct-n falls with length, so the length is fixed
)
TEXT_BYTES_BUDGET = 16_384  # bytes from the front; xz's container (about 60 bytes) is then .03 bits a byte
XZ_PRESET = 2  # a 2 MiB dictionary holds the budget; higher presets only take more memory

# n-gram bounds over the budget. A constant answer of 30 tokens has .015; templated text has .05 or more in distinct-2.
DISTINCT_1_MIN = 0.008  # 16 different tokens in 2,000
DISTINCT_2_MIN = 0.030  # 60 different pairs in 2,000
DISTINCT_3_MIN = 0.040  # 80 different triples in 2,000
XZ_BITS_PER_BYTE_MIN = 0.4  # looping text measured .06, templated text over 1, English prose 2 and more
LOOP_PERIOD_MIN = 4  # tokens; shorter repeats occur in lists and number tables
LOOP_PERIOD_MAX = 256  # tokens; a bound on work: longer loops show in xz and distinct-n
LOOP_REPEATS_MIN = 4  # times back to back; three can be rhetoric
LOOP_SHARE_MAX = 0.05  # of all sequences; a sound model at temperature 1 loops now and then
EMPTY_SHARE_MAX = 0.02  # of all sequences; nearly every prompt deserves an answer
TRUNCATED_SHARE_MAX = (
    0.25  # of all sequences; more means the model does not know how to stop, or max_tokens is too small
)
DUPLICATE_SHARE_MAX = 0.5  # of the answers; different prompts may share an answer, but not half of them
DUPLICATE_ANSWERS_MIN = 4  # answers; of two or three, one coincidence is already a large share

# One to ten wordings with other numbers, names or words filled in measure .92 to 1.00; the tutor's answers up to .3, a
# single family of them up to .76, documentation up to .55 (tests/unit/compression/test_guard.py measures them).
TEMPLATE_SHARE_MAX = 0.85  # between one family of the tutor, worded in many ways, and the loosest template
TEMPLATE_ANSWERS_MIN = 60  # answers; of fewer, three that share a phrase by chance would make it a common one
TEMPLATE_ANSWERS_BUDGET = 400  # answers from the front; the measure settles well before
TEMPLATE_CHARS_BUDGET = 2_000  # characters of each; a bound on work
TEMPLATE_COMMON_SHARE = 0.05  # of the answers; what fewer of them hold is content: twenty templates still show
TEMPLATE_GRAM_WORDS = 4  # words; three are common by chance in prose, five miss templates with many slots

_WORD = re.compile(r"[^\W\d]+|\d+|[^\w\s]")  # letters, digits, or one other character
_SLOT, _EDGE = "0", ""  # never fixed words: those are no digits and not empty


@dataclass(frozen=True)
class Guard:
    """What the guard measured.

    Attributes:
        sequence_count: sequences looked at.
        token_count: tokens the distinct-n were taken over, at most `TOKENS_BUDGET`.
        answer_count: sequences whose text is not empty.
        distinct_1, distinct_2, distinct_3: different n-grams / n-grams over the budget, 0 to 1; n-grams do not cross
            sequences; 1 where there are none.
        xz_bits_per_byte: of the first `TEXT_BYTES_BUDGET` bytes of the texts; 0 where there are none.
        loop_share: sequences in which a run of tokens comes several times in a row, see `has_loop`.
        empty_share: sequences whose text is white space only.
        truncated_share: sequences that were stopped by max_tokens.
        duplicate_share: answers that another answer before them already gave, of all that are not empty.
        template_share: wording that comes from a few templates, see `template_share`.
    """

    sequence_count: int
    token_count: int
    answer_count: int
    distinct_1: float
    distinct_2: float
    distinct_3: float
    xz_bits_per_byte: float
    loop_share: float
    empty_share: float
    truncated_share: float
    duplicate_share: float
    template_share: float

    @property
    def verdict(self) -> Literal["pass", "warn"]:
        """`warn` where there is a reason to doubt the output."""
        return "warn" if self.reasons else "pass"

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence per bound that is broken, with the value and the bound."""
        if self.sequence_count == 0:
            return ("There is no output to judge.",)
        found = [
            f"Only {value:.3f} of the {n}-grams in {self.token_count} tokens are different (at least {least} expected)."
            for n, value, least in (
                (1, self.distinct_1, DISTINCT_1_MIN),
                (2, self.distinct_2, DISTINCT_2_MIN),
                (3, self.distinct_3, DISTINCT_3_MIN),
            )
            if value < least
        ]
        if self.answer_count and self.xz_bits_per_byte < XZ_BITS_PER_BYTE_MIN:
            found.append(
                f"xz alone needs only {self.xz_bits_per_byte:.2f} bits a byte (at least {XZ_BITS_PER_BYTE_MIN} "
                "expected): the text repeats itself."
            )
        if self.loop_share > LOOP_SHARE_MAX:
            found.append(f"{self.loop_share:.0%} of the outputs run in a loop (at most {LOOP_SHARE_MAX:.0%} expected).")
        if self.empty_share > EMPTY_SHARE_MAX:
            found.append(f"{self.empty_share:.0%} of the outputs are empty (at most {EMPTY_SHARE_MAX:.0%} expected).")
        if self.truncated_share > TRUNCATED_SHARE_MAX:
            found.append(
                f"{self.truncated_share:.0%} of the outputs were cut by max_tokens (at most {TRUNCATED_SHARE_MAX:.0%} "
                "expected): the model does not stop, or the limit is too small."
            )
        if self.answer_count >= DUPLICATE_ANSWERS_MIN and self.duplicate_share > DUPLICATE_SHARE_MAX:
            found.append(
                f"{self.duplicate_share:.0%} of the answers repeat an earlier answer (at most "
                f"{DUPLICATE_SHARE_MAX:.0%} expected)."
            )
        if self.template_share > TEMPLATE_SHARE_MAX:
            found.append(
                f"{self.template_share:.0%} of the wording is that of a few templates (at most "
                f"{TEMPLATE_SHARE_MAX:.0%} expected): the answers differ in what is filled in only."
            )
        return tuple(found)


def examine(token_ids: Sequence[Sequence[int]], texts: Sequence[str], *, truncated_count: int = 0) -> Guard:
    """Measure a set of outputs.

    Args:
        token_ids: the tokens of each output, without the end token, each a 64-bit integer.
        texts: the same outputs as text, in the same order; outputs should belong to different prompts.
        truncated_count: how many of them were stopped by max_tokens.

    Raises:
        CorpusError: the arguments do not fit together.
    """
    count = len(texts)
    if len(token_ids) != count:
        raise CorpusError(f"{len(token_ids)} token sequences for {count} texts", remedy="give both for every output")
    if not 0 <= truncated_count <= count:
        raise CorpusError(f"{truncated_count} of {count} outputs truncated", remedy="count them among these outputs")
    budget = _front(token_ids)
    answers = [text.strip() for text in texts if text.strip()]
    return Guard(
        sequence_count=count,
        token_count=sum(len(tokens) for tokens in budget),
        answer_count=len(answers),
        distinct_1=distinct(budget, 1),
        distinct_2=distinct(budget, 2),
        distinct_3=distinct(budget, 3),
        xz_bits_per_byte=_xz_bits_per_byte(answers),
        loop_share=_share(sum(has_loop(tokens) for tokens in token_ids), count),
        empty_share=_share(count - len(answers), count),
        truncated_share=_share(truncated_count, count),
        duplicate_share=_share(len(answers) - len(set(answers)), len(answers)),
        template_share=template_share(answers),
    )


def distinct(token_ids: Sequence[Sequence[int]], n: int) -> float:
    """Return different n-grams / n-grams, over all sequences and within each; 1.0 where there is no n-gram."""
    grams = [tuple(tokens[start : start + n]) for tokens in token_ids for start in range(max(0, len(tokens) - n + 1))]
    return len(set(grams)) / len(grams) if grams else 1.0


def has_loop(tokens: Sequence[int]) -> bool:
    """Say whether some run of `LOOP_PERIOD_MIN` to `LOOP_PERIOD_MAX` tokens comes `LOOP_REPEATS_MIN` times in a row.

    A stretch repeats with period p where every token equals the one p before it; r repeats are (r - 1) * p such
    equalities in a row. So one comparison of the sequence with itself per period, and a look for the longest run.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    for period in range(LOOP_PERIOD_MIN, min(LOOP_PERIOD_MAX, len(ids) // LOOP_REPEATS_MIN) + 1):
        differing = np.flatnonzero(ids[period:] != ids[:-period])
        edges = np.concatenate(([-1], differing, [len(ids) - period]))
        if int(np.diff(edges).max()) - 1 >= (LOOP_REPEATS_MIN - 1) * period:
            return True
    return False


def template_share(texts: Sequence[str]) -> float:
    """Return the share of wording that `TEMPLATE_COMMON_SHARE` of the texts or more have in common, 0 to 1.

    Numbers and words in few of the texts are what is filled in: a run of them is one slot, whatever its length. Of the
    texts made of common words and slots, with a mark at either end, the `TEMPLATE_GRAM_WORDS`-grams are counted that
    hold a common word, not just punctuation. It is 1 for one template with anything filled in, near it for a handful,
    and 0 for answers of a word each, which have no wording, and where there are fewer than `TEMPLATE_ANSWERS_MIN`.
    """
    if len(texts) < TEMPLATE_ANSWERS_MIN:
        return 0.0
    sample = texts[:TEMPLATE_ANSWERS_BUDGET]
    enough = TEMPLATE_COMMON_SHARE * len(sample)
    worded = [_WORD.findall(text[:TEMPLATE_CHARS_BUDGET]) for text in sample]
    texts_with = Counter(word for words in worded for word in set(words))
    grams = [
        _slotted_grams(words, {w for w in words if texts_with[w] >= enough and not w.isdigit()}) for words in worded
    ]
    texts_with_gram = Counter(gram for found in grams for gram in set(found))
    common = sum(texts_with_gram[gram] >= enough for found in grams for gram in found)
    return _share(common, sum(map(len, grams)))


def _slotted_grams(words: Sequence[str], fixed: set[str]) -> list[tuple[str, ...]]:
    """Return the n-grams of a text in which every run of words that are not fixed is one slot."""
    line = [_EDGE] * (TEMPLATE_GRAM_WORDS - 1)
    for word in words:
        if word in fixed:
            line.append(word)
        elif line[-1] != _SLOT:
            line.append(_SLOT)
    line.append(_EDGE)
    grams = (tuple(line[start : start + TEMPLATE_GRAM_WORDS]) for start in range(len(line) - TEMPLATE_GRAM_WORDS + 1))
    return [gram for gram in grams if any(map(str.isalpha, "".join(gram)))]


def _front(token_ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return sequences from the front until the budget is spent; the last one cut."""
    kept: list[Sequence[int]] = []
    left = TOKENS_BUDGET
    for tokens in token_ids:
        if left <= 0:
            break
        kept.append(tokens[:left])
        left -= len(kept[-1])
    return kept


def _xz_bits_per_byte(texts: Sequence[str]) -> float:
    content = bytearray()
    for text in texts:
        if len(content) >= TEXT_BYTES_BUDGET:
            break
        content += text.encode("utf-8", errors="replace") + b"\n"
    sample = bytes(content[:TEXT_BYTES_BUDGET])
    return 8 * len(lzma.compress(sample, preset=XZ_PRESET)) / len(sample) if sample else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
