"""The procedural tutor as a whole: splits, limits, entropy, distinctness and frozen items."""

import hashlib
import json
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from bitweir_compression.corpus import Split, families_common
from bitweir_compression.corpus.phrase import entropy_bits, slot_names
from bitweir_compression.corpus.tutor import FAMILIES, check, generate, generate_family
from bitweir_compression.errors import CorpusError

_VECTORS = Path(__file__).parents[2] / "vectors" / "tutor.json"
_DRAWS = 20_000
_WORDS_MAX = {"prompt": 60, "reasoning": 60, "answer": 45}


@pytest.fixture(scope="module")
def drawn():
    return {split: list(islice(generate(7, split), _DRAWS)) for split in Split}


def digest(seed: int, split: Split, count: int) -> str:
    """Return sha256 over the items' fields, as hex; what the vectors freeze."""
    state = hashlib.sha256()
    for item in islice(generate(seed, split), count):
        fields = [item.family, item.key, item.prompt, item.reasoning, item.answer, item.final]
        state.update(json.dumps(fields).encode() + b"\n")
    return state.hexdigest()


def test_there_are_enough_families_of_every_kind():
    assert len(FAMILIES) >= 32
    assert all(name == family.name for name, family in FAMILIES.items())
    kinds = {family.kind for family in FAMILIES.values()}
    assert kinds == {"word", "unit", "date", "list", "table", "string", "code", "sequence", "class"}
    assert all(sum(family.kind == kind for family in FAMILIES.values()) >= 4 for kind in kinds)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_in_both_splits_answers_its_own_questions(name):
    for split in Split:
        for item in islice(generate_family(name, 3, split), 60):
            assert (item.corpus, item.family, item.split) == ("tutor", name, split)
            assert check(item, item.answer)
            assert item.answer.count("**") == 2
            assert item.reasoning.endswith(item.final)


def test_all_families_come_up_about_equally(drawn):
    for items in drawn.values():
        counts = dict.fromkeys(FAMILIES, 0)
        for item in items:
            counts[item.family] += 1
        assert min(counts.values()) > 0.7 * _DRAWS / len(FAMILIES)


def test_no_problem_and_no_prompt_is_on_both_sides(drawn):
    train, evaluation = drawn[Split.TRAIN], drawn[Split.EVAL]
    assert not {(i.family, i.key) for i in train} & {(i.family, i.key) for i in evaluation}
    assert not {i.prompt for i in train} & {i.prompt for i in evaluation}
    assert all(item.split is split for split, items in drawn.items() for item in items)


def test_one_key_has_one_final_answer_and_one_prompt_one_key(drawn):
    finals: dict[tuple[str, str], str] = {}
    keys: dict[str, tuple[str, str]] = {}
    for item in (item for items in drawn.values() for item in items):
        name = (item.family, item.key)
        assert finals.setdefault(name, item.final) == item.final
        assert keys.setdefault(item.prompt, name) == name


def test_prompts_are_mostly_unique(drawn):
    assert len({item.prompt for item in drawn[Split.TRAIN]}) > 0.9 * _DRAWS
    assert len({item.prompt for item in drawn[Split.EVAL]}) > 0.9 * _DRAWS


def test_every_family_has_some_five_hundred_problems():
    for name in FAMILIES:
        rng, keys, draws = random.Random(name), set(), 0
        while len(keys) < 500 and draws < 20_000:
            keys.add(FAMILIES[name].draw(rng).key)
            draws += 1
        assert len(keys) == 500, name


def test_items_are_ascii_and_short(drawn):
    for item in (item for items in drawn.values() for item in items):
        for field, words_max in _WORDS_MAX.items():
            text = getattr(item, field)
            assert text.isascii() and text == text.strip()
            assert 1 <= len(text.split()) <= words_max, (item.family, field)
        assert not re.search(r"[{}]", item.answer)
        assert "  " not in item.prompt.replace("\n    ", "\n")
        assert len(item.prompt) + len(item.reasoning) + len(item.answer) < 700


def test_articles_fit_what_follows(drawn):
    for item in drawn[Split.TRAIN]:
        if item.family in ("count_letter", "replace_letter"):
            continue  # "the letter a occurs"
        texts = item.prompt + " " + item.answer
        assert not re.search(r"\b[Aa] (?:\*\*)?[aeio][a-z]", texts), texts


