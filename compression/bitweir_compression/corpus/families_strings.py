"""Strings, short code, number sequences and sorting words by kind.

Made-up words keep the string problems numerous; letters are worked one at a time.
"""

import random

from bitweir_compression.corpus.families_common import (
    ASK,
    CLOSE_CLASS,
    CLOSE_RULE,
    CLOSE_STRING,
    OPEN,
    OPEN_CAREFUL,
    OPEN_PLAIN,
    THANKS,
    Family,
    Problem,
    between,
    distinct,
    made,
    nonsense,
    with_article,
)
from bitweir_compression.corpus.families_lexicon import CATEGORIES, NAMES, PLURAL, VOWELS, WORDS


def _reverse(rng: random.Random) -> Problem:
    word = nonsense(rng, 2, 3)
    back = word[::-1]
    return made({"w": word}, f"{' '.join(word)}; {' '.join(back)}; {back}", back)


def _count_letter(rng: random.Random) -> Problem:
    phrase = " ".join([nonsense(rng, 2, 3), rng.choice(WORDS)])
    letter = rng.choice(phrase.replace(" ", ""))
    count, steps = 0, []
    for char in phrase.replace(" ", ""):
        count += char == letter
        steps.append(f"{char}{count}")
    return made({"w": phrase, "c": letter}, f"{letter} in {' '.join(steps)}; {count}", count)


def _uppercase(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, 2)
    sign = rng.choice(["-", "_", "+", "/"])
    final = sign.join(words).upper()
    return made({"u": words[0], "v": words[1], "s": sign}, f"{words[0].upper()} {words[1].upper()}; {final}", final)


def _letters(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 5))
    last = rng.choice([True, False])
    at = -1 if last else 0
    steps = "; ".join(f"{word} {word[at]}" for word in words)
    final = "".join(word[at] for word in words)
    return made({"xs": words, "end": "last" if last else "first"}, f"{steps}; {final}", final, k=len(words))


def _join(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 4))
    sign, mark = rng.choice([("-", "hyphens"), ("_", "underscores"), ("+", "plus signs"), ("/", "slashes")])
    final = sign.join(reversed(words))
    return made(
        {"xs": words, "s": sign}, f"reversed {' '.join(reversed(words))}; {final}", final, mark=mark, k=len(words)
    )


def _replace(rng: random.Random) -> Problem:
    word = nonsense(rng, 2, 3)
    old = rng.choice([char for char in word if char in VOWELS])
    new = rng.choice([char for char in VOWELS if char != old])
    final = word.replace(old, new)
    steps = f"{' '.join(word)}; {' '.join(final)}; {final}"
    return made({"w": word, "old": old, "new": new}, steps, final)


def _gap(rng: random.Random) -> Problem:
    start, step, falling = between(rng, 2, 40), between(rng, 2, 15), rng.choice([True, False])
    terms = [start + step * i for i in range(5)]
    if falling:
        terms.reverse()
    sign = "-" if falling else "+"
    gaps = "; ".join(f"{low}{sign}{step}={high}" for low, high in zip(terms[1:], [*terms[2:], 0], strict=True) if high)
    after = terms[-1] - step if falling else terms[-1] + step
    steps = f"{terms[0]}{sign}{step}={terms[1]}; {gaps}; {terms[-1]}{sign}{step}={after}"
    return made({"xs": terms}, steps, after, name=rng.choice(NAMES))


def _double_and(rng: random.Random) -> Problem:
    start, extra = between(rng, 1, 15), between(rng, 1, 40)
    terms = [start]
    for _ in range(4):
        terms.append(terms[-1] * 2 + extra)
    steps = "; ".join(f"{term}*2={term * 2}, {term * 2}+{extra}={term * 2 + extra}" for term in terms[:-1])
    return made({"xs": terms[:-1], "r": extra}, steps, terms[-1], name=rng.choice(NAMES))


def _growing(rng: random.Random) -> Problem:
    start, gap = between(rng, 1, 50), between(rng, 1, 14)
    terms = [start]
    for i in range(5):
        terms.append(terms[-1] + gap + i)
    pairs = "; ".join(f"{terms[i]}+{gap + i}={terms[i + 1]}" for i in range(5))
    return made({"xs": terms[:-1]}, pairs, terms[-1], name=rng.choice(NAMES))


