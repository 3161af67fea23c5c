"""Lists and small tables: reorder, count, pick, look up. Steps go item by item.

Lists are written `owl, fig, ant` in prompts and finals alike.
"""

import random

from bitweir_compression.corpus.families_common import (
    ASK,
    CLOSE_LIST,
    CLOSE_TABLE,
    OPEN,
    OPEN_CAREFUL,
    OPEN_PLAIN,
    THANKS,
    Family,
    Problem,
    add_steps,
    between,
    distinct,
    made,
    running_sum,
    sub_steps,
)
from bitweir_compression.corpus.families_lexicon import NAMES, THINGS, WORDS

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


def _numbered(words: list[str]) -> str:
    return " ".join(f"{place} {word}" for place, word in enumerate(words, 1))


def _reverse(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 5))
    final = ", ".join(reversed(words))
    return made({"xs": words}, f"{_numbered(words)}; from {len(words)} to 1: {final}", final, k=len(words))


def _sort_words(rng: random.Random) -> Problem:
    words: list[str] = []
    size = between(rng, 3, 5)
    while len(words) < size:
        word = rng.choice(WORDS)
        if word[0] not in [other[0] for other in words]:
            words.append(word)
    final = ", ".join(sorted(words))
    letters = " ".join(word[0] for word in words)
    steps = f"letters {letters}; sorted {' '.join(sorted(letters.split()))}; {final}"
    return made({"xs": words}, steps, final, k=len(words))


def _sort_numbers(rng: random.Random) -> Problem:
    numbers = distinct(rng, range(2, 99), between(rng, 3, 5))
    falling = rng.choice([True, False])
    left, steps = list(numbers), []
    while len(left) > 1:
        best = max(left) if falling else min(left)
        steps.append(f"{' '.join(map(str, left))}: {best}")
        left.remove(best)
    final = ", ".join(map(str, sorted(numbers, reverse=falling)))
    order = "from largest to smallest" if falling else "from smallest to largest"
    slots = {"order": order, "adverb": "falling" if falling else "rising"}
    key = {"xs": numbers, "dir": slots["adverb"]}
    return made(key, f"{'; '.join(steps)}; {left[0]}; {final}", final, k=len(numbers), **slots)


def _extreme(rng: random.Random) -> Problem:
    numbers = distinct(rng, range(2, 99), between(rng, 4, 7))
    large = rng.choice([True, False])
    best, steps = numbers[0], [str(numbers[0])]
    for number in numbers[1:]:
        best = max(best, number) if large else min(best, number)
        steps.append(f"{number}: {best}")
    word = "largest" if large else "smallest"
    slots = {"same": rng.choice(["biggest", "highest"]) if large else rng.choice(["least", "lowest"])}
    return made({"xs": numbers, "want": word}, "; ".join(steps), best, k=len(numbers), **slots)


def _count_item(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, 3)
    items = [rng.choice(words) for _ in range(between(rng, 5, 8))]
    word = rng.choice(items)
    count, steps = 0, []
    for item in items:
        count += item == word
        steps.append(f"{item} {count}")
    return made({"xs": items, "w": word}, "; ".join(steps), count, k=len(items))


def _unique(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 4))
    items = list(words)
    for _ in range(between(rng, 1, 3)):
        items.insert(between(rng, 1, len(items)), rng.choice(words))
    kept: list[str] = []
    steps = []
    for item in items:
        steps.append(f"{item} {'drop' if item in kept else 'keep'}")
        if item not in kept:
            kept.append(item)
    final = ", ".join(kept)
    return made({"xs": items}, f"{'; '.join(steps)}; {final}", final, k=len(items))


def _nth(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 5, 7))
    place = between(rng, 1, len(words) - 1)
    from_end = place <= 3 and rng.choice([True, False])
    at = len(words) - place if from_end else place - 1
    seen = list(reversed(words))[:place] if from_end else words[:place]
    end = "from the end" if from_end else "from the start"
    key = {"xs": words, "n": place, "end": end}
    return made(key, _numbered(seen), words[at], nth=_ORDINALS[place - 1], k=len(words))


def _count_above(rng: random.Random) -> Problem:
    numbers = distinct(rng, range(2, 99), between(rng, 4, 7))
    limit, above = between(rng, 20, 80), rng.choice([True, False])
    hits = [number > limit if above else number < limit for number in numbers]
    steps = " ".join(f"{number} {'yes' if hit else 'no'};" for number, hit in zip(numbers, hits, strict=True))
    slots = {"rel": "above" if above else "below", "than": "greater" if above else "less"}
    key = {"xs": numbers, "t": limit, "rel": slots["than"]}
    return made(key, f"{steps} yes {sum(hits)}", sum(hits), k=len(numbers), side=slots["rel"])


