"""The tiny pair for tests: built once into the models root of the checkout, the one `make demo` uses too."""

from pathlib import Path

import pytest

from bitweir_compression.models.checkpoint import Pair

# All tests that use the pair run in one xdist worker, so that it is built once.
needs_pair = pytest.mark.xdist_group("tiny-pair")


def tiny_pair(repository_root: Path) -> Pair:
    """Build or open the pair; about four CPU minutes the first time."""
    from bitweir_compression.models.build import build
    from bitweir_compression.models.profiles import PROFILES

    return build(PROFILES["tiny"], repository_root / "models", lambda stage, done, total, loss: None)
