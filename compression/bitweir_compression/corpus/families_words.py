"""Word problems: one or two operations on small whole numbers, told with people and things.

Names and things stay out of the key wherever the numbers alone make some five hundred problems (see families_common).
"""

import random

from bitweir_compression.corpus.families_common import (
    ASK,
    CLOSE_SUM,
    OPEN,
    OPEN_CAREFUL,
    OPEN_PLAIN,
    THANKS,
    Family,
    Problem,
    add_steps,
    between,
    distinct,
    div_steps,
    made,
    mul_steps,
    running_sum,
    someone,
    sub_steps,
    with_article,
)
from bitweir_compression.corpus.families_lexicon import CONTAINERS, MACHINES, NAMES, THINGS

_KIND = "word"


def _addition(rng: random.Random) -> Problem:
    a, b = between(rng, 5, 98), between(rng, 5, 98)
    return made({"a": a, "b": b}, add_steps(a, b), a + b, **someone(rng))


def _subtraction(rng: random.Random) -> Problem:
    a = between(rng, 20, 99)
    b = between(rng, 5, a - 3)
    return made({"a": a, "b": b}, sub_steps(a, b), a - b, **someone(rng))


def _multiplication(rng: random.Random) -> Problem:
    a, b = between(rng, 2, 12), between(rng, 3, 60)
    return made({"a": a, "b": b}, mul_steps(a, b), a * b, box=rng.choice(CONTAINERS), **someone(rng))


def _equal_sharing(rng: random.Random) -> Problem:
    d, q = between(rng, 3, 12), between(rng, 3, 60)
    return made({"n": d * q, "d": d}, div_steps(d * q, d), q, **someone(rng))


def _sharing_remainder(rng: random.Random) -> Problem:
    d = between(rng, 3, 12)
    n = d * between(rng, 2, 12) + between(rng, 1, d - 1)
    final = f"{n // d} remainder {n % d}"
    return made({"n": n, "d": d}, f"{div_steps(n, d)}; {final}", final, **someone(rng))


def _two_step(rng: random.Random) -> Problem:
    a, b = between(rng, 10, 60), between(rng, 5, 39)
    c = between(rng, 3, a + b - 3)
    steps = f"{add_steps(a, b)}. {sub_steps(a + b, c)}"
    return made({"a": a, "b": b, "c": c}, steps, a + b - c, **someone(rng))


