"""Units, clock times and dates: conversions and counting in mixed bases.

Dates are of a year that is not a leap year and stay inside it.
"""

import random

from bitweir_compression.corpus.families_common import (
    ASK,
    CLOSE_DATE,
    CLOSE_UNIT,
    OPEN,
    OPEN_CAREFUL,
    OPEN_PLAIN,
    THANKS,
    Family,
    Problem,
    add_steps,
    between,
    counted,
    distinct,
    made,
)
from bitweir_compression.corpus.families_lexicon import MONTHS, NAMES, WEEKDAYS

_MONTH_NAMES = tuple(MONTHS)
_OCCASIONS = ("meeting", "lesson", "concert", "match", "film", "class", "ferry ride", "show", "walk", "dinner")


def _length(rng: random.Random) -> Problem:
    a, b = between(rng, 1, 30), 10 * between(rng, 1, 99)
    steps = f"{a} km={a}*1000={a * 1000}; {a * 1000}+{b}={a * 1000 + b}"
    return made({"a": a, "b": b}, steps, a * 1000 + b, name=rng.choice(NAMES))


def _mass(rng: random.Random) -> Problem:
    grams = 10 * between(rng, 101, 2999)
    kilos, rest = divmod(grams, 1000)
    final = f"{kilos} kg {rest} g" if rest else f"{kilos} kg"
    steps = f"{grams}={kilos}*1000+{rest}; {final}"
    return made({"g": grams}, steps, final, name=rng.choice(NAMES))


def _minutes(rng: random.Random) -> Problem:
    h, m = between(rng, 2, 12), between(rng, 1, 59)
    steps = f"{h}*60={h * 60}; {add_steps(h * 60, m)}"
    return made({"h": h, "m": m}, steps, h * 60 + m, name=rng.choice(NAMES), what=rng.choice(_OCCASIONS))


def _hours(rng: random.Random) -> Problem:
    n = between(rng, 62, 899)
    h, m = divmod(n, 60)
    final = counted(h, "hour") + (f" {counted(m, 'minute')}" if m else "")
    steps = f"{h}*60={h * 60}; {n}-{h * 60}={m}; {final}"
    return made({"n": n}, steps, final, name=rng.choice(NAMES), what=rng.choice(_OCCASIONS))


def _litres(rng: random.Random) -> Problem:
    a = between(rng, 1, 5)
    b = 50 * between(rng, 1, a * 20 - 1)
    steps = f"{a} litres={a * 1000} ml; {a * 1000}-{b}={a * 1000 - b}"
    c = 10 * between(rng, 1, 30)
    steps += f"; {a * 1000 - b}+{c}={a * 1000 - b + c}"
    slots = {"pot": rng.choice(["jug", "pot", "can", "bowl"]), "name": rng.choice(NAMES)}
    return made({"a": counted(a, "litre"), "b": b, "c": c}, steps, a * 1000 - b + c, **slots)


def _lengths_sum(rng: random.Random) -> Problem:
    a, b, c, d = between(rng, 1, 9), between(rng, 5, 99), between(rng, 1, 9), between(rng, 5, 99)
    metres, cm = divmod((a + c) * 100 + b + d, 100)
    carry = f"100 cm=1 m; {a + c}+1={metres}; " if metres > a + c else ""
    final = f"{metres} m {cm} cm"
    steps = f"cm {add_steps(b, d)}; m {a}+{c}={a + c}; {carry}{final}"
    return made({"a": a, "b": b, "c": c, "d": d}, steps, final, name=rng.choice(NAMES))


def _temperature(rng: random.Random) -> Problem:
    t, n, up = between(rng, -20, 30), between(rng, 3, 35), rng.choice([True, False])
    end = t + n if up else t - n
    crossed = end != 0 and t != 0 and (t < 0) != (end < 0)
    sign = "+" if up else "-"
    way = f"{t} to 0 is {abs(t)}; {n}-{abs(t)}={n - abs(t)}; " if crossed else ""
    slots = {"verb": "rises" if up else "falls", "verbed": "risen" if up else "fallen", "name": rng.choice(NAMES)}
    return made({"t": t, "n": n, "dir": "up" if up else "down"}, f"{t}{sign}{n}: {way}{end}", end, **slots)