def _pairwise(rng: random.Random) -> Problem:
    n = between(rng, 2, 20)
    numbers = [between(rng, 2, 60) for _ in range(between(rng, 3, 4))]
    sums = [number + n for number in numbers]
    steps = "; ".join(f"{number}+{n}={total}" for number, total in zip(numbers, sums, strict=True))
    final = ", ".join(map(str, sums))
    return made({"xs": numbers, "n": n}, f"{steps}; {final}", final, k=len(numbers))


def _rows(names: list[str], columns: list[list[int]], heads: list[str]) -> str:
    """Return the table as lines `name | a | b` under a heading."""
    lines = [" | ".join(["name", *heads])]
    lines += [" | ".join([name, *(str(column[row]) for column in columns)]) for row, name in enumerate(names)]
    return "\n" + "\n".join(lines) + "\n"


def _lookup(rng: random.Random) -> Problem:
    names, heads = distinct(rng, NAMES, between(rng, 3, 4)), distinct(rng, THINGS, 2)
    columns = [[between(rng, 2, 99) for _ in names] for _ in heads]
    row, at = between(rng, 0, len(names) - 1), between(rng, 0, 1)
    cells = " ".join(str(column[row]) for column in columns)
    steps = f"row {row + 1} {names[row]}: {cells}; column {at + 1} {heads[at]}: {columns[at][row]}"
    key = {"rows": names, "cols": heads, "u": columns[0], "v": columns[1], "who": names[row], "what": heads[at]}
    return made(key, steps, columns[at][row], table=_rows(names, columns, heads))


def _column_sum(rng: random.Random) -> Problem:
    names, head = distinct(rng, NAMES, between(rng, 3, 4)), rng.choice(THINGS)
    column = [between(rng, 2, 40) for _ in names]
    return made({"xs": column}, running_sum(column), sum(column), table=_rows(names, [column], [head]), what=head)


def _row_extreme(rng: random.Random) -> Problem:
    names, head = distinct(rng, NAMES, between(rng, 3, 4)), rng.choice(THINGS)
    column = distinct(rng, range(2, 99), len(names))
    most = rng.choice([True, False])
    best = column.index(max(column) if most else min(column))
    steps = f"{'; '.join(map(str, column))}; {'max' if most else 'min'} {column[best]} row {best + 1}; {names[best]}"
    slots = {"what": head, "table": _rows(names, [column], [head])}
    key = {"rows": names, "xs": column, "want": "most" if most else "fewest"}
    return made(key, steps, names[best], bound="largest" if most else "smallest", **slots)


def _row_difference(rng: random.Random) -> Problem:
    names, head = distinct(rng, NAMES, between(rng, 3, 4)), rng.choice(THINGS)
    column = distinct(rng, range(5, 99), len(names))
    high, low = sorted(distinct(rng, range(len(names)), 2), key=lambda row: -column[row])
    steps = f"{names[high]} {column[high]}; {names[low]} {column[low]}; {sub_steps(column[high], column[low])}"
    key = {"rows": names, "xs": column, "high": names[high], "low": names[low]}
    return made(key, steps, column[high] - column[low], what=head, table=_rows(names, [column], [head]))


def _row_sum(rng: random.Random) -> Problem:
    names, heads = distinct(rng, NAMES, 3), distinct(rng, THINGS, 2)
    columns = [[between(rng, 3, 60) for _ in names] for _ in heads]
    row = between(rng, 0, 2)
    a, b = columns[0][row], columns[1][row]
    key = {"rows": names, "u": columns[0], "v": columns[1], "who": names[row]}
    steps = f"row {row + 1} {names[row]}: {a} {b}; {add_steps(a, b)}"
    return made(key, steps, a + b, table=_rows(names, columns, heads), one=heads[0], two=heads[1])


