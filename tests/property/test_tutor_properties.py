"""The tutor's answers against oracles that share nothing with it, and `check` against wrong answers."""

import ast
import contextlib
import datetime as dt
import io
import random
import re
from code import InteractiveInterpreter
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression.corpus import Split, families_common
from bitweir_compression.corpus.families_lexicon import CATEGORIES
from bitweir_compression.corpus.phrase import expand, tidy
from bitweir_compression.corpus.tutor import FAMILIES, check, generate_family

_SEEDS = st.integers(0, 2**31)
_NAMES = st.sampled_from(sorted(FAMILIES))
_SPLITS = st.sampled_from(list(Split))


def _item(name, seed, split=Split.TRAIN):
    return next(generate_family(name, seed, split))


def _key(item):
    return dict(part.split("=", 1) for part in item.key.split(","))


def _ints(key, *names):
    return [int(key[name]) for name in names]


def _xs(key):
    return key["xs"].split("/")


def _numbers(key):
    return [int(x) for x in _xs(key)]


def _run(item):
    """Execute the program in a prompt; the oracle of every code family."""
    lines = item.prompt.split("\n")
    start = 0 if len(lines) == 1 else 1
    for stop in range(len(lines), start, -1):
        program = "\n".join(lines[start:stop])
        try:
            tree = ast.parse(program)
        except SyntaxError:
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            InteractiveInterpreter().runcode(compile(tree, "prompt", "exec"))
        return out.getvalue().strip()
    raise AssertionError(item.prompt)


def _weekday(name, shift):
    first = next(dt.date(2001, 1, day) for day in range(1, 8) if dt.date(2001, 1, day).strftime("%A") == name)
    return (first + dt.timedelta(days=shift)).strftime("%A")


def _date(text):
    return dt.datetime.strptime(text + " 2001", "%B %d %Y")


def _clock(text):
    return dt.datetime.strptime(text, "%H:%M")


def _date_text(date):
    return f"{date:%B} {date.day}"


def _kind(word):
    return next(kind for kind, members in CATEGORIES.items() if word in members)


def _table(item):
    rows = [line.split(" | ") for line in item.prompt.split("\n") if " | " in line]
    return {row[0]: dict(zip(rows[0][1:], map(int, row[1:]), strict=True)) for row in rows[1:]}


def _odd(key):
    counts = Counter(map(_kind, _xs(key)))
    return next(word for word in _xs(key) if counts[_kind(word)] == 1)


def _letters(key):
    return "".join(word[-1] if key["end"] == "last" else word[0] for word in _xs(key))


def _next_even(key):
    xs = _numbers(key)
    return 2 * xs[-1] - xs[-2]


def _next_growing(key):
    xs = _numbers(key)
    return 3 * xs[-1] - 3 * xs[-2] + xs[-3]


def _unshift(key):
    (n,) = _ints(key, "n")
    return _weekday(key["day"], -n if key["dir"] == "back" else n)


def _grams(text):
    return sum(int(n) * {"kg": 1000, "g": 1}[unit] for n, unit in re.findall(r"(\d+) (kg|g)", text))


