"""Short Python programs to read: what is printed, line by line.

The programs are plain text; nothing here runs them.
"""

import random

from bitweir_compression.corpus.families_common import (
    CLOSE_CODE,
    CODE_ASK,
    CODE_THANKS,
    OPEN,
    OPEN_CAREFUL,
    OPEN_PLAIN,
    Family,
    Problem,
    add_steps,
    between,
    distinct,
    made,
    nonsense,
)
from bitweir_compression.corpus.families_lexicon import THINGS, WORDS

_VARIABLES = ("b", "p", "c", "k", "m", "n", "x", "y", "z")


def _assignments(rng: random.Random) -> Problem:
    u, v = distinct(rng, _VARIABLES, 2)
    a, b, k = between(rng, 2, 30), between(rng, 2, 20), between(rng, 2, 4)
    first, second = a + b, (a + b) * k - a
    code = f"{u} = {a}\n{v} = {u} + {b}\n{v} = {v} * {k} - {u}\nprint({v})"
    steps = f"{u}={a}; {v}={a}+{b}={first}; {first}*{k}={first * k}; {v}={first * k}-{a}={second}"
    return made({"a": a, "b": b, "k": k}, steps, second, code=code, var=v, other=u)


def _loop(rng: random.Random) -> Problem:
    start, count, step = between(rng, 0, 30), between(rng, 2, 6), between(rng, 2, 12)
    total = rng.choice(["total", "count", "score"])
    code = f"{total} = {start}\nfor i in range({count}):\n    {total} += {step}\nprint({total})"
    rounds = "; ".join(f"{start + step * i}+{step}={start + step * (i + 1)}" for i in range(count))
    return made(
        {"s": start, "n": count, "k": step}, f"{count} times; {rounds}", start + count * step, code=code, var=total
    )


def _index_loop(rng: random.Random) -> Problem:
    total, low, count = between(rng, 0, 30), between(rng, 1, 8), between(rng, 3, 5)
    code = f"s = {total}\nfor i in range({low}, {low + count}):\n    s += i\nprint(s)"
    steps, start = [], total
    for i in range(low, low + count):
        steps.append(f"{total}+{i}={total + i}")
        total += i
    return made({"s": start, "low": low, "high": low + count}, "; ".join(steps), total, code=code, var="s")


def _range_list(rng: random.Random) -> Problem:
    start, step = between(rng, 0, 20), between(rng, 2, 6)
    stop = start + step * between(rng, 2, 4) + between(rng, 1, step)
    values = list(range(start, stop, step))
    steps = "; ".join(f"{value}<{stop}" for value in values) + f"; {values[-1] + step} stop; {values}"
    key = {"start": start, "stop": stop, "step": step}
    return made(key, steps, str(values), code=f"print(list(range({start}, {stop}, {step})))", var="range")


def _length(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 6))
    name = rng.choice(["items", "words", "bag"])
    lines, count = [f"{name} = {words[:-1]!r}"], len(words) - 1
    trace = [str(count)]
    for _ in range(between(rng, 1, 3)):
        grows = count < 2 or rng.choice([True, False])
        lines.append(f"{name}.append('{words[-1]}')" if grows else f"{name}.pop()")
        trace.append(f"{count}{'+' if grows else '-'}1={count + (1 if grows else -1)}")
        count += 1 if grows else -1
    calls = ["append" if "append" in line else "pop" for line in lines[1:]]
    code = "\n".join([*lines, f"print(len({name}))"])
    return made({"xs": words, "calls": calls}, "; ".join(trace), count, code=code, var=name)


def _boolean(rng: random.Random) -> Problem:
    a, b, c, d = (between(rng, 1, 30) for _ in range(4))
    word, turned = rng.choice(["and", "or"]), rng.choice([True, False])
    left, right = a > b, (c >= d) if turned else (c < d)
    value = (left and right) if word == "and" else (left or right)
    second = f"not {c} < {d}" if turned else f"{c} < {d}"
    steps = f"{a} > {b} {left}; {second} {right}; {left} {word} {right}; {value}"
    key = {"expr": f"{a} > {b} {word} {second}"}
    return made(key, steps, value, code=f"print({key['expr']})", var="it")


def _slice(rng: random.Random) -> Problem:
    word = nonsense(rng, 3, 3)
    start = between(rng, 0, len(word) - 3)
    stop = between(rng, start + 2, len(word) - 1)
    indexed = " ".join(f"{place}{char}" for place, char in enumerate(word))
    final = word[start:stop]
    steps = f"{indexed}; {start} to {stop - 1}: {' '.join(final)}; {final}"
    code = f"s = '{word}'\nprint(s[{start}:{stop}])"
    return made({"w": word, "i": start, "j": stop}, steps, final, code=code, var="s")


def _dictionary(rng: random.Random) -> Problem:
    names = distinct(rng, THINGS, 3)
    values = [between(rng, 2, 60) for _ in names]
    one, two = distinct(rng, range(3), 2)
    pairs = ", ".join(f"'{name}': {value}" for name, value in zip(names, values, strict=True))
    code = f"d = {{{pairs}}}\nprint(d['{names[one]}'] + d['{names[two]}'])"
    a, b = values[one], values[two]
    steps = f"{names[one]} {a}; {names[two]} {b}; {add_steps(a, b)}"
    return made({"names": names, "xs": values, "i": one, "j": two}, steps, a + b, code=code, var="d")


