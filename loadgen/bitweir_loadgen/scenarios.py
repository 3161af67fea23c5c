"""Published volumes against published sizes: what each code would have uploaded over a life. Facts with sources.

Rules:
1. A figure that somebody published is cited; one that was inferred from others says so.
2. Processed tokens are not generated ones: where only processed ones are known, the share is a named assumption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from bitweir_metering.lifetime import Service

RAW_BITS: Final = 35.2
"""Bits a token of plain text: 4.4 bytes, the mean of English text under today's tokenizers."""

CODES: Final[Mapping[str, float]] = MappingProxyType({
    "raw text": RAW_BITS,
    "zlib, each message": 16.3,
    "xz": 10.0,
    "a large model as coder": 3.2,
    "1 bit": 1.0,
    "0.3 bits": 0.3,
    "0.1 bits": 0.1,
})  # fmt: skip
"""Bits a token of typical codes; the last three are goals, not measurements."""

ATTACKERS: Final[Sequence[tuple[str, float]]] = (
    ("weights as they are", 1.0),
    ("compressed 16 times", 16.0),
    ("compressed 100 times", 100.0),
)
"""Name, and how many times smaller the weights are made (16 to 100: arXiv 2601.01296)."""


@dataclass(frozen=True)
class Scenario:
    """A service somebody runs or imagined.

    Attributes:
        name: short, for a table.
        service: its figures.
        source: where they come from.
        note: what was assumed, and what it shows; may be empty.
    """

    name: str
    service: Service
    source: str
    note: str = ""


_HALF_YEAR: Final = 180.0
SCENARIOS: Final[Sequence[Scenario]] = (
    Scenario(
        "a book for everybody",
        Service(weights_bytes=1e14, generated_tokens_per_day=8e14 / 730, life_days=730),
        "the essay's appendix: 8e9 people, 1e5 tokens each, 1e14 bytes of weights",
        "spread over two years; at 0.1 bits 1e13 bytes leave",
    ),
    Scenario(
        "10 % of 1e11 words a day",
        Service(weights_bytes=1e12, generated_tokens_per_day=1e10 / 0.75, life_days=182.5),
        "the essay's appendix, after a public statement of February 2024",
        "0.75 words a token; ten times more tokens and weights each generation leave the ratio as it is",
    ),
    Scenario(
        "DeepSeek V3/R1, all uploaded",
        Service(weights_bytes=6.85e11, generated_tokens_per_day=168e9, life_days=238),
        "deepseek-ai/open-infra-index, day 6: 168e9 output tokens a day; 685e9 parameters in FP8",
        "4e13 tokens against 6.85e11 parameters: generated tokens and parameters are not in one ballpark here",
    ),
    Scenario(
        "the same, reasoning kept inside",
        Service(weights_bytes=6.85e11, generated_tokens_per_day=168e9, life_days=238, visible_share=0.257),
        "as above; share of reasoning from ServeGen's deepseek-r1 traces",
        "74 % of generated tokens are hidden reasoning; applied to all output, which mixes V3 and R1",
    ),
    Scenario(
        "1 TB of tokens a day",
        Service(weights_bytes=1e12, generated_tokens_per_day=1e12 / 4.4, life_days=_HALF_YEAR),
        "arXiv 2511.02620: about 1 TB a day against 1 TB of weights",
    ),
    Scenario(
        "OpenAI's API, October 2025",
        Service(weights_bytes=1e12, generated_tokens_per_day=8.64e12 / 16, life_days=_HALF_YEAR),
        "6e9 tokens a minute processed, as announced at DevDay 2025",
        "processed, not generated: one generated for 15 of prompt is assumed, and 1 TB of weights",
    ),
)


def table(bits_per_token: Mapping[str, float], *, headroom: float = 1.0) -> list[dict[str, Any]]:
    """Return a row for each scenario, for JSON.

    Args:
        bits_per_token: name of a code -> wire bits an exported token.
        headroom: the daily cap over the mean day's upload, from 1.

    Raises:
        UnitError: a figure is out of range.
    """
    return [
        {
            "name": scenario.name,
            "source": scenario.source,
            "note": scenario.note,
            "weights_bytes": scenario.service.weights_bytes,
            "exported_tokens_per_day": scenario.service.exported_tokens_per_day,
            "life_days": scenario.service.life_days,
            "break_even_bits": scenario.service.break_even_bits,
            "upload_ratio": {name: scenario.service.upload_ratio(bits) for name, bits in bits_per_token.items()},
            "days_to_exfiltrate": {
                name: {
                    attacker: scenario.service.days_to_exfiltrate(bits, headroom=headroom, compression=compression)
                    for attacker, compression in ATTACKERS
                }
                for name, bits in bits_per_token.items()
            },
        }
        for scenario in SCENARIOS
    ]