def _coins(rng: random.Random) -> Problem:
    a, b, c = between(rng, 1, 9), between(rng, 2, 9), between(rng, 2, 9)
    q, d, n = a * 25, b * 10, c * 5
    steps = f"{a}*25={q}; {b}*10={d}; {c}*5={n}; {q}+{d}={q + d}; {q + d}+{n}={q + d + n}"
    slots = {"quarters": counted(a, "quarter"), "name": rng.choice(NAMES)}
    return made({"a": a, "b": b, "c": c}, steps, q + d + n, **slots)


def _weekday_after(rng: random.Random) -> Problem:
    day, n = between(rng, 0, 6), between(rng, 3, 99)
    back = rng.choice([True, False])
    rest = n % 7
    step = -1 if back else 1
    walk = "; ".join(WEEKDAYS[(day + step * i) % 7] for i in range(rest + 1))
    steps = f"{n}={n // 7}*7+{rest}; {'back' if back else 'on'} {rest}: {walk}"
    slots = {"way": "before", "tense": "was", "asked": "was it", "when": f"{n} days ago"}
    if not back:
        slots = {"way": "after", "tense": "will be", "asked": "will it be", "when": f"in {n} days"}
    key = {"day": WEEKDAYS[day], "n": n, "dir": "back" if back else "on"}
    return made(key, steps, WEEKDAYS[(day + step * n) % 7], what=rng.choice(_OCCASIONS), **slots)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _clock_between(rng: random.Random) -> Problem:
    start, length = 5 * between(rng, 72, 230), 5 * between(rng, 3, 36)
    end = start + length
    to_hour = -start % 60
    if length <= to_hour or not to_hour:
        steps = f"{_clock(start)} to {_clock(end)}: {length}"
    else:
        hours, rest = divmod(length - to_hour, 60)
        steps = f"to {_clock(start + to_hour)} {to_hour}; {hours} h={hours * 60}; then {rest}; "
        steps += f"{to_hour}+{hours * 60}+{rest}={length}"
    slots = {"what": rng.choice(_OCCASIONS), "name": rng.choice(NAMES)}
    return made(
        {"from": _clock(start), "to": _clock(end)}, steps, length, start=_clock(start), end=_clock(end), **slots
    )


def _clock_add(rng: random.Random) -> Problem:
    start, n = 5 * between(rng, 72, 220), 5 * between(rng, 3, 42)
    h, m = divmod(n, 60)
    minute = start % 60
    carry = " so 1 h more" if minute + m >= 60 else ""
    steps = f"{n}={h} h {m} min; {minute}+{m}={minute + m}{carry}; {_clock(start + n)}"
    slots = {"what": rng.choice(_OCCASIONS), "name": rng.choice(NAMES)}
    return made({"start": _clock(start), "n": n}, steps, _clock(start + n), **slots)


def _date_add(rng: random.Random) -> Problem:
    month, n = between(rng, 0, 10), between(rng, 3, 28)
    days = MONTHS[_MONTH_NAMES[month]]
    day = between(rng, 1, days)
    total = day + n
    steps = f"{add_steps(day, n)}; {_MONTH_NAMES[month]} has {days}"
    final = f"{_MONTH_NAMES[month]} {total}"
    if total > days:
        final = f"{_MONTH_NAMES[month + 1]} {total - days}"
        steps += f"; {total}-{days}={total - days}"
    slots = {"what": rng.choice(_OCCASIONS), "name": rng.choice(NAMES)}
    return made({"date": f"{_MONTH_NAMES[month]} {day}", "n": n}, f"{steps}; {final}", final, **slots)