def _branch(rng: random.Random) -> Problem:
    a, b = distinct(rng, range(3, 60), 2)
    c = between(rng, 2, 20)
    code = f"x = {a}\ny = {b}\nif x > y:\n    print(x - y)\nelse:\n    print(x + {c})"
    steps = f"{a} > {b} {a > b}; " + (f"{a}-{b}={a - b}" if a > b else f"{a}+{c}={a + c}")
    return made({"a": a, "b": b, "c": c}, steps, a - b if a > b else a + c, code=code, var="x")


def _index(rng: random.Random) -> Problem:
    words = distinct(rng, WORDS, between(rng, 3, 6))
    place = between(rng, -len(words), len(words) - 1)
    code = f"w = {words!r}\nprint(w[{place}])"
    marks = range(-len(words), 0) if place < 0 else range(len(words))
    steps = "; ".join(f"{mark} {word}" for mark, word in zip(marks, words, strict=True))
    return made({"xs": words, "i": place}, f"{steps}; at {place}: {words[place]}", words[place], code=code, var="w")


def _filter(rng: random.Random) -> Problem:
    numbers = distinct(rng, range(1, 50), between(rng, 3, 5))
    odd = rng.choice([True, False])
    kept = [number for number in numbers if number % 2 == odd]
    code = f"xs = {numbers}\nprint([x for x in xs if x % 2 == {int(odd)}])"
    steps = "; ".join(f"{number} {'odd' if number % 2 else 'even'}" for number in numbers)
    return made({"xs": numbers, "r": int(odd)}, f"{steps}; {kept}", str(kept), code=code, var="xs")


_PRINTS = (
    "[What does this [code|program|snippet] [print|show]?\n{code}|[Tell me|Say] what is printed[ "
    "here|]:\n{code}|[Read|Trace|"
    "Follow] this [code|program].\n{code}\nWhat is [printed|the output]?]"
)


_OUTPUT = (
    "[[the|this|that] [code|program|snippet] [prints|shows|outputs|writes] **{final}**|[the output|what it "
    "prints|what you "
    "see][| at the end] [is|will be|must be] **{final}**|"
)
_PROMPTS = CODE_ASK + _PRINTS + CODE_THANKS

FAMILIES = (
    Family(
        "code_assignments",
        "code",
        _assignments,
        _PROMPTS,
        OPEN
        + _OUTPUT
        + "[after|with] [all|the] [lines|steps], {var} [is|holds|equals|has the value] **{final}**]."
        + CLOSE_CODE,
    ),
    Family(
        "code_loop",
        "code",
        _loop,
        _PROMPTS,
        OPEN_PLAIN + _OUTPUT + "[after the loop|when the loop ends|in the end], {var} [is|holds|equals|has grown to] "
        "**{final}**]." + CLOSE_CODE,
    ),
    Family(
        "code_index_loop",
        "code",
        _index_loop,
        _PROMPTS,
        OPEN_CAREFUL
        + _OUTPUT
        + "[adding|summing] [every|each] i [brings|takes|gets] {var} to **{final}**]."
        + CLOSE_CODE,
    ),
    Family(
        "code_range",
        "code",
        _range_list,
        _PROMPTS,
        OPEN + _OUTPUT + "[the|that] [list|{var}] [holds|contains|consists of|runs through] **{final}**]." + CLOSE_CODE,
    ),
    Family(
        "code_len",
        "code",
        _length,
        _PROMPTS,
        OPEN_PLAIN
        + _OUTPUT
        + "[in the end|finally|by then], {var} [has|is of|has a] length **{final}**]."
        + CLOSE_CODE,
    ),
    Family(
        "code_boolean",
        "code",
        _boolean,
        _PROMPTS,
        OPEN_CAREFUL
        + _OUTPUT
        + "[the|that] [expression|condition|test] [is|evaluates to|comes out as|gives] **{final}**]."
        + CLOSE_CODE,
        case_matters=True,
    ),
    Family(
        "code_slice",
        "code",
        _slice,
        _PROMPTS,
        OPEN + _OUTPUT + "[the|that] [slice|part|piece][| of {var}] [is|reads|contains] **{final}**]." + CLOSE_CODE,
    ),
    Family(
        "code_dict",
        "code",
        _dictionary,
        _PROMPTS,
        OPEN_PLAIN
        + _OUTPUT
        + "[the|those] two [entries|values|items][| of {var}] [add up to|make|sum to] **{final}**]."
        + CLOSE_CODE,
    ),
    Family(
        "code_branch",
        "code",
        _branch,
        _PROMPTS,
        OPEN_CAREFUL + _OUTPUT + "[only one|just one] [branch|print|side] [runs|is taken], [giving|printing|showing] "
        "**{final}**]." + CLOSE_CODE,
    ),
    Family(
        "code_index",
        "code",
        _index,
        _PROMPTS,
        OPEN
        + _OUTPUT
        + "[that|the] [index|position|place][| in {var}] [holds|has|picks|gives] **{final}**]."
        + CLOSE_CODE,
    ),
    Family(
        "code_filter",
        "code",
        _filter,
        _PROMPTS,
        OPEN_PLAIN + _OUTPUT + "[filtering|going through] {var} [keeps|leaves|gives|yields] **{final}**]." + CLOSE_CODE,
    ),
)