def _change(rng: random.Random) -> Problem:
    n, p = between(rng, 2, 9), between(rng, 2, 20)
    paid = (n * p // 10 + between(rng, 1, 4)) * 10
    steps = f"{mul_steps(n, p)}. {sub_steps(paid, n * p)}"
    return made({"n": n, "p": p, "paid": paid}, steps, paid - n * p, **someone(rng))


def _ages(rng: random.Random) -> Problem:
    a, n, older = between(rng, 8, 40), between(rng, 2, 20), rng.choice([True, False])
    d = between(rng, 2, 6 if not older else 20)
    now = a + d if older else a - d
    steps = f"{add_steps(a, d) if older else sub_steps(a, d)}. {add_steps(now, n)}"
    first, second = distinct(rng, NAMES, 2)
    relation = "older" if older else "younger"
    return made({"a": a, "d": d, "dir": relation, "n": n}, steps, now + n, name=first, other=second)


def _comparison(rng: random.Random) -> Problem:
    a = between(rng, 20, 99)
    b = between(rng, 5, a - 3)
    first, second = distinct(rng, NAMES, 2)
    slots = {"name": first, "other": second, "things": rng.choice(THINGS)}
    return made({"a": a, "b": b}, sub_steps(a, b), a - b, **slots)


def _rate(rng: random.Random) -> Problem:
    r, h = between(rng, 6, 99), between(rng, 2, 12)
    machine = rng.choice(MACHINES)
    slots = {"machine": machine, "a_machine": with_article(machine), "things": rng.choice(THINGS)}
    return made({"r": r, "h": h}, mul_steps(r, h), r * h, **slots)


def _percentage(rng: random.Random) -> Problem:
    p, n = rng.choice([5, 10, 20, 25, 30, 40, 50, 60, 75, 80, 90]), 20 * between(rng, 2, 50)
    final = n * p // 100
    if p in (25, 75):
        steps = f"25% of {n}={n}/4={n // 4}" + (f"; {mul_steps(n // 4, 3)}" if p == 75 else "")
    elif p == 50:
        steps = f"50% of {n}={n}/2={n // 2}"
    else:
        steps = f"10% of {n}={n // 10}"
        steps += f"; {n // 10}/2={final}" if p == 5 else f"; {mul_steps(n // 10, p // 10)}" if p > 10 else ""
    return made({"p": p, "n": n}, f"{steps}; {final}", final, **someone(rng))


def _average(rng: random.Random) -> Problem:
    count = between(rng, 3, 4)
    numbers = [between(rng, 4, 40) for _ in range(count - 1)]
    base = between(rng, 4, 36)
    numbers.append(base + -(sum(numbers) + base) % count)
    total = sum(numbers)
    steps = f"{running_sum(numbers)}. {div_steps(total, count)}"
    return made({"xs": numbers}, steps, total // count, k=count, **someone(rng))


def _three_sums(rng: random.Random) -> Problem:
    numbers = [between(rng, 5, 60) for _ in range(3)]
    steps = f"{add_steps(numbers[0], numbers[1])}. {add_steps(numbers[0] + numbers[1], numbers[2])}"
    names = distinct(rng, NAMES, 3)
    slots = {"n1": names[0], "n2": names[1], "n3": names[2], "things": rng.choice(THINGS)}
    return made({"a": numbers[0], "b": numbers[1], "c": numbers[2]}, steps, sum(numbers), **slots)


def _think_of_a_number(rng: random.Random) -> Problem:
    x, k, b = between(rng, 2, 12), between(rng, 2, 9), between(rng, 2, 40)
    steps = f"{sub_steps(x * k + b, b)}. {div_steps(x * k, k)}"
    return made({"k": k, "b": b, "c": x * k + b}, steps, x, name=rng.choice(NAMES))


def _fraction(rng: random.Random) -> Problem:
    d = between(rng, 3, 10)
    t, q = between(rng, 2, d - 1), between(rng, 2, 25)
    steps = f"{div_steps(d * q, d)}. {mul_steps(q, t)}"
    return made({"t": t, "d": d, "n": d * q}, steps, t * q, **someone(rng))


def _boxes_and_loose(rng: random.Random) -> Problem:
    a, b, c = between(rng, 2, 12), between(rng, 2, 12), between(rng, 3, 40)
    steps = f"{mul_steps(a, b)}. {add_steps(a * b, c)}"
    return made({"a": a, "b": b, "c": c}, steps, a * b + c, box=rng.choice(CONTAINERS), **someone(rng))


FAMILIES = (
    Family(
        "addition",
        _KIND,
        _addition,
        ASK + "[{name} has {a} {things} and [gets|buys|finds|is given] {b} more. How many {things} does {name} have "
        "[now|in total|altogether]?|There are {a} {things} in {name}'s [room|shop|garden] and {b} [more|others] "
        "[arrive|are added]. What is the [total|sum]?|If {name} adds {b} {things} to {a} {things}, how many [are "
        "there|is that]?]" + THANKS,
        OPEN + "[{name} [now has|ends up with|has] **{final}** {things}[| in total| altogether| in all]"
        "|[the total|that|it all] [comes to|is|makes|adds up to] **{final}** {things}"
        "|[starting from|with] {a} and [adding|gaining] {b}[| more], {name} [has|gets to|reaches] **{final}**[| "
        "{things}]]." + CLOSE_SUM,
    ),
    Family(
        "subtraction",
        _KIND,
        _subtraction,
        ASK
        + "[{name} had {a} {things} and [gave away|lost|sold|used] {b}[| of them]. How many {things} [are left|remain]?"
        "|From {a} {things}, {name} [takes away|removes|sells] {b}. How many does {name} [still have|have left]?"
        "|{name} [owned|kept] {a} {things}; {b} [are gone|were lost|broke]. What is left?]" + THANKS,
        OPEN_PLAIN + "[{name} [still has|keeps|is left with] **{final}**[| {things}| of the {things}| of them]"
        "|[there are|that leaves|we are left with] **{final}** {things}[| left over| remaining| for {name}]"
        "|[of|out of] the {a}[| {things}], **{final}** [remain|are left|are still there]]." + CLOSE_SUM,
    ),
    Family(
        "multiplication",
        _KIND,
        _multiplication,
        ASK + "[{name} has {a} {box} with {b} {things} in each. How many {things} [is that|are there] [in "
        "total|altogether]?"
        "|Each of {a} {box} [holds|contains] {b} {things}. [How many {things} does {name} have?|What is the total?]"
        "|{name} [fills|packs] {a} {box} with {b} {things} each. [Count|Find] [the|all the] {things}.]" + THANKS,
        OPEN_CAREFUL + "[[the|those|all] {a} {box} [hold|contain|have] **{final}** {things}[| in total| together]"
        "|[there are|{name} has|we count] **{final}** {things}[| in all| altogether| in the {box}]"
        "|{a} [times|lots of|groups of] {b} [makes|is|gives] **{final}**[|, so many {things} does {name} have]]."
        + CLOSE_SUM,
    ),
    Family(
        "equal_sharing",
        _KIND,
        _equal_sharing,
        ASK
        + "[{name} [shares|splits|divides] {n} {things} [equally|evenly|fairly] among {d} [friends|children|people]. "
        "How many does each [get|receive]?|{d} [friends|people] [share|divide] {n} {things} [equally|evenly]. What "
        "does "
        "each [get|take]?|How many {things} go in each bag if {name} [puts|packs] {n} {things} [evenly|equally] in "
        "{d} bags?]" + THANKS,
        OPEN + "[[each one|everyone|each] [gets|receives|takes] **{final}** {things}|[the|one] [fair|equal|even] share "
        "[is|comes to|works out as] **{final}**[| {things}| each]|{n} {things} [split|shared|divided] [into|in] {d} "
        "[equal parts|groups] [makes|is|gives] **{final}** [each|apiece|per part]]." + CLOSE_SUM,
    ),
    Family(
        "sharing_remainder",
        _KIND,
        _sharing_remainder,
        ASK + "[{name} [packs|puts] {n} {things} into bags of {d}. How many [full|whole] bags, and how many {things} "
        "[remain|are left over]?|[Divide|Share|Split] {n} {things} among {d} people; give the share and the remainder."
        "|What are the quotient and remainder when {n} {things} are [divided|split] by {d}?]" + THANKS,
        OPEN_PLAIN + "[[the|this] [division|split] [gives|comes out as|is] **{final}**|[with|for] {n} {things} "
        "[and|over|by] {d}, [the answer|the result|it] is **{final}**|[it|that] [does not come out even|leaves some "
        "over]: "
        "[we get|it makes|the result is] **{final}**]." + CLOSE_SUM,
    ),
    Family(
        "two_step",
        _KIND,
        _two_step,
        ASK + "[{name} has {a} {things}, [buys|finds|gets] {b} more and then [gives away|sells|loses] {c}. How many "
        "{things} "
        "[are left|remain|does {name} have]?|A shop has {a} {things}. {b} [more|others] [come in|arrive] and {c} "
        "are sold. "
        "How many {things} are [left|there now]?|[Start with|Take] {a} {things}, add {b}, [take away|remove] {c}. "
        "How many "
        "{things}?]" + THANKS,
        OPEN_CAREFUL + "[[in the end|after that|finally] [there are|we have|you have] **{final}** {things}[| "
        "left]|[after|with] [both|the two] [steps|changes], **{final}**[| {things}] [remain|are left|are there]"
        "|[adding|with] {b} and [without|taking off] {c}, the {a} {things} [become|turn into] **{final}**]."
        + CLOSE_SUM,
    ),
    Family(
        "change",
        _KIND,
        _change,
        ASK + "[{name} buys {n} {things} at {p} dollars each and pays with {paid} dollars. [How much|What] change does "
        "{name} "
        "get?|{n} {things} cost {p} dollars each. What [change|money] comes back from {paid} dollars?"
        "|At {p} dollars [apiece|a piece], {name} takes {n} {things} and [hands over|pays] {paid} dollars. How much "
        "[comes "
        "back|is returned]?]" + THANKS,
        OPEN + "[{name} [gets|receives|takes] **{final}** dollars [back|in change]|[the|your] change "
        "[is|comes to|should be] **{final}**[| dollars| in dollars]|[from|out of] {paid} dollars, **{final}** [come "
        "back|are "
        "returned|remain][| as change| after paying]]." + CLOSE_SUM,
    ),
    Family(
        "ages",
        _KIND,
        _ages,
        ASK + "[{name} is {a} years old[| today] and {other} is {d} years {dir}. How old will {other} be in {n} years?"
        "|{other} is {d} years {dir} than {name}, who is {a}[| now]. What [age|is the age] [will {other} be|of "
        "{other}] "
        "in {n} years?|In {n} years, how old is {other}, [if|given that] {name} is {a} now and {other} is {d} years "
        "{dir}?]" + THANKS,
        OPEN_PLAIN + "[{other} [will be|turns|will have turned] **{final}**[| years old| by then| at that time]"
        "|[in {n} years|by then|at that time], {other} [is|will be|reaches] **{final}**[| years old| years of age]"
        "|[the age|{other}'s age] [then|in {n} years] [is|will be|comes to] **{final}**[| years]]." + CLOSE_SUM,
    ),
    Family(
        "comparison",
        _KIND,
        _comparison,
        ASK + "[{name} has {a} {things} and {other} has {b}. How many more [does {name} have|has {name}]?"
        "|How many fewer {things} has {other} with {b} than {name} with {a}?|{name} [collected|found] {a} {things}, "
        "{other} "
        "[only|just] {b}. What is the [difference|gap]?|By how many {things} is {name}, with {a}, ahead of {other}, "
        "with {b}?]" + THANKS,
        OPEN_CAREFUL + "[{name} [has|holds|owns] **{final}** [more|more {things}|{things} more][| than {other}]"
        "|[the difference|the gap|the lead][| between the two] [is|comes to|amounts to] **{final}**[| {things}]"
        "|{other} [has|holds|is] **{final}** [fewer|less|behind][| than {name}]|{other} would need **{final}** more "
        "[{things}|of them] to [match|equal|catch] {name}]." + CLOSE_SUM,
    ),
    Family(
        "rate",
        _KIND,
        _rate,
        ASK + "[{a_machine} [makes|handles|counts] {r} {things} [an|per] hour. How many {things} in {h} hours?"
        "|How many {things} does {a_machine} [make|handle] in {h} hours at {r} [an|per] hour?"
        "|At {r} {things} [an|per|each] hour, what does {a_machine} [deliver|produce] in {h} hours?]" + THANKS,
        OPEN
        + "[[the|that|this] {machine} [makes|handles|gets through] **{final}** {things}[| in that time| in {h} hours]"
        "|[in|over|after] {h} hours [that is|it comes to|we get] **{final}**[| {things}| in all]"
        "|[expect|count on|you get] **{final}** {things} [from|out of] [it|the {machine}]]." + CLOSE_SUM,
    ),
    Family(
        "percentage",
        _KIND,
        _percentage,
        ASK
        + "[What is {p}% of {n}[| {things}]?|{name} has {n} {things}; {p}% are [red|new|old|blue]. How many is that?"
        "|[Find|Compute|Work out] {p}% of {n}[| {things}].|Of {n} {things}, {name} [sells|keeps|counts] {p}%. How "
        "many?]" + THANKS,
        OPEN_PLAIN + "[{p}% of {n} [is|equals|comes to|makes] **{final}**|[the|that|this] [share|part|portion] "
        "[is|comes to|amounts to] **{final}**[| exactly| out of {n}]|[taking|with] {p}[%| percent] of [it|{n}|the "
        "whole], "
        "[we|you|one] [get|find|reach] **{final}**]." + CLOSE_SUM,
    ),
    Family(
        "average",
        _KIND,
        _average,
        ASK + "[What is the [average|mean] of {xs}?|{name} counted {xs} {things} on {k} days. What is the "
        "[mean|average] per "
        "day?|[Find|Compute|Work out] the [mean|average] of these [numbers|scores]: {xs}."
        "|{k} bags hold {xs} {things}. How many are there on average?]" + THANKS,
        OPEN_CAREFUL + "[[the|their] [mean|average][| of the {k}| value] [is|comes to|equals|works out as] **{final}**"
        "|[on average|taken together|evened out], [it is|that is|they make] **{final}**[| each| apiece]"
        "|[those|these|the] {k} [numbers|values|figures] [average|even out at|have a mean of] **{final}**]."
        + CLOSE_SUM,
    ),
    Family(
        "three_sums",
        _KIND,
        _three_sums,
        ASK + "[{n1} has {a} {things}, {n2} has {b} and {n3} has {c}. How many [together|in total|in all]?"
        "|{n1}, {n2} and {n3} [bring|collect|own] {a}, {b} and {c} {things}. [What is the total?|How many is that?]"
        "|[Add|Count] the {things}: {n1} {a}, {n2} {b}, {n3} {c}.]" + THANKS,
        OPEN + "[[together|all told|between them] [they|the three] [have|hold|own] **{final}**[| {things}]"
        "|[the total|the sum|that] [is|comes to|makes] **{final}**[| {things}| for all three]"
        "|{n1}, {n2} and {n3} [reach|make|get to|have] **{final}** [together|in all|as a group|when counted up]]."
        + CLOSE_SUM,
    ),
    Family(
        "think_of_a_number",
        _KIND,
        _think_of_a_number,
        ASK
        + "[{name} thinks of a number, [multiplies it by {k}|takes it {k} times] and adds {b}. The result is {c}. "
        "[What is "
        "it|Which number is it|What was it]?|{k} times a number plus {b} [is|makes|gives] {c}. [What is|Which is] "
        "the number?"
        "|A secret number times {k}, [and|then] {b} more, [is|makes] {c}. What is the [secret|number]?]".replace(
            "Find it]?", "What was it]?"
        ).replace("[What is|Which is] the number?", "[What is|Which is] the number?")
        + THANKS,
        OPEN_PLAIN
        + "[[the|that|this] [number|secret number|unknown][| {name} had| in question] [is|was|must be] **{final}**"
        "|[it|this] [has to|must|can only] be **{final}**[|, as [only that|nothing else] [gives|makes] {c}]"
        "|[undoing|reversing] the [two steps|sums|steps] [gives|leads to|shows] **{final}**]." + CLOSE_SUM,
    ),
    Family(
        "fraction",
        _KIND,
        _fraction,
        ASK
        + "[What is {t}/{d} of {n}[| {things}]?|{name} [eats|sells|uses|hides] {t}/{d} of {n} {things}. How many is "
        "that?"
        "|[Find|Compute|Work out] {t}/{d} of {n}[| {things}].|Of {n} {things}, {t}/{d} are [green|ripe|broken|new]. "
        "How many?]" + THANKS,
        OPEN_CAREFUL + "[{t}/{d} of {n} [is|equals|comes to|makes] **{final}**|[the|that|this] [share|part|fraction] "
        "[is|comes to|amounts to] **{final}**[| exactly| out of {n}]|[taking|with] {t} of [the|those] {d} equal parts, "
        "[we|you] [get|have|reach] **{final}**[| {things}]]." + CLOSE_SUM,
    ),
    Family(
        "boxes_and_loose",
        _KIND,
        _boxes_and_loose,
        ASK
        + "[{name} has {a} {box} of {b} {things} and {c} loose ones. How many {things} [in total|altogether|is that]?"
        "|There are {a} {box} with {b} {things} each, [plus|and] {c} {things} on the [table|floor]. [How many in "
        "all|What is "
        "the total]?|[Add up|Count] {a} {box} of {b} {things} and {c} [extra|more|spare] {things}.]" + THANKS,
        OPEN + "[{name} [has|counts|owns] **{final}** {things}[| in total| altogether| in all]|[with|counting] the "
        "[loose|extra|spare] ones, [there are|it is|that makes] **{final}**[| {things}]|the {box} and the "
        "[other|remaining|last] "
        "{c} [make|come to|add up to] **{final}**[| {things}]]." + CLOSE_SUM,
    ),
)