_LIST = (
    Family(
        "reverse_list",
        "list",
        _reverse,
        ASK
        + "[[Reverse|Turn around] [this|the] list: {xs}.|Write {xs} [backwards|in reverse order|from last to first]."
        "|What is {xs} in [reverse|reversed] order?|[Put|Set] these words in reverse order: {xs}.]" + THANKS,
        OPEN + "[[the|that|this] list [reversed|turned around|backwards] [is|reads|becomes] **{final}**|[from last to "
        "first|in "
        "reverse|backwards][,|] [we|you] [get|have|read] **{final}**|[the|these|those] {k} words in "
        "[reverse|opposite|the other] "
        "[order|direction] [are|read|go] **{final}**]." + CLOSE_LIST,
    ),
    Family(
        "sort_words",
        "list",
        _sort_words,
        ASK + "[[Sort|Order|Arrange] these words alphabetically: {xs}.|[Put|Write] {xs} in [alphabetical order|order "
        "from a to "
        "z].|What is the alphabetical order of {xs}?|How would a dictionary order {xs}?]" + THANKS,
        OPEN_PLAIN
        + "[[in alphabetical order|from a to z|sorted][,|] [they are|the list is|we have|it reads] **{final}**"
        "|[the|this] [sorted|ordered|alphabetical] list [is|reads|goes] **{final}**|a [dictionary|word list|sorter] "
        "would [list|"
        "put|order] [them|the {k} words|these] as **{final}**]." + CLOSE_LIST,
    ),
    Family(
        "sort_numbers",
        "list",
        _sort_numbers,
        ASK + "[[Sort|Order|Arrange] these numbers {order}: {xs}.|[Put|Write] {xs} in {adverb} order."
        "|What is {xs} sorted {order}?|[List|Give] the numbers {xs} {order}.]" + THANKS,
        OPEN_CAREFUL + "[[{order}|in {adverb} order][,|] [they are|the list is|we have|it reads] **{final}**"
        "|[the|this] [sorted|ordered|{adverb}] list [is|reads|goes] **{final}**|[sorting|ordering|arranging] [them|the "
        "{k} "
        "numbers|these] [gives|leads to|makes] **{final}**]." + CLOSE_LIST,
    ),
    Family(
        "extreme_number",
        "list",
        _extreme,
        ASK + "[[What|Which] is the {want} [number|value] [of|in|among] {xs}?|[Find|Pick|Name] the {want} of these "
        "[numbers|values]: {xs}.|Which of {xs} is the {want}?]" + THANKS,
        OPEN
        + "[[the|that|their] {want} [number|value|one][| of the {k}| there| in the list] [is|must be|turns out to be] "
        "**{final}**|[it|that] [is|has to be|would be] **{final}**, the {same} of [all|them all|the {k}|these]"
        "|[of|among|out of] [all|the|those] {k}, **{final}** is [the {same}|the {want}|{want}]]." + CLOSE_LIST,
    ),
    Family(
        "count_item",
        "list",
        _count_item,
        ASK + "[How [many times|often] does {w} [appear|occur|come up] in this list: {xs}?|Count the word {w} in {xs}."
        "|In the list {xs}, how many [entries|items|words] are {w}?]" + THANKS,
        OPEN_PLAIN + "[[the word|the entry|the item] {w} [appears|occurs|comes up] [this|so] often: **{final}**"
        "|[the|my] [count|tally|number][| for {w}| of {w}] [is|comes to|stands at] **{final}**|[of|among] "
        "[the|those] {k} "
        "[words|items|entries], the [number|count] [saying|matching|reading] {w} is **{final}**]." + CLOSE_LIST,
    ),
    Family(
        "remove_repeats",
        "list",
        _unique,
        ASK + "[[Remove|Drop|Delete] the [repeats|duplicates] from this list: {xs}.|What is {xs} without "
        "[repeats|duplicates]?"
        "|Keep [only the first|just the first] of each word in {xs}.|List each word of {xs} once, in order of first "
        "use.]" + THANKS,
        OPEN_CAREFUL
        + "[[without|leaving out|dropping] [repeats|duplicates|doubles][,|] [it is|the list is|we have|it reads] "
        "**{final}**|[the|a] [clean|shorter|reduced] list [is|reads|goes] **{final}**|[keeping|taking|leaving] "
        "[each|every] "
        "word [once|one time][, the {k} items|, we] [become|get to|shrink to] **{final}**]." + CLOSE_LIST,
    ),
    Family(
        "nth_item",
        "list",
        _nth,
        ASK + "[[What|Which] is the {nth} [word|item|entry], counting {end}, in this list: {xs}?|Counting {end}, "
        "[name|give] "
        "the {nth} [word|item] of {xs}.|In {xs}, [what|which word] is {nth} {end}?]" + THANKS,
        OPEN + "[[the|that] {nth} [word|item|entry][| there| in the list| of the {k}] [is|reads|must be] **{final}**"
        "|[counting|going|starting] {end}[,|] [we|you] [find|reach|get to|land on] **{final}**|[it|that|this] "
        "[is|must be|has "
        "to be] **{final}**[|, {nth} {end}]]." + CLOSE_LIST,
    ),
    Family(
        "count_beyond",
        "list",
        _count_above,
        ASK
        + "[How many of {xs} are {rel} than {t}?|[Count|Find] the numbers {rel} than {t} in {xs}: how many are there?"
        "|In the list {xs}, how many [numbers|values|entries] are {side} {t}?]" + THANKS,
        OPEN_PLAIN
        + "[[the|my] [count|tally|number][| of hits| of those] [is|comes to|stands at] **{final}**|[of|among] "
        "[the|those] {k} [numbers|values|entries], the [count|number] {side} {t} is **{final}**|[with|for] a "
        "[limit|bound] of "
        "{t}, [the count is|we count|one finds] **{final}**[| {side} it]]." + CLOSE_LIST,
    ),
    Family(
        "add_to_each",
        "list",
        _pairwise,
        ASK + "[Add {n} to [each|every one] of {xs}.|What [is|becomes of] the list {xs} when [each|every] number grows "
        "by {n}?"
        "|[Raise|Increase|Lift] [each|every] number in {xs} by {n}.]" + THANKS,
        OPEN_CAREFUL
        + "[[with|adding|after adding] {n} [each|to each|every time][,|] [the list is|we have|it reads] **{final}**"
        "|[the|a] [new|raised|changed] list [is|reads|goes|becomes] **{final}**|[the|those|all] {k} [numbers|values] "
        "[become|turn into|are now|grow to] **{final}**]." + CLOSE_LIST,
    ),
)

