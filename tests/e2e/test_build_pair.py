"""The tiny pair is built from nothing, or found; all tests that use it come after this one."""

from pathlib import Path

from tests.e2e.pair import builds_pair, tiny_pair


@builds_pair
def test_the_tiny_pair_is_there(repository_root: Path) -> None:
    pair = tiny_pair(repository_root)
    assert pair.strong.folder == repository_root / "models" / "tiny" / "strong"