def _first_date(rng: random.Random) -> Problem:
    pairs: list[tuple[int, int]] = []
    months = distinct(rng, range(12), 2)
    while len(pairs) < 3:
        pair = (rng.choice(months), between(rng, 1, 28))
        if pair not in pairs:
            pairs.append(pair)
    latest = rng.choice([True, False])
    dates = [f"{_MONTH_NAMES[month]} {day}" for month, day in pairs]
    best = pairs.index(max(pairs) if latest else min(pairs))
    numbered = ", ".join(f"{month + 1}/{day}" for month, day in pairs)
    slots = {"most": "latest" if latest else "earliest", "ord": "last" if latest else "first"}
    steps = f"{numbered}; {slots['ord']} {pairs[best][0] + 1}/{pairs[best][1]}; {dates[best]}"
    return made({"dates": dates, "want": slots["ord"]}, steps, dates[best], name=rng.choice(NAMES), **slots)


def _weekday_in_month(rng: random.Random) -> Problem:
    a, day = between(rng, 1, 12), between(rng, 0, 6)
    b = between(rng, a + 3, 30)
    month = rng.choice(_MONTH_NAMES[2:])
    rest = (b - a) % 7
    walk = "; ".join(WEEKDAYS[(day + i) % 7] for i in range(rest + 1))
    steps = f"{b}-{a}={b - a}={(b - a) // 7}*7+{rest}; {walk}"
    return made({"a": a, "day": WEEKDAYS[day], "b": b}, steps, WEEKDAYS[(day + b - a) % 7], month=month)