def _alternating(rng: random.Random) -> Problem:
    start, up, down = between(rng, 15, 50), between(rng, 3, 15), between(rng, 1, 10)
    terms, steps = [start], []
    for i in range(5):
        change = -down if i % 2 else up
        terms.append(terms[-1] + change)
        steps.append(f"{terms[-2]}{change:+d}={terms[-1]}")
    return made({"xs": terms[:-1]}, "; ".join(steps), terms[-1], name=rng.choice(NAMES))


def _kinds(words: list[str]) -> str:
    kind_of = {word: kind for kind, members in CATEGORIES.items() for word in members}
    return "; ".join(f"{word} {kind_of[word]}" for word in words)


def _mixed(rng: random.Random, counts: dict[str, int]) -> list[str]:
    """Return words of the given kinds, so many of each, in random order."""
    words = [word for kind, count in counts.items() for word in distinct(rng, CATEGORIES[kind], count)]
    return distinct(rng, words, len(words))


def _odd_one_out(rng: random.Random) -> Problem:
    common, odd = distinct(rng, tuple(CATEGORIES), 2)
    words = _mixed(rng, {common: between(rng, 3, 4), odd: 1})
    final = next(word for word in words if word in CATEGORIES[odd])
    return made({"xs": words}, f"{_kinds(words)}; odd {final}", final, kinds=PLURAL[common], k=len(words))


def _which_is(rng: random.Random) -> Problem:
    kinds = distinct(rng, tuple(CATEGORIES), between(rng, 3, 4))
    words = _mixed(rng, dict.fromkeys(kinds, 1))
    final = next(word for word in words if word in CATEGORIES[kinds[0]])
    key = {"xs": words, "kind": kinds[0]}
    return made(key, f"{_kinds(words)}; {final}", final, a_kind=with_article(kinds[0]), k=len(words))


def _count_kind(rng: random.Random) -> Problem:
    kinds = distinct(rng, tuple(CATEGORIES), 3)
    count = between(rng, 1, 4)
    words = _mixed(rng, {kinds[0]: count, kinds[1]: between(rng, 1, 2), kinds[2]: 1})
    steps = f"{_kinds(words)}; {kinds[0]} {count}"
    return made({"xs": words, "kind": kinds[0]}, steps, count, kinds=PLURAL[kinds[0]], k=len(words))


def _list_kind(rng: random.Random) -> Problem:
    kinds = distinct(rng, tuple(CATEGORIES), 2)
    words = _mixed(rng, {kinds[0]: between(rng, 2, 3), kinds[1]: between(rng, 2, 3)})
    final = ", ".join(word for word in words if word in CATEGORIES[kinds[0]])
    return made(
        {"xs": words, "kind": kinds[0]}, f"{_kinds(words)}; {final}", final, kinds=PLURAL[kinds[0]], k=len(words)
    )


