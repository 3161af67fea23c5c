"""The phrase grammar: what it writes, what it counts, what it refuses."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.corpus.phrase import DEPTH_MAX, entropy_bits, expand, parse, slot_names, tidy
from bitweir_compression.errors import CorpusError

_PLAIN = st.text(alphabet=st.characters(exclude_characters="[]|{}", codec="ascii"), max_size=6)


def _rng(seed: int) -> random.Random:
    return random.Random(seed)


@st.composite
def _choices(draw, inner):
    branches = draw(st.lists(inner, min_size=2, max_size=4, unique=True))
    return "[" + "|".join(branches) + "]"


_TEMPLATES = st.recursive(
    _PLAIN | st.sampled_from(["{a}", "{b_2}"]),
    lambda inner: _choices(inner) | st.tuples(inner, inner).map("".join),
    max_leaves=12,
)


def _parses(template: str) -> bool:
    try:
        parse(template)
    except CorpusError:
        return False
    return True


_VALID = _TEMPLATES.filter(_parses)


def _all_texts(phrase) -> list[str]:
    """Every expansion with its multiplicity, slots written as their names."""
    texts = [""]
    for part in phrase:
        if isinstance(part, str):
            ends = [part]
        elif hasattr(part, "name"):
            ends = [f"<{part.name}>"]
        else:
            ends = [text for alternative in part.alternatives for text in _all_texts(alternative)]
        texts = [text + end for text in texts for end in ends]
    return texts


def test_choices_slots_and_empty_alternatives():
    seen = {expand("[a|b[c|]]-{x}", {"x": "[1|2]"}, _rng(seed)) for seed in range(60)}
    assert seen == {"a-[1|2]", "bc-[1|2]", "b-[1|2]"}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("[a|b", "without ']'"),
        ("a]", "outside a choice"),
        ("a|b", "outside a choice"),
        ("a}", "without '{'"),
        ("{", "bad slot"),
        ("{a", "bad slot"),
        ("{A}", "bad slot"),
        ("{}", "bad slot"),
        ("[a]", "choice of one"),
        ("[]", "choice of one"),
        ("[a|b|a]", "same alternative twice"),
        ("[" * (DEPTH_MAX + 1) + "a", "nested"),
    ],
)
def test_malformed_templates_are_refused_with_a_remedy(template, problem):
    for use in (parse, entropy_bits, lambda text: expand(text, {}, _rng(0))):
        with pytest.raises(CorpusError, match=problem.replace("[", r"\[")) as caught:
            use(template)
        assert caught.value.remedy


def test_an_unknown_slot_is_refused_even_in_a_branch_not_taken():
    for seed in range(10):
        with pytest.raises(CorpusError, match="unknown slot 'b'") as caught:
            expand("[{a}|x[y|{b}]]", {"a": "1"}, _rng(seed))
        assert "'a'" in caught.value.remedy


@pytest.mark.parametrize(
    ("template", "bits"),
    [("plain {x}", 0), ("[a|b]", 1), ("[a|b][c|d|e|]", 3), ("[a|[b|c]]", 1.5), ("[a|b|c]", math.log2(3))],
)
def test_entropy_is_log2_of_the_alternatives_plus_the_mean_inside(template, bits):
    assert entropy_bits(template) == pytest.approx(bits)


def test_tidy_joins_spaces_keeps_indentation_and_begins_sentences():
    assert tidy(" so  it is.  the end!\n    x = 1 ") == "So it is. The end!\n    x = 1"


@given(_PLAIN)
def test_text_without_grammar_is_itself(text):
    assert expand(text, {}, _rng(0)) == text
    assert entropy_bits(text) == 0


@given(_VALID, st.integers(0, 2**32))
def test_an_expansion_is_one_of_the_texts_of_the_grammar(template, seed):
    slots = {"a": "<a>", "b_2": "<b_2>"}
    assert expand(template, slots, _rng(seed)) in _all_texts(parse(template))
    assert expand(template, slots, _rng(seed)) == expand(template, slots, _rng(seed))
    assert slot_names(template) <= slots.keys()


@given(_VALID, _VALID)
def test_entropy_adds_over_concatenation_and_is_bounded_by_the_count(left, right):
    assert entropy_bits(left + right) == pytest.approx(entropy_bits(left) + entropy_bits(right))
    assert entropy_bits(left) <= math.log2(len(_all_texts(parse(left)))) + 1e-9


@given(st.text(alphabet="[]|{}ab", max_size=12))
def test_any_text_parses_or_is_refused_with_a_corpus_error(template):
    if _parses(template):
        assert not set(expand(template, dict.fromkeys(slot_names(template), ""), _rng(1))) - set("ab")
