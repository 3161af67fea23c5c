"""Temperature as a ratio of two small integers, so that both sides of a channel divide alike. No torch."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from bitweir_compression.exact.errors import PredictorError

TERM_MAX: Final = 10_000


@dataclass(frozen=True)
class Temperature:
    """numerator / denominator, both 1 to 10,000 and without a common divisor.

    Raises:
        PredictorError: a term is out of range; 0 (greedy) has no frequencies.
    """

    numerator: int = 1
    denominator: int = 1

    def __post_init__(self) -> None:
        terms = (self.numerator, self.denominator)
        if not all(type(term) is int and 1 <= term <= TERM_MAX for term in terms):
            raise PredictorError(
                f"temperature {self.numerator}/{self.denominator}", remedy=f"use terms of 1 to {TERM_MAX}"
            )

    @classmethod
    def of(cls, value: float) -> "Temperature":
        """Return the nearest ratio with a denominator of at most 1000: .7 gives 7/10 on every machine.

        Raises:
            PredictorError: the value is not a number, or below .001, or above 10,000.
        """
        if not 0.001 <= value <= TERM_MAX:
            raise PredictorError(
                f"temperature {value}", remedy="use .001 to 10,000; 0 is greedy and has no frequencies"
            )
        ratio = Fraction(value).limit_denominator(1000)
        scale = -(-ratio.numerator // TERM_MAX)
        return cls(ratio.numerator // scale, max(1, ratio.denominator // scale))


UNIT: Final = Temperature()