def test_wording_carries_the_entropy():
    bits = {name: entropy_bits(family.answers) for name, family in FAMILIES.items()}
    assert min(bits.values()) >= 9
    assert sum(bits.values()) / len(bits) >= 12
    assert all(entropy_bits(family.prompts) >= 6 for family in FAMILIES.values())


def test_the_entropy_is_in_the_text_too():
    """Bits of choice bound the text's entropy from above; few choices may write the same text."""
    for name, family in FAMILIES.items():
        items = islice(generate_family(name, 11, Split.TRAIN), 300)
        shapes = {re.sub(r"\*\*.*\*\*|\d+", "#", item.answer) for item in items}
        assert len(shapes) > 200, (name, entropy_bits(family.answers))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_branch_of_an_answer_marks_the_final_once(name):
    assert "final" in slot_names(FAMILIES[name].answers)
    assert "final" not in slot_names(FAMILIES[name].prompts)


def test_a_stream_is_its_family_alone():
    mixed = [item for item in islice(generate(2, Split.EVAL), 1500) if item.family == "coins"]
    assert mixed == list(islice(generate_family("coins", 2, Split.EVAL), len(mixed)))


def test_seeds_and_splits_differ():
    first = [item.prompt for item in islice(generate(1, Split.TRAIN), 50)]
    assert first != [item.prompt for item in islice(generate(2, Split.TRAIN), 50)]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("It is **1,234**.", True),
        ("It is ** 1234. **", True),
        ("It is **1234** or so, 99 is not.", True),
        ("It is **1235**.", False),
        ("It is **12,34**.", False),
        ("It is 1234.", False),
        ("It is **1234**, I mean **1234**.", False),
        ("It is **1** and 234", False),
        ("", False),
    ],
)
def test_check_reads_the_bold_span_only(text, right):
    item = next(generate_family("length_in_metres", 1, Split.TRAIN))
    item = type(item)(item.corpus, item.family, item.key, item.prompt, item.reasoning, item.answer, "1234")
    assert check(item, text) is right


def test_case_matters_only_where_it_is_asked_about():
    upper = next(generate_family("uppercase_join", 1, Split.TRAIN))
    assert not check(upper, upper.answer.lower())
    day = next(generate_family("weekday_shift", 1, Split.TRAIN))
    assert check(day, day.answer.lower())


def test_an_unknown_family_is_named_with_the_known_ones():
    with pytest.raises(CorpusError, match="no tutor family 'poetry'") as caught:
        next(generate_family("poetry", 1, Split.TRAIN))
    assert "addition" in caught.value.remedy


def test_a_family_never_on_the_asked_side_is_an_error(monkeypatch):
    problem = families_common.made({"a": 1}, "1", 1)
    lonely = families_common.Family("lonely", "word", lambda rng: problem, "{a}?", "**{final}**")
    monkeypatch.setattr("bitweir_compression.corpus.tutor.FAMILIES", {"lonely": lonely})
    sides = 0
    for split in Split:
        try:
            next(generate_family("lonely", 1, split))
            sides += 1
        except CorpusError as error:
            assert "lonely" in str(error) and error.remedy
    assert sides == 1


def test_a_pool_too_small_is_an_error():
    with pytest.raises(CorpusError, match="cannot draw 3"):
        families_common.distinct(None, ["a", "b", "a"], 3)


def test_the_frozen_items_have_not_changed():
    frozen = json.loads(_VECTORS.read_text())
    for split in Split:
        assert digest(frozen["seed"], split, frozen["count"]) == frozen["sha256"][split.value]


def test_another_process_writes_the_same_items():
    program = (
        "from itertools import islice; from bitweir_compression.corpus import Split;"
        "from bitweir_compression.corpus.tutor import generate; import hashlib, sys;"
        "text = repr(list(islice(generate(1, Split.EVAL), 100)));"
        "sys.stdout.write(hashlib.sha256(text.encode()).hexdigest())"
    )
    here = hashlib.sha256(repr(list(islice(generate(1, Split.EVAL), 100))).encode()).hexdigest()
    for hash_seed in ("0", "1"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout == here
