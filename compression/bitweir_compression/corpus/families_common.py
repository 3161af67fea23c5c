"""What every template family shares: its shape, worked arithmetic, and the fragments answers open and close with.

Rules:
1. A family draws a `Problem` (what is asked and what is right) apart from its wording; the key is written from the
   problem's own values and the prompt writes them in a fixed order, so one prompt has one key.
2. An answer template writes `**{final}**` exactly once in every branch; that is the span `tutor.check` reads.
3. Steps have one systematic form for each operation and end in the final answer as the visible text will write it; a
   small model learns forms, not cleverness.
4. Chance comes from the generator handed in, by `choice` and `randrange` only.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bitweir_compression.corpus.families_lexicon import CONSONANTS, NAMES, THINGS, VOWELS
from bitweir_compression.errors import CorpusError


@dataclass(frozen=True)
class Problem:
    """One problem without its wording.

    Attributes:
        key: canonical slot values; two problems with one key have one final answer.
        slots: what the templates may fill in, `final` included.
        steps: the worked steps.
        final: the checkable answer.
    """

    key: str
    slots: Mapping[str, str]
    steps: str
    final: str


@dataclass(frozen=True)
class Family:
    """A kind of problem and the ways to word it.

    Attributes:
        name: unique in the tutor, e.g. `addition`.
        kind: `word`, `unit`, `date`, `list`, `table`, `string`, `code`, `sequence` or `class`.
        draw: makes one problem.
        prompts: template of the question.
        answers: template of the visible answer.
        case_matters: whether `OWL` and `owl` are different answers.
    """

    name: str
    kind: str
    draw: Callable[[random.Random], Problem]
    prompts: str
    answers: str
    case_matters: bool = False


def made(key: Mapping[str, object], steps: str, final: object, **slots: object) -> Problem:
    """Return a problem; key values are slots too; a sequence is `a/b/c` in the key and `a, b, c` in the text."""
    named = {name: _key_text(value) for name, value in key.items()}
    values = {name: _slot_text(value) for name, value in {**key, **slots, "final": final}.items()}
    return Problem(",".join(f"{name}={text}" for name, text in named.items()), values, steps, str(final))


def _key_text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _slot_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# Drawing

T = TypeVar("T")


def between(rng: random.Random, low: int, high: int) -> int:
    """Return an integer from low to high, both included."""
    return rng.randrange(low, high + 1)


def distinct(rng: random.Random, pool: Sequence[T], count: int) -> list[T]:
    """Return `count` different members of a pool in the order drawn."""
    if count > len(set(pool)):
        raise CorpusError(f"cannot draw {count} different values of {len(set(pool))}", remedy="widen the pool")
    drawn: list[T] = []
    while len(drawn) < count:
        value = rng.choice(pool)
        if value not in drawn:
            drawn.append(value)
    return drawn


def someone(rng: random.Random) -> dict[str, object]:
    """Return the slots `name` and `things`."""
    return {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}


def nonsense(rng: random.Random, syllables_min: int, syllables_max: int) -> str:
    """Return a made-up word of syllables like `ka`, sometimes closed by a consonant."""
    count = between(rng, syllables_min, syllables_max)
    open_part = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(count))
    return open_part + rng.choice(["", rng.choice(CONSONANTS)])


def counted(count: int, unit: str) -> str:
    """Return `1 hour` or `3 hours`."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def with_article(noun: str) -> str:
    """Return `an owl` or `a fox`."""
    return f"an {noun}" if noun[0] in VOWELS else f"a {noun}"


# Worked arithmetic


def add_steps(a: int, b: int) -> str:
    """Return column addition: `47+38: 7+8=15 carry 1; 4+3+1=8; 85`."""
    if a < 10 and b < 10:
        return f"{a}+{b}={a + b}"
    columns, carry, left, right = [], 0, str(a)[::-1], str(b)[::-1]
    for place in range(max(len(left), len(right))):
        digits = [text[place] for text in (left, right) if place < len(text)] + (["1"] if carry else [])
        total = sum(map(int, digits))
        last = place == max(len(left), len(right)) - 1
        carry = 0 if last else total // 10
        columns.append("+".join(digits) + (f"={total}" if len(digits) > 1 else "") + (" carry 1" if carry else ""))
    return f"{a}+{b}: " + "; ".join([*columns, str(a + b)])