_TABLE = (
    Family(
        "table_lookup",
        "table",
        _lookup,
        "[Here is|Look at|Read|Take] [a|this] [table|small table].{table}[How many {what} does {who} have?|What is "
        "the number "
        "of {what} for {who}?|[Give|Find|Read off] the {what} of {who}.]" + THANKS,
        OPEN + "[{who} [has|owns|holds|is listed with] **{final}** {what}|[the|that|this] [table|row|line] "
        "[shows|gives|lists] "
        "**{final}**[| {what}] [for|next to|under] {who}|[under {what}|for {what}|in that column], {who} has [the "
        "number|the "
        "entry|the value|the figure] **{final}**]." + CLOSE_TABLE,
    ),
    Family(
        "column_sum",
        "table",
        _column_sum,
        "[Here is|Look at|Read|Take] [a|this] [table|small table].{table}[How many {what} are there [in "
        "total|altogether]?|What "
        "is the [sum|total] of the {what}?|[Add up|Sum] the {what}.]" + THANKS,
        OPEN_PLAIN
        + "[[the|that|their] [column|list|table] [adds up to|sums to|comes to] **{final}**|[in all|together|in "
        "total][,|] [there are|they have|we count] **{final}** {what}|[the|a] [sum|total][| of all rows| of the "
        "{what}] "
        "[is|must be|comes out as] **{final}**]." + CLOSE_TABLE,
    ),
    Family(
        "row_extreme",
        "table",
        _row_extreme,
        "[Here is|Look at|Read|Take] [a|this] [table|small table].{table}[Who has the {want} {what}?|Which "
        "[person|name] has the "
        "{want} {what}?|[Name|Find|Give] the [person|one] with the {want} {what}.]" + THANKS,
        OPEN_CAREFUL
        + "[**{final}** [has|owns|holds|is the one with] the {want}[| {what}| of all]|[the|that] {bound} [number|"
        "figure|count][| of {what}] [belongs to|is that of|goes to] **{final}**|[with|having] the {want} {what}, "
        "**{final}** "
        "[stands out|is the one|is the answer]]." + CLOSE_TABLE,
    ),
    Family(
        "row_difference",
        "table",
        _row_difference,
        "[Here is|Look at|Read|Take] [a|this] [table|small table].{table}[How many more {what} does {high} have "
        "than {low}?|By how "
        "many {what} does {high} [beat|exceed] {low}?|[Find|Give] the [gap|difference] between {high} and {low}.]"
        + THANKS,
        OPEN + "[{high} [has|owns|holds] **{final}** more[| {what}| of them] than {low}|[the|that] [gap|difference|"
        "distance][| "
        "in {what}] [is|comes to|must be] **{final}**|{low} [is|stays|lies] **{final}** [behind|below|short of] {high}"
        "|[between|comparing] {high} and {low}[,|] [we find|there is] [a gap|a difference] of **{final}**]."
        + CLOSE_TABLE,
    ),
    Family(
        "row_sum",
        "table",
        _row_sum,
        "[Here is|Look at|Read|Take] [a|this] [table|small table].{table}[How many {one} and {two} does {who} have "
        "[together|in "
        "all]?|[Add|Sum] the two numbers of {who}.|What [is|would be] the [total|sum] for {who}?]" + THANKS,
        OPEN_PLAIN
        + "[{who} [has|owns|holds] **{final}** [in total|in all|things|items]|[the|that] [total|sum][| for {who}| of "
        "{one} and {two}] [is|comes to|makes] **{final}**|[counting|adding] {one} and {two}[,|] {who} [gets "
        "to|reaches|has] "
        "**{final}**]." + CLOSE_TABLE,
    ),
)

FAMILIES = (*_LIST, *_TABLE)
