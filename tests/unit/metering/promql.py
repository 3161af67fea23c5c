"""Which metrics and labels an expression of PromQL names. A reader of names, not an engine: it evaluates nothing.

What it finds: unbalanced brackets, an unclosed text, a name that is neither a known metric, function nor keyword, a
label that the metric beside it does not have, a class that is none. What it does not find: wrong types, wrong matching,
wrong numbers. tests/e2e/test_alerts.py has promtool look at those.
"""

import re
from collections.abc import Mapping

TOKEN = re.compile(
    r"""\s+|(?P<text>"(?:[^"\\]|\\.)*")|(?P<range>\[(?:\d+[smhdwy]|\$__rate_interval|\$__range)\])
    |(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^=<>,(){}])""",
    re.VERBOSE,
)
FUNCTIONS = frozenset(
    {"absent", "increase", "max_over_time", "predict_linear", "rate", "scalar", "timestamp", "vector"}
)
FUNCTIONS |= {"changes", "delta", "time"}
AGGREGATIONS = frozenset({"count", "max", "min", "sum"})
OPERATORS = frozenset({"and", "or", "unless", "offset"})
GROUPINGS = frozenset({"by", "on", "ignoring", "without", "group_left", "group_right"})
CLOSING = {"(": ")", "{": "}"}
CLASSES = frozenset({"model", "control", "resend", "tunnel", "timing"})

Labels = Mapping[str, frozenset[str]]
"""Name of a metric -> its labels."""


def tokens(expression: str) -> list[tuple[str, str]]:
    """Return (kind, text) of every token; what is none ends the list as ("wrong", the rest)."""
    found, place = [], 0
    while place < len(expression):
        match = TOKEN.match(expression, place)
        if match is None:
            return [*found, ("wrong", expression[place:])]
        if match.lastgroup:
            found.append((match.lastgroup, match.group()))
        place = match.end()
    return found


def metrics_of(expression: str, labels: Labels) -> set[str]:
    """Return the known metrics that an expression names."""
    return {text for kind, text in tokens(expression) if kind == "name" and text in labels}


def problems(expression: str, labels: Labels) -> list[str]:
    """Return what is wrong with the names of an expression."""
    found = tokens(expression)
    if not found or found[-1][0] == "wrong":
        return [f"cannot be read at {found[-1][1] if found else 'its start'!r:.40}"]
    wrong, open_brackets = [], list[str]()
    used = metrics_of(expression, labels)
    known = frozenset().union(*(labels[name] for name in used)) if used else frozenset()
    metric, is_grouping = "", False
    for place, (kind, text) in enumerate(found):
        before = found[place - 1][1] if place else ""
        if text in CLOSING:
            open_brackets.append(CLOSING[text])
            is_grouping = text == "(" and before in GROUPINGS
        elif text in CLOSING.values():
            if not open_brackets or open_brackets.pop() != text:
                return [*wrong, f"a {text} that nothing opened"]
            is_grouping = False
        elif kind == "name" and open_brackets[-1:] == ["}"]:
            if text not in labels.get(metric, frozenset()):
                wrong.append(f"{metric or 'nothing'} has no label {text}")
        elif kind == "name" and is_grouping:
            if text not in known:
                wrong.append(f"no metric here has a label {text}")
        elif kind == "name" and text in labels:
            metric = text
        elif kind == "name" and text not in FUNCTIONS | AGGREGATIONS | OPERATORS | GROUPINGS:
            wrong.append(f"{text} is no metric")
        elif kind == "text" and place > 1 and found[place - 2][1] == "class":
            wrong += [f"{value} is no class" for value in text[1:-1].split("|") if value not in CLASSES]
    return [*wrong, *(f"no {text} at the end" for text in open_brackets)]