def sub_steps(a: int, b: int) -> str:
    """Return column subtraction of b <= a: `85-38: 15-8=7 borrow 1; 8-3-1=4; 47`."""
    if a < 10:
        return f"{a}-{b}={a - b}"
    columns, borrow, upper, lower = [], 0, str(a)[::-1], str(b)[::-1]
    for place, digit in enumerate(upper):
        taken = ([lower[place]] if place < len(lower) else []) + (["1"] if borrow else [])
        rest = int(digit) - sum(map(int, taken))
        borrow = int(rest < 0)
        top = str(int(digit) + 10 * borrow)
        columns.append(
            "-".join([top, *taken]) + (f"={rest + 10 * borrow}" if taken else "") + (" borrow 1" if borrow else "")
        )
    return f"{a}-{b}: " + "; ".join([*columns, str(a - b)])


def mul_steps(a: int, b: int) -> str:
    """Return a product, the larger factor split in tens and ones where it is beyond the tables."""
    small, large = sorted((a, b))
    tens, ones = large - large % 10, large % 10
    if large <= 12 or not ones or small <= 1:
        return f"{large}*{small}={a * b}"
    return f"{large}*{small}: {tens}*{small}={tens * small}; {ones}*{small}={ones * small}; {a * b}"


def div_steps(n: int, d: int) -> str:
    """Return a division: `252/7: 7*30=210; 252-210=42; 7*6=42; 36`, ending ` r 2` where something is left."""
    quotient, rest, parts = n // d, n, []
    tens = quotient - quotient % 10 if quotient > 12 else 0
    for count in (tens, quotient - tens):
        if count:
            parts.append(f"{d}*{count}={d * count}")
            if rest > d * count:
                parts.append(f"{rest}-{d * count}={rest - d * count}")
            rest -= d * count
    return f"{n}/{d}: " + "; ".join([*parts, str(quotient) + (f" r {rest}" if rest else "")])


def running_sum(numbers: Sequence[int]) -> str:
    """Return `12+15=27; 27+9=36`."""
    totals = [sum(numbers[: count + 1]) for count in range(len(numbers))]
    return "; ".join(f"{totals[i]}+{numbers[i + 1]}={totals[i + 1]}" for i in range(len(numbers) - 1))


# Openers and closers. Each pair carries about nine bits; the family's own sentence carries the rest.

ASK = (
    "[|[Quick|Short|Small|Easy] question: |[Please|Kindly] [solve|answer|work out] this: "
    "|[Help me|Give me a hand] with this[.|:] |[One|Another|A] problem [for you|to solve]: ]"
)
CODE_ASK = "[|[Quick|Short|Small] question: |[Read|Trace|Follow] this: |[Help me|Give me a hand] with some code. ]"
THANKS = (
    "[| [Thanks|Thank you|Many thanks]!| [Please|Kindly] [be brief|keep it short|be clear]."
    "| [Give|State|Mark] the [result|answer] in bold.]"
)
CODE_THANKS = (
    "[|\n[Thanks|Thank you|Many thanks]!|\n[Please|Kindly] [be brief|keep it short|be clear]."
    "|\n[Give|State|Mark] the [result|answer] in bold.]"
)

OPEN = (
    "[|[Sure|Certainly|Of course|Gladly][.|!|:] |[Right|Okay|Well|Now], "
    "|[Let us see|Here we go|Here it is|Here you are]: |[Good|Nice|Fair] question. |[Thanks|Thank you] for asking. ]"
)
OPEN_PLAIN = (
    "[|[Happy|Glad|Pleased] to help[.|!|:] |[All right|Very well|Fine|Yes], "
    "|[This one is|That is] [quick|simple|easy|short][:|.] |[Done|Ready|Solved][.|!|:] |[In short|Briefly|In brief], ]"
)
OPEN_CAREFUL = (
    "[|[having looked|after looking|on looking] [closely|carefully], |[Let me see|Let me think|One moment][.|:] "
    "|[Going|Working] through it [once|slowly|in order]: |[So|Then|Now], |[With pleasure|No problem|Sure "
    "thing][.|!|:] ]"
)

