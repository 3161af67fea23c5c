"""Lifetime upload against weights: the project's one number, and what follows from it. Pure formulas, for people.

    exported tokens a day   E = G v e / n       G generated tokens a day, v visible share, n best-of-n, e exported share
    lifetime upload ratio   R = E b L / (8 W)   b wire bits an exported token, L days, W bytes of weights
    break-even              b* = 8 W / (E L)    at which the upload is as large as the weights
    daily cap               C = h E b / 8       h headroom of the cap over the mean
    days to exfiltrate      D = W / (k C phi)   k times smaller when compressed, phi share of the cap that is of use

Rules:
1. A bound on what tokens can hide (phi) and what coding saves (b) are alternatives for the same bits, not factors:
   give phi with the b it was measured at.
2. Floats: nothing that lets a bit out depends on them. Decisions compare integers (budget.py, policy.py).

Source: the two appendices of the essay on upload limits that bitweir implements, generalised; budgets are pooled over a
lineage, since fine-tunes share weights.
"""

import math
from dataclasses import dataclass, fields

from bitweir_metering.errors import UnitError
from bitweir_metering.units import BITS_PER_BYTE

DAYS_A_YEAR = 365.25


@dataclass(frozen=True)
class Service:
    """What a lineage of models does over its life.

    Args:
        weights_bytes: of the smallest model whose loss would matter.
        generated_tokens_per_day: all that is sampled, hidden reasoning and discarded candidates included.
        life_days: how long the weights are worth keeping.
        visible_share: of generated tokens, those that are not hidden reasoning; up to 1.
        candidate_count: answers sampled for one that is kept, from 1.
        exported_share: of kept visible tokens, those that leave the co-location; up to 1.

    Raises:
        UnitError: a figure is not finite, not above 0, or a share above 1.
    """

    weights_bytes: float
    generated_tokens_per_day: float
    life_days: float
    visible_share: float = 1.0
    candidate_count: float = 1.0
    exported_share: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(getattr(self, field.name), field.name, most=1.0 if field.name.endswith("_share") else math.inf)
        if self.candidate_count < 1:
            raise UnitError(f"candidate_count is {self.candidate_count}", remedy="one answer is the least")

    @property
    def exported_tokens_per_day(self) -> float:
        """Tokens that leave."""
        return self.generated_tokens_per_day * self.visible_share * self.exported_share / self.candidate_count

    @property
    def break_even_bits(self) -> float:
        """Wire bits an exported token at which the upload over the life is as large as the weights."""
        return BITS_PER_BYTE * self.weights_bytes / (self.exported_tokens_per_day * self.life_days)

    def upload_ratio(self, bits_per_token: float) -> float:
        """Return lifetime upload over weights.

        Args:
            bits_per_token: wire bits an exported token, framing included.

        Raises:
            UnitError: not a finite figure above 0.
        """
        return _check(bits_per_token, "bits_per_token") / self.break_even_bits

    def days_to_exfiltrate(
        self, bits_per_token: float, *, headroom: float = 1.0, compression: float = 1.0, usable_share: float = 1.0
    ) -> float:
        """Return the days in which an attacker who fills the daily cap has sent the weights.

        Args:
            bits_per_token: wire bits an exported token, framing included.
            headroom: the daily cap over the mean day's upload, from 1.
            compression: how many times smaller the attacker makes the weights, from 1.
            usable_share: share of the cap that can hold the attacker's bits; up to 1.

        Raises:
            UnitError: a figure is out of range.
        """
        if min(_check(headroom, "headroom"), _check(compression, "compression")) < 1:
            raise UnitError(f"headroom {headroom}, compression {compression}", remedy="1 is the least")
        _check(usable_share, "usable_share", most=1.0)
        cap_bytes = headroom * self.exported_tokens_per_day * _check(bits_per_token, "bits_per_token") / BITS_PER_BYTE
        return self.weights_bytes / (compression * cap_bytes * usable_share)


def tokens_until_weights(weights_bytes: float, bits_per_token: float) -> float:
    """Return the exported tokens after which the upload is as large as the weights.

    Raises:
        UnitError: a figure is not finite or not above 0.
    """
    return BITS_PER_BYTE * _check(weights_bytes, "weights_bytes") / _check(bits_per_token, "bits_per_token")


def _check(value: float, name: str, *, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnitError(f"{name} is {value!r:.40}", remedy="give a finite number")
    if not 0 < value <= most:
        raise UnitError(f"{name} is {value}", remedy=f"above 0{'' if most == math.inf else f', up to {most:g}'}")
    return float(value)