_STRING = (
    Family(
        "reverse_word",
        "string",
        _reverse,
        ASK + "[[Reverse|Spell backwards|Turn around] the [word|string] '{w}'.|What is '{w}' [backwards|reversed|from "
        "right to "
        "left]?|[Write|Spell] '{w}' [backwards|from right to left].]" + THANKS,
        OPEN + "[[the word|the string|'{w}'] [reversed|backwards|turned around] [is|reads|becomes] **{final}**|[read|"
        "spelled|"
        "written] [backwards|from the end|from right to left][,|] [it|that] [is|reads|gives] **{final}**|[reversing|"
        "turning] "
        "[it|'{w}'|the word] [around |][gives|makes|yields] **{final}**]." + CLOSE_STRING,
    ),
    Family(
        "count_letter",
        "string",
        _count_letter,
        ASK + "[How [often|many times] does the letter {c} [appear|occur] in '{w}'?|Count the letter {c} in '{w}'."
        "|In the [text|string] '{w}', how many letters are {c}?]" + THANKS,
        OPEN_PLAIN
        + "[[the letter|the character] {c} [appears|occurs|comes up] [this|so] often: **{final}**|[the|my] [count|"
        "tally|number][| for {c}| of {c}s] [is|comes to|stands at] **{final}**|[in|within|looking at] [that "
        "text|'{w}'|the "
        "text], the [number|count] of {c} is **{final}**]." + CLOSE_STRING,
    ),
    Family(
        "uppercase_join",
        "string",
        _uppercase,
        ASK + "[[Write|Put|Turn] {u} and {v} in capitals and join them with '{s}'.|[Join|Link] {u} and {v} by '{s}', "
        "all in "
        "[capitals|upper case].|What is {u}{s}{v} in [capitals|upper case]?]" + THANKS,
        OPEN_CAREFUL
        + "[[in capitals|in upper case|joined up][,|] [it|that|this] [is|reads|becomes|gives] **{final}**|[the|that] "
        "[result|string|joined text|answer] [is|reads|must be] **{final}**|[with|using] '{s}' [between|in the "
        "middle][,|] "
        "[the words|{u} and {v}] [become|turn into|read] **{final}**]." + CLOSE_STRING,
        case_matters=True,
    ),
    Family(
        "edge_letters",
        "string",
        _letters,
        ASK + "[Take the {end} letter of each word: {xs}. [What do they spell|What do you get]?|[Join|String together] "
        "the {end} "
        "letters of {xs}.|What [string|text] do the {end} letters of {xs} [make|form]?]" + THANKS,
        OPEN + "[[the|those|these] {end} letters [spell|make|form|give] **{final}**|[taken|put|strung] together[,|] "
        "[they|the "
        "letters] [spell|make|are|read] **{final}**|[from|of|out of] [the|those|all] {k} words[,|] [we|you] "
        "[get|form|take] "
        "**{final}**]." + CLOSE_STRING,
    ),
    Family(
        "reverse_join",
        "string",
        _join,
        ASK + "[Join these words in reverse order with {mark}: {xs}.|[Write|Put] {xs} from last to first with {mark} "
        "between."
        "|[Link|Connect] {xs} by {mark}, [starting|beginning] with the last.]" + THANKS,
        OPEN_PLAIN
        + "[[the|that] [result|string|joined text|answer] [is|reads|must be] **{final}**|[with|using] {mark}[,|] [the "
        "words|the {k} words|they] [become|turn into|read|make] **{final}**|[from last to first|in reverse|turned "
        "around][,|] "
        "[it|this] [is|reads|gives] **{final}**]." + CLOSE_STRING,
    ),
    Family(
        "replace_letter",
        "string",
        _replace,
        ASK + "[Replace [each|every] {old} in '{w}' [by|with] {new}.|What does '{w}' become when [each|every] {old} "
        "turns into "
        "{new}?|[Swap|Change] {old} [for|to] {new} [throughout|everywhere] in '{w}'.]" + THANKS,
        OPEN_CAREFUL + "[[the|that] [result|new word|string|answer] [is|reads|must be] **{final}**|[with|using] {new} "
        "[for|in place of|instead of] {old}[,|] ['{w}'|the word|it] [becomes|turns into|reads] **{final}**|['{w}'|"
        "the word] "
        "[then|now] [reads|is|looks like] **{final}**]." + CLOSE_STRING,
    ),
)

_NEXT = (
    "[[What|Which number] comes next: {xs}, ...?|[Continue|Carry on] the [sequence|series] {xs}.|{name} writes "
    "{xs}. What is "
    "the next number?|[Find|Give|Name] the next [term|number] after {xs}.]"
)