CLOSE_SUM = (
    "[| [A quick|An easy|A second] check [gives the same|agrees|confirms it].| [Hope|I hope] [that|this] "
    "[helps|is clear|is useful].| [Feel free to|You can] [check|verify|redo] it [by hand|on paper|with a calculator]."
    "| [Working it out|Doing it] [step by step|slowly|in parts] [gives the same|leads there too]."
    "| That is [all|the whole story|everything].]"
)
CLOSE_UNIT = (
    "[| [The units|Both units] [match|fit|work out] [nicely|as they should|well]."
    "| [Converting|Going] back [gives|returns] [the same amount|what we started with]."
    "| [Tell me|Say so] if [another|a different|some other] unit [is needed|suits you better]."
    "| [Just|Simply|Always] [keep|bear] the [scale|factor|unit] in mind.| [Hope|I hope] this [helps|is useful].]"
)
CLOSE_DATE = (
    "[| [Counting|Stepping|Going] [back|backwards] [confirms it|fits|gives the same].| [Better|Best] [note|write] "
    "it [down|in the diary|on a calendar].| [A|Any] [clock|calendar|diary] "
    "[would show|will show|shows] [the same|this too].| [Mark|Note] it [down|somewhere].| [Safe|Good] to [plan|count] "
    "[on|with] that.| [There is nothing|Nothing] [else|more] to [count|add].]"
)
CLOSE_LIST = (
    "[| [Every|Each] [entry|item|element] [was|has been] [looked at|considered|checked]."
    "| [Nothing else|Nothing more] [needs|has] to be [done|changed].| [Tell|Ask] me [if|when] you [want|need] "
    "[another|a longer|a different] [list|one].| [The|That] [original|given] list [stays|is left] [unchanged|as it "
    "was]."
    "| I [went|worked] through it [from left to right|once|twice|item by item].]"
)
CLOSE_TABLE = (
    "[| [All|The other] [rows|lines] [were|have been] [read|checked|looked at] [too|as well]."
    "| [Have|Take] [another|a second] look at the [table|rows] [to be sure|if in doubt]."
    "| [It|That] [follows|comes|is read] [straight|directly] from the [table|figures|rows]."
    "| [The|Those] [figures|numbers] are [as given|the given ones|taken as listed].| [Hope|I hope] this [helps|is "
    "clear].]"
)
CLOSE_STRING = (
    "[| [Spelled|Written] out [letter by letter|slowly|in full], it [agrees|fits]."
    "| [Every|Each] [letter|character] [counts|matters|was checked].| [Try|Send|Give me] [another|a longer] "
    "[one|example] [any time|if you like].| [Mind|Watch] the [spelling|letters|order].| [Reading|Going] [it "
    "over|through it] "
    "[again|twice] [gives the same|changes nothing].]"
)
CLOSE_CODE = (
    "[| [Running|Executing|Trying] it [confirms|shows] [this|that|the same].| [There is|I see] no "
    "[error|trap|surprise] "
    "[here|in it|along the way].| [The|All] other lines [only|merely] [prepare|set up] [that|this]."
    "| [Trace|Follow|Step through] it [line by line|by hand] [to see why|to be sure]."
    "| [Nothing else|Nothing further|No more] is [printed|shown|written].]"
)
CLOSE_RULE = (
    "[| [The|That|This] [rule|pattern] [holds|works|is kept] [throughout|at every step|all along]."
    "| [Every|Each] [step|gap] [fits|agrees|follows it].| [You|One] [can|could] [carry on|continue] [the same "
    "way|from there]."
    "| [Nothing|No number] [breaks|spoils] the [rule|pattern|run].| [Another|The next] one [would be|is] [just as "
    "easy|no harder].]"
)
CLOSE_CLASS = (
    "[| [Most people|Anyone|A child] [would say|would answer|would tell you] [so|the same].| [The|All] others "
    "[clearly|plainly|surely] [do not count|are different|differ].| [That|It] [seems|is] [clear|plain|obvious] "
    "[enough|to me]."
    "| [No|Hardly any] [doubt|question] about [it|that].| [Ask|Try] me with [another|a harder|a new] [set|group|list].]"
)
