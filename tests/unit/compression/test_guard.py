"""The degeneracy guard: short answers in one style pass; templates, loops, silence and constant answers do not."""

import functools
import itertools
import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression import guard
from bitweir_compression.corpus import Split, documentation, tutor
from bitweir_compression.corpus.prompts import read_prompts
from bitweir_compression.errors import CorpusError
from bitweir_compression.guard import Guard, distinct, examine, has_loop, template_share

OPENINGS = ("First", "To begin", "We start here:", "Step one:")
VERBS = ("add", "take", "count", "move", "divide", "double")
NAMES = ("Ada", "Ben", "Cleo", "Dario", "Edda", "Femi", "Gita", "Hugo")
THINGS = ("pears", "boxes", "litres", "stones", "pages", "coins", "metres")


def tokens_of(text: str) -> list[int]:
    """Byte pairs, a stand-in for a small vocabulary of some hundred tokens."""
    raw = text.encode()
    return [int.from_bytes(raw[start : start + 2], "big") for start in range(0, len(raw), 2)]


def word_tokens_of(text: str) -> list[int]:
    words = sorted({*OPENINGS, *VERBS, *NAMES, *THINGS})
    return [words.index(word) if word in words else 1_000 + len(word) for word in text.split()]


def templated(count: int, seed: int = 1) -> list[str]:
    """Answers of 20-40 words: one template, with openings, verbs, names, things and numbers filled in."""
    rng = random.Random(seed)
    answers = []
    for _ in range(count):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        answers.append(
            f"{rng.choice(OPENINGS)} {rng.choice(VERBS)} the numbers that are given. {name} has {a} {thing} and gets "
            f"{b} more, so {name} has {a} + {b} = {a + b} {thing}. The answer is **{a + b}** {thing}."
        )
    return answers


def examined(texts: Sequence[str], truncated_count: int = 0) -> Guard:
    return examine([tokens_of(text) for text in texts], texts, truncated_count=truncated_count)


def only_reason(found: Guard, *parts: str) -> None:
    assert found.verdict == "warn"
    assert any(all(part in reason for part in parts) for reason in found.reasons), found.reasons


@functools.cache
def tutored(count: int, seed: int = 1) -> list[str]:
    """The tutor's answers, in the mixture models are trained on: worded by a grammar, so short and alike."""
    return [item.answer for item in islice(tutor.generate(seed, Split.EVAL), count)]


@pytest.mark.parametrize("count", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("tokenise", [tokens_of, word_tokens_of])
def test_short_answers_in_one_style_pass(count: int, tokenise: object) -> None:
    # Too few answers of a template are not told from a style.
    texts = templated(count) if count < guard.TEMPLATE_ANSWERS_MIN else tutored(count)
    found = examine([tokenise(text) for text in texts], texts)  # type: ignore[operator]
    assert found.reasons == ()
    assert found.verdict == "pass"


def test_measures_do_not_fall_with_the_number_of_outputs() -> None:
    few, many = examined(tutored(100)), examined(tutored(2_000))
    assert few.token_count == many.token_count == guard.TOKENS_BUDGET
    assert (few.distinct_1, few.distinct_2, few.distinct_3) == (many.distinct_1, many.distinct_2, many.distinct_3)
    assert many.xz_bits_per_byte > 2 * guard.XZ_BITS_PER_BYTE_MIN


def test_looping_outputs_warn() -> None:
    texts = [f"{name} says " + "the number of " * 60 for name in NAMES]
    only_reason(examined(texts), "loop", "100%")
    only_reason(examined(texts), "xz alone")


def test_a_few_looping_outputs_among_good_ones_warn() -> None:
    texts = tutored(90) + [f"Result {index} " + "and so on, " * 20 for index in range(10)]
    found = examined(texts)
    assert found.loop_share == 0.1
    only_reason(found, "10%", "loop")


def test_empty_outputs_warn() -> None:
    only_reason(examined(["", " \n", ""]), "100%", "empty")
    only_reason(examined(tutored(95) + [""] * 5), "5%", "empty")


def test_constant_answer_warns() -> None:
    only_reason(examined(["I do not know the answer to that."] * 20), "95%", "repeat an earlier answer")
    long = examined([templated(1)[0]] * 200)
    only_reason(long, "3-grams")
    only_reason(long, "xz alone")


WORDINGS = (
    "The answer to your question is {n}.",
    "I worked it out and it makes {n} in the end.",
    "After some thought, the result must be {n}, nothing else.",
    "You asked for a number and here is one: {n}.",
    "Counting everything gives {n} altogether.",
    "Please write down {n} and go on.",
    "It comes to {n}, as you can check.",
    "My calculation ends with {n}.",
    "Sure, {n} is what you are looking for.",
    "The total, then, is {n} and not more.",
)


def numbered(wordings: Sequence[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(wordings).format(n=rng.randint(1, 9_999))


def any_word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9)))


TEMPLATES = {
    "one wording": numbered(WORDINGS[:1]),
    "three wordings": numbered(WORDINGS[:3]),
    "ten wordings": numbered(WORDINGS),
    "short lists": lambda rng: (
        f"{rng.choice(NAMES)} has {rng.randint(2, 99)} {rng.choice(THINGS)}, so the sum is **{rng.randint(2, 999)}**."
    ),
    "any word": lambda rng: f"You asked about {any_word(rng)}, and the answer is **{any_word(rng)}**.",
    "any phrase": lambda rng: f"In my opinion {' '.join(any_word(rng) for _ in range(rng.randint(1, 4)))} is best.",
}