_ORACLES = {
    "addition": lambda i, k: sum(_ints(k, "a", "b")),
    "subtraction": lambda i, k: int(k["a"]) - int(k["b"]),
    "multiplication": lambda i, k: sum([int(k["b"])] * int(k["a"])),
    "equal_sharing": lambda i, k: Fraction(int(k["n"]), int(k["d"])),
    "sharing_remainder": lambda i, k: "{} remainder {}".format(*divmod(*_ints(k, "n", "d"))),
    "two_step": lambda i, k: int(k["a"]) + int(k["b"]) - int(k["c"]),
    "change": lambda i, k: int(k["paid"]) - int(k["n"]) * int(k["p"]),
    "ages": lambda i, k: int(k["a"]) + int(k["n"]) + {"older": 1, "younger": -1}[k["dir"]] * int(k["d"]),
    "percentage": lambda i, k: Fraction(int(k["p"]), 100) * int(k["n"]),
    "average": lambda i, k: mean(map(Fraction, _xs(k))),
    "fraction": lambda i, k: Fraction(int(k["t"]), int(k["d"])) * int(k["n"]),
    "think_of_a_number": lambda i, k: next(x for x in range(99) if x * int(k["k"]) + int(k["b"]) == int(k["c"])),
    "mass_in_kilos": lambda i, k: i.final if _grams(i.final) == int(k["g"]) else "wrong",
    "coins": lambda i, k: 25 * int(k["a"]) + 10 * int(k["b"]) + 5 * int(k["c"]),
    "weekday_shift": lambda i, k: _unshift(k),
    "weekday_in_month": lambda i, k: _weekday(k["day"], int(k["b"]) - int(k["a"])),
    "minutes_between": lambda i, k: (_clock(k["to"]) - _clock(k["from"])).seconds // 60,
    "clock_add": lambda i, k: (_clock(k["start"]) + dt.timedelta(minutes=int(k["n"]))).strftime("%H:%M"),
    "date_add": lambda i, k: _date_text(_date(k["date"]) + dt.timedelta(days=int(k["n"]))),
    "date_order": lambda i, k: (max if k["want"] == "last" else min)(k["dates"].split("/"), key=_date),
    "reverse_list": lambda i, k: ", ".join(_xs(k)[::-1]),
    "sort_words": lambda i, k: ", ".join(sorted(_xs(k))),
    "sort_numbers": lambda i, k: ", ".join(map(str, sorted(_numbers(k), reverse=k["dir"] == "falling"))),
    "extreme_number": lambda i, k: (max if k["want"] == "largest" else min)(_numbers(k)),
    "count_item": lambda i, k: _xs(k).count(k["w"]),
    "remove_repeats": lambda i, k: ", ".join(dict.fromkeys(_xs(k))),
    "table_lookup": lambda i, k: _table(i)[k["who"]][k["what"]],
    "column_sum": lambda i, k: sum(cell for row in _table(i).values() for cell in row.values()),
    "row_sum": lambda i, k: sum(_table(i)[k["who"]].values()),
    "row_difference": lambda i, k: sum(_table(i)[k["high"]].values()) - sum(_table(i)[k["low"]].values()),
    "reverse_word": lambda i, k: "".join(reversed(k["w"])),
    "count_letter": lambda i, k: len(re.findall(k["c"], k["w"])),
    "uppercase_join": lambda i, k: f"{k['u']}{k['s']}{k['v']}".upper(),
    "edge_letters": lambda i, k: _letters(k),
    "even_gap": lambda i, k: _next_even(k),
    "growing_gap": lambda i, k: _next_growing(k),
    "double_and_add": lambda i, k: 2 * _numbers(k)[-1] + int(k["r"]),
    "odd_one_out": lambda i, k: _odd(k),
    "which_is": lambda i, k: next(word for word in _xs(k) if _kind(word) == k["kind"]),
    "count_kind": lambda i, k: [_kind(word) for word in _xs(k)].count(k["kind"]),
    "list_kind": lambda i, k: ", ".join(word for word in _xs(k) if _kind(word) == k["kind"]),
    **{name: lambda i, k: _run(i) for name, family in FAMILIES.items() if family.kind == "code"},
}


@pytest.mark.parametrize("name", _ORACLES)
def test_an_oracle_finds_the_same_final_answer(name):
    for seed in range(40):
        item = _item(name, seed)
        assert str(_ORACLES[name](item, _key(item))) == item.final, item


@given(_NAMES, _SEEDS, _SPLITS)
@settings(max_examples=150, deadline=None)
def test_check_takes_every_wording_of_a_problem(name, seed, split):
    family, rng = FAMILIES[name], random.Random(seed)
    problem = family.draw(rng)
    item = replace(_item(name, seed, split), key=problem.key, final=problem.final)
    for _ in range(10):
        assert check(item, tidy(expand(family.answers, problem.slots, rng)))


def _perturbed(final, place, change):
    """Return the text with one letter or digit changed to another."""
    places = [index for index, char in enumerate(final) if char.isalnum()]
    at = places[place % len(places)]
    ring = "0123456789" if final[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    other = ring[(ring.index(final[at].lower()) + 1 + change % (len(ring) - 1)) % len(ring)]
    return final[:at] + other + final[at + 1 :]


@given(_NAMES, _SEEDS, st.integers(0, 99), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_check_refuses_a_perturbed_final_answer(name, seed, place, change):
    item = _item(name, seed)
    wrong = _perturbed(item.final, place, change)
    assert not check(item, item.answer.replace(f"**{item.final}**", f"**{wrong}**"))
    assert not check(item, item.answer.replace("**", ""))
    assert not check(item, item.answer + f" Or **{wrong}**?")


@given(_NAMES, _SEEDS)
@settings(max_examples=100, deadline=None)
def test_the_answer_does_not_repeat_the_steps(name, seed):
    item = _item(name, seed)
    assert "=" not in item.answer
    assert item.reasoning not in item.answer


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_column_steps_end_in_the_result_and_every_equation_holds(a, b):
    high, low = max(a, b), min(a, b)
    for text, result in (
        (families_common.add_steps(a, b), a + b),
        (families_common.sub_steps(high, low), high - low),
        (families_common.mul_steps(a, b), a * b),
    ):
        assert re.split(r"; |=", text)[-1] == str(result)
        for left, right in re.findall(r"([\d+*-]+)=(\d+)", text):
            total = sum(_product(term) for term in re.findall(r"[+-]?[\d*]+", left))
            assert total == int(right), text


@given(st.integers(0, 2000), st.integers(1, 40))
def test_division_steps_hold(n, d):
    text = families_common.div_steps(n, d)
    quotient, rest = divmod(n, d)
    assert text.endswith(f" {quotient}" + (f" r {rest}" if rest else ""))
    for left, right in re.findall(r"([\d+*-]+)=(\d+)", text):
        assert sum(_product(term) for term in re.findall(r"[+-]?[\d*]+", left)) == int(right), text


def _product(term):
    sign = -1 if term.startswith("-") else 1
    value = sign
    for factor in term.lstrip("+-").split("*"):
        value *= int(factor)
    return value