_UNIT = (
    Family(
        "length_in_metres",
        "unit",
        _length,
        ASK + "[How many metres are {a} km and {b} m?|{name} walks {a} km {b} m. How far is that in metres?"
        "|[Convert|Change|Turn] {a} km {b} m [to|into] metres.|A [road|path|trail] is {a} km {b} m long. How many "
        "metres is "
        "that?]" + THANKS,
        OPEN + "[[that|it|this] [is|makes|comes to|equals] **{final}** [metres|m][| in all| exactly]"
        "|{a} km [and|plus] {b} m [is|makes|gives|equals] **{final}** metres|[in|given in|measured in] metres, "
        "[the distance|the length|that] [is|comes to] **{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "mass_in_kilos",
        "unit",
        _mass,
        ASK + "[Write {g} grams in kilograms and grams.|{name} [carries|weighs|buys] {g} g of [rice|sand|flour]. How "
        "much is "
        "that in kg and g?|[Convert|Change|Split] {g} g [to|into] kg and g.|How many kilograms and grams are {g} g?]"
        + THANKS,
        OPEN_PLAIN
        + "[[that|it|this] [is|makes|comes to|equals] **{final}**[| exactly| in all]|{g} [g|grams] [is|equals|is "
        "the same as|makes] **{final}**|[written|given|put] [that way|in kg and g|in both units], [it|the mass] "
        "[is|reads] "
        "**{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "hours_to_minutes",
        "unit",
        _minutes,
        ASK + "[How many minutes are {h} hours and {m} min?|The {what} takes {h} h {m} min. How many minutes is that?"
        "|[Convert|Change|Turn] {h} h {m} min [to|into] minutes.|{name} [works|reads|plays] for {h} h {m} min. Give "
        "it in "
        "minutes.]" + THANKS,
        OPEN_CAREFUL + "[[that|it|this] [is|makes|lasts|equals] **{final}** [minutes|min][| in all| exactly]"
        "|{h} hours [and|plus] {m} min [is|makes|gives|equals] **{final}** minutes|[in|given in|counted in] minutes, "
        "[the time|the length|that] [is|comes to] **{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "minutes_to_hours",
        "unit",
        _hours,
        ASK + "[Write {n} minutes in hours and minutes.|The {what} [lasts|takes] {n} minutes. How many hours and "
        "minutes is "
        "that?|[Convert|Change|Split] {n} min [to|into] hours and minutes.|{name} [waits|travels|sleeps] {n} "
        "minutes. Give it "
        "in hours and minutes.]" + THANKS,
        OPEN
        + "[[that|it|this] [is|makes|comes to|equals] **{final}**[| exactly| in all]|{n} [min|minutes] [is|equals|is "
        "the same as|makes] **{final}**|[written|given|put] [that way|in hours and minutes], [it|the time] [is|reads] "
        "**{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "litres_left",
        "unit",
        _litres,
        ASK + "[A {pot} holds {a}. {name} pours out {b} ml and [puts back|adds] {c} ml. How many ml are in it?"
        "|From {a} of [water|juice|milk], {b} ml are [used|taken] and {c} ml [added|poured back]. How many ml "
        "[remain|is that]?"
        "|{name} has {a} of [tea|soup|water], takes {b} ml and adds {c} ml. [Give|Find] the amount in ml.]" + THANKS,
        OPEN_PLAIN + "[[there are|it holds|that leaves|we have] **{final}** ml[| in it| now| in the {pot}]|[the|that] "
        "[amount|volume|rest] [is|comes to|equals] **{final}** ml|[after|with] [both|the two] [changes|steps], "
        "**{final}** ml [remain|are left|are there]]." + CLOSE_UNIT,
    ),
    Family(
        "lengths_joined",
        "unit",
        _lengths_sum,
        ASK + "[{name} [joins|glues|ties] a [rope|plank|pipe] of {a} m {b} cm to one of {c} m {d} cm. How long is it?"
        "|[Add|Sum] {a} m {b} cm and {c} m {d} cm.|How long are {a} m {b} cm and {c} m {d} cm [together|in total]?]"
        + THANKS,
        OPEN_CAREFUL
        + "[[together|joined|end to end], [they are|that is|it is] **{final}**[| long| in length]|[the|their] "
        "[whole|total|joint] length [is|comes to|measures] **{final}**|{a} m {b} cm [plus|with|joined to] the "
        "[other|second] [piece|part|length] [makes|reaches|comes to] **{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "temperature",
        "unit",
        _temperature,
        ASK + "[The temperature is {t} degrees and {verb} by {n} degrees. What is it [then|now|after that]?"
        "|It is {t} degrees [outside|in the shed] at {name}'s house. It {verb} {n} degrees. [How warm|What] is it then?"
        "|A thermometer shows {t}. It {verb} by {n}. What does it [show|read] [then|now]?]" + THANKS,
        OPEN + "[[it|the thermometer] [then|now] [shows|reads|stands at] **{final}**[| degrees]|[it|that] "
        "[is|makes|comes to] "
        "**{final}** degrees[| then| by then| in the end]|[having|when it has] {verbed} by {n}, [it|the temperature] "
        "[is|stands at|reaches] **{final}**]." + CLOSE_UNIT,
    ),
    Family(
        "coins",
        "unit",
        _coins,
        ASK + "[{name} has {quarters}, {b} dimes and {c} nickels. How many cents is that?|How many cents are "
        "{quarters}, {b} "
        "dimes and {c} nickels [worth|in all]?|[Count|Add up] the [cents|money] in {name}'s [purse|pocket|hand]: "
        "{quarters}, "
        "{b} dimes, {c} nickels.]" + THANKS,
        OPEN_PLAIN
        + "[{name} [has|holds|owns] **{final}** cents[| in all| altogether]|[the|those|these] [coins|pieces] [are "
        "worth|come to|make] **{final}** cents|[with|counting] all {b} dimes and [the|all] [other|remaining] coins, "
        "[it|that] [is|makes|comes to] **{final}** cents]." + CLOSE_UNIT,
    ),
)

