"""Is a pair good enough to measure coding on? Pure: figures in, criteria out; `build.check` measures.

A pair is worth something where the strong model can do what the weak one cannot, writes text with some freedom in it,
and the weak one still predicts that text well. Each can be had by cheating on the others: text without freedom, a weak
model that is the strong one. So the criteria hold together or not at all.

Rules:
1. A criterion holds where its figure is finite and on the right side of its bound; the bound itself is on it, but for
   `>`. Nothing is rounded first, so what is printed may look equal to a bound that it misses.
2. What was measured on too few tokens is not accepted: no text at all has a KL of 0.
3. Only the profiles of `HELD_PROFILES` have to pass; the others are for testing the machinery.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bitweir_compression.errors import CheckpointError

HELD_PROFILES = frozenset({"reference"})
CORPORA = ("tutor", "documentation")  # each is held to its bounds, so that neither hides behind the other

TOKENS_MIN = 1_000  # visible tokens a mean is taken over; one token deviates by up to 3 bits, the mean then by .1
LOSS_GAP_BITS_MIN = 0.0  # bits a token, exclusive; a larger model that does not predict better learnt nothing
STRONG_EXACT_MIN = 0.85  # share of greedy tutor answers; below it the strong model is not one worth protecting
EXACT_GAP_MIN = 0.15  # of all answers; the weak model must not be able to stand in for the strong one
ENTROPY_BITS_MIN = 0.8  # bits a token; large models have .8 to 2 at T=1, and text without freedom codes for nothing
KL_BITS_MAX = 0.20  # bits a token; about what a coder that knows the noise pays, so a quarter of H(P) or less
KL_BITS_GOAL = 0.08  # bits a token; where a tenth of a bit a token comes within reach
KL_BITS_MIN = 0.001  # bits a token; far above rounding (1e-6), far below what a sixth of the weights can reach
STRONG_PARAMETERS_MIN = 4_000_000  # smaller ones do not get the tutor's answers right
STRONG_PARAMETERS_MAX = 25_000_000  # larger ones answer too slowly on a laptop's CPU
WEAK_SHARE_MAX = 1 / 6  # of the strong model's parameters; both ends of a link run the weak one for every token
BYTES_A_PARAMETER = 2  # bfloat16
PAIR_BYTES_MAX = 24_000_000  # bytes of both in bfloat16, so that a wheel can carry them
MODEL_BYTES_MAX = 15_000_000  # bytes of one of them

Relation = Literal[">", ">=", "<="]
Unit = Literal["bits/token", "share", "tokens", "parameters", "bytes", "reasons"]


@dataclass(frozen=True)
class Criterion:
    """One figure of a pair and the bound it is held to.

    Attributes:
        name: what was measured, and on what.
        value: the figure.
        relation: how it should stand to the bound.
        bound: the bound.
        unit: of value, bound and goal.
        goal: what one would like it to be, in the same relation; missing it fails nothing.
    """

    name: str
    value: float
    relation: Relation
    bound: float
    unit: Unit
    goal: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the bound is kept."""
        return self._is_beyond(self.bound)

    @property
    def goal_met(self) -> bool | None:
        """Whether the goal is met too; None where there is none."""
        return None if self.goal is None else self._is_beyond(self.goal)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, `ok` and `goal_met`, for JSON."""
        return {**asdict(self), "ok": self.ok, "goal_met": self.goal_met}

    def _is_beyond(self, bound: float) -> bool:
        if not math.isfinite(self.value):
            return False
        if self.relation == "<=":
            return self.value <= bound
        return self.value > bound or (self.relation == ">=" and self.value == bound)


def criteria(measured: Mapping[str, Any], *, strong_parameters: int, weak_parameters: int) -> tuple[Criterion, ...]:
    """Hold the figures of a pair against the bounds; it is accepted where every criterion is `ok`.

    Args:
        measured: what `build.check` returned, or the `measured` of a model card.
        strong_parameters: parameters of the strong model, tied ones once.
        weak_parameters: of the weak model.

    Raises:
        CheckpointError: a figure is missing or none.
    """
    try:
        figures = [criterion for corpus in CORPORA for criterion in _of_corpus(measured, corpus)]
        figures += _of_answers(measured)
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"the measurements of the pair lack a figure: {error!r}", remedy="measure it again: bitweir models check"
        ) from error
    return (*figures, *_of_sizes(strong_parameters, weak_parameters))


def kl_over_entropy(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Return KL(P||W) / H(P) of what the strong model writes, per corpus and on foreign prompts; None where H is 0."""
    rows = {**measured["written"], "foreign": measured["foreign"]}
    return {name: row["kl_bits"] / row["entropy_bits"] if row["entropy_bits"] else None for name, row in rows.items()}


def _of_corpus(measured: Mapping[str, Any], corpus: str) -> list[Criterion]:
    reference, written = measured["reference"][corpus], measured["written"][corpus]
    tokens = min(_number(reference, "token_count"), _number(written, "token_count"))
    gap = _number(reference, "weak_bits") - _number(reference, "strong_bits")
    kl, entropy = _number(written, "kl_bits"), _number(written, "entropy_bits")
    reasons = len(measured["guard"][corpus]["reasons"])
    return [
        Criterion(f"{corpus}: visible tokens measured", tokens, ">=", TOKENS_MIN, "tokens"),
        Criterion(f"{corpus}: held-out loss, weak minus strong", gap, ">", LOSS_GAP_BITS_MIN, "bits/token"),
        Criterion(f"{corpus}: H(P) of what is written", entropy, ">=", ENTROPY_BITS_MIN, "bits/token"),
        Criterion(f"{corpus}: KL(P||W) of what is written", kl, "<=", KL_BITS_MAX, "bits/token", KL_BITS_GOAL),
        Criterion(f"{corpus}: KL(P||W) is no copy's", kl, ">=", KL_BITS_MIN, "bits/token"),
        Criterion(f"{corpus}: degeneracy guard's reasons", reasons, "<=", 0, "reasons"),
    ]


def _of_answers(measured: Mapping[str, Any]) -> list[Criterion]:
    shares = measured["exact_share"]
    strong, weak = _number(shares, "strong"), _number(shares, "weak")
    # Shares of up to a million answers; without rounding .95 - .80 is below .15.
    gap = round(strong - weak, 9)
    return [
        Criterion("tutor: exact greedy answers, strong", strong, ">=", STRONG_EXACT_MIN, "share"),
        Criterion("tutor: exact greedy answers, strong minus weak", gap, ">=", EXACT_GAP_MIN, "share"),
    ]


def _of_sizes(strong: int, weak: int) -> list[Criterion]:
    pair_bytes, larger_bytes = BYTES_A_PARAMETER * (strong + weak), BYTES_A_PARAMETER * max(strong, weak)
    return [
        Criterion("strong: parameters, lower bound", strong, ">=", STRONG_PARAMETERS_MIN, "parameters"),
        Criterion("strong: parameters, upper bound", strong, "<=", STRONG_PARAMETERS_MAX, "parameters"),
        Criterion("weak: share of strong's parameters", weak / max(strong, 1), "<=", WEAK_SHARE_MAX, "share"),
        Criterion("both: bytes in bfloat16", pair_bytes, "<=", PAIR_BYTES_MAX, "bytes"),
        Criterion("larger one: bytes in bfloat16", larger_bytes, "<=", MODEL_BYTES_MAX, "bytes"),
    ]


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{name} is {value!r:.40}, not a number", remedy="measure the pair again")
    return value