_SEQUENCE = (
    Family(
        "even_gap",
        "sequence",
        _gap,
        ASK + _NEXT + THANKS,
        OPEN
        + "[[the|that] next [number|term|one][| there| in line] [is|must be|will be] **{final}**|**{final}** [comes|"
        "follows|goes] [next|after that|there]|[keeping|with] the same [gap|step|distance][,|] [we|you] "
        "[get|reach|find] "
        "**{final}**|[it|the sequence] [goes|moves|carries] on [with|to] **{final}**]." + CLOSE_RULE,
    ),
    Family(
        "double_and_add",
        "sequence",
        _double_and,
        ASK + "[Each term is twice the one before, plus {r}. What [comes next|is the next term]: {xs}?|The rule is "
        "[times 2|"
        "double], then add {r}. [Continue|Carry on] {xs}.|{name} doubles and adds {r} [each|every] time: {xs}. What "
        "is next?]" + THANKS,
        OPEN_PLAIN
        + "[[the|that] next [number|term|one][| by this rule| in line] [is|must be|will be] **{final}**|[doubling|"
        "twice the last term] and [adding|putting on] {r} [gives|makes|leads to|yields] **{final}**|[by|with|"
        "following] [that|the|"
        "this] rule[,|] [we|you] [get|reach] **{final}**]." + CLOSE_RULE,
    ),
    Family(
        "growing_gap",
        "sequence",
        _growing,
        ASK + "[The gaps grow by one. |The steps get longer by one. |]" + _NEXT.replace("writes", "lists") + THANKS,
        OPEN_CAREFUL
        + "[[the|that] next [number|term|one][| there| in the row] [is|must be|will be] **{final}**|**{final}** "
        "[comes|follows|goes] [next|after that|there]|[as|since] the [gaps|steps] [grow|widen|get longer][,|] "
        "[we|you] [get|"
        "reach] **{final}**]." + CLOSE_RULE,
    ),
    Family(
        "up_and_down",
        "sequence",
        _alternating,
        ASK + "[It goes up, then down. |The steps alternate. |]" + _NEXT.replace("writes", "notes") + THANKS,
        OPEN + "[[the|that] next [number|term|one][| there| in line] [is|must be|will be] **{final}**|[after|with] "
        "[the|those] "
        "[ups and downs|swings|turns] [comes|we have|follows|we reach] **{final}**|[up and down|back and forth][,|] "
        "[it|the "
        "sequence] [goes on to|gets to|moves to] **{final}**]." + CLOSE_RULE,
    ),
)

_CLASS = (
    Family(
        "odd_one_out",
        "class",
        _odd_one_out,
        ASK + "[[Which|What] is the odd one out: {xs}?|Which [word|one] does not [belong|fit]: {xs}?|[Find|Name|Pick] "
        "the odd one "
        "[among|in|out of] {xs}.]" + THANKS,
        OPEN + "[the [odd one out|odd one|stranger|misfit|outsider][| here] [is|must be|would be] **{final}**|"
        "**{final}** [does not "
        "belong|does not fit|stands out][, as the others are|; the rest are|; all others are] {kinds}|[of|among] "
        "the {k} words, "
        "**{final}** is [the odd one|out of place|the stranger]]." + CLOSE_CLASS,
    ),
    Family(
        "which_is",
        "class",
        _which_is,
        ASK + "[Which of these is {a_kind}: {xs}?|[Find|Name|Pick] the word that [names|means] {a_kind}: "
        "{xs}.|[Only|Just] one of "
        "{xs} is {a_kind}. Which[| one]?]" + THANKS,
        OPEN_PLAIN
        + "[[the word|the one|that one][| we want| in question] [is|must be|would be] **{final}**|**{final}** [is|"
        "counts as|must be] {a_kind}|[of|among|out of] the {k}[| words], [only|just] **{final}** [is|counts "
        "as|names] {a_kind}]." + CLOSE_CLASS,
    ),
    Family(
        "count_kind",
        "class",
        _count_kind,
        ASK
        + "[How many of these are {kinds}: {xs}?|[Count|Number] the {kinds} in {xs}.|In the list {xs}, how many [words|"
        "entries] are {kinds}?]" + THANKS,
        OPEN_CAREFUL
        + "[[the|my] [count|tally|number] [of|for] {kinds} [is|comes to|stands at] **{final}**|[of|among] [the|"
        "those|all] {k} [words|entries|names], the {kinds} [number|make up|come to] **{final}**|[counting|looking "
        "for] {kinds}"
        "[,|] [we|I|you] [get to|reach|arrive at] **{final}**]." + CLOSE_CLASS,
    ),
    Family(
        "list_kind",
        "class",
        _list_kind,
        ASK + "[Which of these are {kinds}: {xs}?|[List|Name] [all|only] the {kinds} in {xs}, in order.|Keep only the "
        "{kinds}: "
        "{xs}.]" + THANKS,
        OPEN
        + "[the {kinds}[| here| among them| in the list] [are|would be|must be] **{final}**|[keeping|picking|taking] "
        "[only|just] the {kinds} [leaves|gives|makes] **{final}**|[of|among|from] the {k} words, [these|the "
        "following] are "
        "{kinds}: **{final}**]." + CLOSE_CLASS,
    ),
)

FAMILIES = (*_STRING, *_SEQUENCE, *_CLASS)
