"""The house rules hold for every file of the repository. That each rule can fail is shown in test_rules_can_fail.py."""

import os
from pathlib import Path

import hypothesis
import pytest

from tests.house import rules, text_rules, tree


def report(violations: list[str]) -> None:
    """Fail with all violations, one per line."""
    assert not violations, "\n".join(["", *violations])


@pytest.mark.parametrize("rule", rules.CODE_RULES, ids=lambda rule: rule.__name__)
def test_code(rule: rules.Rule) -> None:
    report([found for path in tree.python_files() for found in rule(path, tree.text_of(path))])


@pytest.mark.parametrize("rule", text_rules.TEXT_RULES, ids=lambda rule: rule.__name__)
def test_text(rule: text_rules.TextRule) -> None:
    report([found for path in tree.text_files() for found in rule(path, tree.text_of(path))])


def test_mentioned_files_exist() -> None:
    files = set(tree.all_files())
    # The house rules quote paths that must not exist; everything else names real files.
    paths = [path for path in tree.text_files() if not path.startswith("tests/house/")]
    report([found for path in paths for found in text_rules.check_mentions(path, tree.text_of(path), files)])


def test_names() -> None:
    report(text_rules.check_names(tree.all_files()))


def test_layout() -> None:
    report(text_rules.check_layout(tree.all_files()))


def test_sizes() -> None:
    bytes_of = {path: (tree.ROOT / path).stat().st_size for path in tree.all_files()}
    report(text_rules.check_sizes(bytes_of, text_rules.LARGE_FILES_ALLOWED))


def test_the_rules_look_at_the_whole_repository(repository_root: Path) -> None:
    assert repository_root == tree.ROOT
    files = tree.all_files()
    for expected in ("pyproject.toml", "Makefile", "tests/house/test_tidy.py"):
        assert expected in files
    assert not [path for path in files if path.startswith((".venv/", "models/", "runs/"))]
    assert {path.split("/")[1] for path in tree.library_files()} == set(tree.PACKAGES)


def test_a_walk_finds_what_git_finds(tmp_path: Path) -> None:
    kept = ["Makefile", "compression/bitweir_compression/models/train.py", "docs/LOG.md"]
    ignored = [".git/HEAD", ".venv/bin/python", "models/tiny/config.json", "tests/__pycache__/x.pyc"]
    for name in kept + ignored:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n")
    assert tree.files_walked(tmp_path) == kept


def test_examples_are_repeatable_and_threads_are_quiet() -> None:
    assert hypothesis.settings().derandomize
    assert hypothesis.settings().deadline is None
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        assert name in os.environ