_DATE = (
    Family(
        "weekday_shift",
        "date",
        _weekday_after,
        ASK + "[[Today is|It is] {day}. What day of the week {asked} {when}?|Which weekday is {n} days {way} a {day}?"
        "|The {what} is {n} days {way} {day}. [What|Which] day is that?|If today is {day}, [name|give] the weekday "
        "{when}.]" + THANKS,
        OPEN
        + "[[it|that|the day] {tense} [a |]**{final}**|{n} days {way} [a|that|this] {day} [is|comes|falls on|we have] "
        "[a |]**{final}**|[counting|going|stepping] {n} days from {day} [gives|leads to|lands on|brings us to] "
        "**{final}**]." + CLOSE_DATE,
    ),
    Family(
        "minutes_between",
        "date",
        _clock_between,
        ASK + "[How many minutes are there from {start} to {end}?|The {what} [starts|begins] at {start} and ends at "
        "{end}. How "
        "many minutes does it [take|last]?|{name} [leaves|sets off] at {start} and [arrives|returns] at {end}. How "
        "many "
        "minutes is that?]" + THANKS,
        OPEN_CAREFUL
        + "[[it|that] [takes|lasts|is] **{final}** [minutes|min][| in all| exactly]|[from|between] {start} "
        "[to|and] {end}[,|] [there are|we count|it is] **{final}** minutes|[the|this] [time|gap|wait] [is|comes "
        "to|lasts] "
        "**{final}** minutes]." + CLOSE_DATE,
    ),
    Family(
        "clock_add",
        "date",
        _clock_add,
        ASK + "[The {what} [starts|begins] at {start} and [lasts|takes] {n} minutes. When does it [end|finish]?"
        "|What time is it {n} minutes after {start}?|{name} [leaves|starts] at {start} and needs {n} minutes. "
        "[When|At what "
        "time] is {name} [there|done]?]" + THANKS,
        OPEN_PLAIN
        + "[[it|that] [is|will be|comes out at] **{final}**[| then| sharp| on the dot]|{n} minutes after {start} "
        "[is|comes|gives|makes] **{final}**|[the|that] [clock|time] [then shows|will show|will be|then reads] "
        "**{final}**"
        "|[from|starting at] {start}[,|] [we|you] [reach|get to|come to] **{final}**]." + CLOSE_DATE,
    ),
    Family(
        "date_add",
        "date",
        _date_add,
        ASK + "[What is the date {n} days after {date}?|The {what} is {n} days after {date}. [Which|What] date is that?"
        "|{name} [leaves|starts] on {date} and [returns|is done] {n} days later. On [which|what] date?|[Add|Count "
        "on] {n} days "
        "[to|from] {date}.]" + THANKS,
        OPEN + "[[it|that] [is|will be|falls on|lands on] **{final}**[| then| that year]|{n} days [after|from|on from] "
        "{date} "
        "[is|comes|we have] **{final}**|[the|that] [date|day] [is|will be|must be|comes out as] **{final}**|"
        "[counting|going] "
        "on from {date}[,|] [we|you] [reach|get to|come to] **{final}**]." + CLOSE_DATE,
    ),
    Family(
        "date_order",
        "date",
        _first_date,
        ASK + "[Which [date|day] [is the {most}|comes {ord}] in the year: {dates}?|{name} [wrote|put] down {dates}. "
        "Which is "
        "the {most} in the year?|[Pick|Find|Name] the {most} [date|day] of the year [out of|among] {dates}.]" + THANKS,
        OPEN_CAREFUL
        + "[[the|this] {most} [date|day|one][| of the three| in the year] [is|would be|must be] **{final}**"
        "|**{final}** [comes|falls|stands] {ord}[| in the year| of the three| among them]|[of|among|out of] the "
        "three [dates|"
        "days], **{final}** [is|is clearly|has to be] the {most}]." + CLOSE_DATE,
    ),
    Family(
        "weekday_in_month",
        "date",
        _weekday_in_month,
        ASK + "[If {month} {a} is a {day}, what [day|weekday] is {month} {b}?|{month} {a} [is|falls on] a {day}. "
        "[Which|What] "
        "weekday is {month} {b}?|In a year when {month} {a} is a {day}, on which weekday [does {month} {b} fall|is "
        "{month} {b}]?]" + THANKS,
        OPEN_PLAIN
        + "[[it|that|that date|that day] [is|will be|falls on|must be] [a |]**{final}**|{month} {b} [is|falls on|will "
        "be|comes on] [a |]**{final}**|[with|since] {month} {a} [as|being] a {day}, [we|you] [get|have|find] [a "
        "|]**{final}**]." + CLOSE_DATE,
    ),
)

FAMILIES = (*_UNIT, *_DATE)
