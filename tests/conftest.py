"""What holds for every test: quiet threads, no network, repeatable examples.

Rules:
1. The environment is set before any test imports torch, and only where the caller has not decided otherwise.
2. Hypothesis draws the same examples in every run and knows no deadline: no test may depend on how busy the machine is.
3. The tiny pair, which takes minutes, is built by the first test; those that use it come last.
"""

import os
from pathlib import Path

import hypothesis
import pytest

# Name -> value given where the caller set none. One thread per process, because pytest-xdist already fills the cores.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_configure() -> None:
    """Set the environment and the hypothesis profile, before collection imports anything heavy."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=100, print_blob=True)
    hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that builds the tiny pair first and those that need it last; the others keep their order."""
    order = {"builds_pair": -1, "needs_pair": 1}
    items.sort(key=lambda item: sum(order.get(mark.name, 0) for mark in item.iter_markers()))


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """Return the folder that holds pyproject.toml."""
    return Path(__file__).resolve().parents[1]
