"""The tiny pair for tests: built once into the models root of the checkout, the one `make demo` uses too."""

from pathlib import Path

import pytest

from bitweir_compression.models.checkpoint import Pair

# conftest.py runs the one test that builds it first and these last, so that no worker waits for the other's build.
builds_pair = pytest.mark.builds_pair
needs_pair = pytest.mark.needs_pair


def tiny_pair(repository_root: Path) -> Pair:
    """Build or open the pair; about four CPU minutes the first time."""
    from bitweir_compression.models.build import build
    from bitweir_compression.models.profiles import PROFILES

    return build(PROFILES["tiny"], repository_root / "models", lambda stage, done, total, loss: None)