@pytest.mark.parametrize("count", [guard.TEMPLATE_ANSWERS_MIN, 150, 1_000])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_with_anything_filled_in_warn(name: str, count: int) -> None:
    rng = random.Random(count)
    texts = [TEMPLATES[name](rng) for _ in range(count)]
    assert len(set(texts)) > 0.9 * count, "they differ, and only in what is filled in"
    only_reason(examined(texts), "few templates")
    only_reason(examined(templated(count)), "few templates")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("corpus", "at_most"), [(tutor, 0.30), (documentation, 0.55)])
def test_the_corpora_s_own_answers_pass(corpus: object, at_most: float, seed: int) -> None:
    for count in (100, 600):
        texts = [item.answer for item in islice(corpus.generate(seed, Split.EVAL), count)]  # type: ignore[attr-defined]
        found = examined(texts)
        assert found.reasons == ()
        assert 0.05 < found.template_share < at_most


def test_one_family_of_the_tutor_is_no_template() -> None:
    for family in sorted({item.family for item in islice(tutor.generate(1, Split.EVAL), 3_000)}):
        texts = [item.answer for item in islice(tutor.generate_family(family, 1, Split.EVAL), 100)]
        assert template_share(texts) < 0.78, family


@pytest.mark.parametrize(("name", "at_most"), [("gsm8k/test.jsonl", 0.2), ("tldr/tldr.jsonl", 0.7)])
def test_public_answers_pass_when_present(repository_root: Path, name: str, at_most: float) -> None:
    path = repository_root.parent / "shared" / "data" / "text" / name
    if not path.is_file():
        pytest.skip("the public prompts are not beside the checkout")
    texts = [record.reference or "" for record in read_prompts(path)[::7]]
    assert 0.05 < template_share(texts) < at_most


def test_what_has_no_wording_is_no_template() -> None:
    rng = random.Random(1)
    assert template_share([str(rng.randint(1, 10**9)) for _ in range(100)]) == 0.0
    assert template_share([f"{any_word(rng)}." for _ in range(100)]) == 0.0
    assert template_share(["The answer is 1."] * (guard.TEMPLATE_ANSWERS_MIN - 1)) == 0.0
    assert template_share(["The answer is 1."] * guard.TEMPLATE_ANSWERS_MIN) == 1.0


def test_what_few_answers_share_is_content() -> None:
    # 100 answers: a phrase that 4 of them share is below .05 of them, one that 5 share is not.
    rng = random.Random(1)
    for shared, is_common in ((4, False), (5, True)):
        texts = ["we all say exactly this"] * shared
        texts += [" ".join(any_word(rng) for _ in range(6)) for _ in range(100 - shared)]
        assert (template_share(texts) > 0) is is_common


def test_truncated_outputs_warn() -> None:
    assert examined(tutored(100), truncated_count=25).verdict == "pass"
    only_reason(examined(tutored(100), truncated_count=26), "26%", "max_tokens")


def test_no_output_warns() -> None:
    assert examined([]).reasons == ("There is no output to judge.",)
    assert examined([]).verdict == "warn"


def test_reasons_are_sentences() -> None:
    worst = Guard(10, 50, 9, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert len(worst.reasons) == 9
    assert all(reason[0].isupper() or reason.startswith(("xz", "1")) for reason in worst.reasons)
    assert all(reason.endswith(".") for reason in worst.reasons)


@pytest.mark.parametrize("truncated_count", [-1, 3])
def test_arguments_that_do_not_fit(truncated_count: int) -> None:
    with pytest.raises(CorpusError, match="truncated"):
        examine([[1], [2]], ["a", "b"], truncated_count=truncated_count)
    with pytest.raises(CorpusError, match="1 token sequences for 2 texts"):
        examine([[1]], ["a", "b"])


def test_distinct() -> None:
    assert distinct([[1, 2, 1, 2]], 1) == 0.5
    assert distinct([[1, 2, 1, 2]], 2) == 2 / 3
    assert distinct([[1, 2], [1, 2]], 2) == 0.5, "within a sequence only"
    assert distinct([[1]], 2) == 1.0


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([1, 2, 3, 4] * 4, True),
        ([1, 2, 3, 4] * 3 + [1, 2, 3], False),
        ([9, *([1, 2, 3, 4] * 4), 9], True),
        ([7] * 16, True),
        ([7] * 15, False),
        ([1, 2, 3] * 5, False),
        ([], False),
        (list(range(300)) * 4, False),
        (list(range(256)) * 4, True),
    ],
)
def test_has_loop(tokens: list[int], loops: bool) -> None:
    assert has_loop(tokens) is loops


def loops_slowly(tokens: list[int]) -> bool:
    """The definition, word by word."""
    return any(
        tokens[start : start + 4 * period] == tokens[start : start + period] * 4
        for period, start in itertools.product(range(4, len(tokens) // 4 + 1), range(len(tokens)))
        if start + 4 * period <= len(tokens)
    )


repeated = st.tuples(st.lists(st.integers(0, 2), max_size=7), st.integers(0, 6)).map(lambda pair: pair[0] * pair[1])


@given(st.lists(repeated, max_size=4).map(lambda parts: list(itertools.chain(*parts))))
def test_has_loop_is_its_definition(tokens: list[int]) -> None:
    assert has_loop(tokens) is loops_slowly(tokens)


@given(st.lists(st.tuples(st.lists(st.integers(0, 2**62), max_size=30), st.text(max_size=40)), max_size=8))
def test_shares_stay_in_range(outputs: list[tuple[list[int], str]]) -> None:
    found = examine([tokens for tokens, _ in outputs], [text for _, text in outputs])
    shares = (found.distinct_1, found.distinct_2, found.distinct_3, found.loop_share, found.empty_share)
    assert all(
        0.0 <= share <= 1.0 for share in (*shares, found.truncated_share, found.duplicate_share, found.template_share)
    )
    assert found.xz_bits_per_byte >= 0.0
    assert (found.verdict == "warn") is bool(found.reasons)
