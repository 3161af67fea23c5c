"""The prompts demonstrations and measurements answer: problems and questions no model was trained on."""

from itertools import islice

from bitweir_compression.corpus import documentation, tutor
from bitweir_compression.corpus.items import Split

# Share of documentation questions; the rest are the tutor's.
DOCUMENTATION_SHARE = 0.3


def held_out_prompts(count: int, seed: int) -> list[str]:
    """Return held-out prompts: tutor problems first, then documentation questions."""
    documentation_count = round(count * DOCUMENTATION_SHARE)
    sources = (
        (tutor.generate(seed, Split.EVAL), count - documentation_count),
        (documentation.generate(seed, Split.EVAL), documentation_count),
    )
    return [item.prompt for source, size in sources for item in islice(source, size)]
