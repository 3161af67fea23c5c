"""Documents say what is true: links resolve, commands exist, decisions are complete; and each check can fail."""

import tomllib

import pytest

from tests.house import markdown, tree

MAKEFILE = "SIZE ?= 1\nTORCH := x\n\ndemo: x ## a\ntest-system: x ## b\n"


def test_links_resolve() -> None:
    files = set(tree.all_files())
    found = [
        violation
        for path in tree.markdown_files()
        for violation in markdown.check_links(path, tree.text_of(path), files, tree.text_of)
    ]
    assert not found, "\n".join(["", *found])


def test_each_document_has_one_title() -> None:
    found = [line for path in tree.markdown_files() for line in markdown.check_title(path, tree.text_of(path))]
    assert not found, "\n".join(["", *found])


def test_console_blocks_show_commands_that_exist() -> None:
    from bitweir_loadgen.cli import COMMANDS

    makefile = tree.text_of("Makefile")
    found = [
        violation
        for path in tree.markdown_files()
        for violation in markdown.check_console(path, tree.text_of(path), makefile, set(COMMANDS))
    ]
    assert not found, "\n".join(["", *found])


def test_the_readme_shows_the_two_commands_that_do_everything() -> None:
    shown = [line for _, line in markdown.console_commands(tree.text_of("README.md"))]
    for command in ("make demo", "make test"):
        assert any(line.startswith(command) for line in shown), f"README.md: no console block shows `{command}`"


def test_decisions_are_numbered_and_complete() -> None:
    paths = [path for path in tree.markdown_files() if path.startswith("docs/decisions/")]
    sources = {path: tree.text_of(path) for path in paths if not path.endswith("README.md")}
    assert sources, "docs/decisions holds no decision; write docs/decisions/0001-*.md"
    found = markdown.check_decisions(sources)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("folder", tree.PACKAGES.values())
def test_each_package_folder_has_a_readme(folder: str) -> None:
    assert f"{folder}/README.md" in tree.all_files(), f"{folder}/README.md is missing; say what the folder is for"


def test_the_changelog_ends_at_the_version_of_the_project() -> None:
    assert "CHANGELOG.md" in tree.all_files(), "CHANGELOG.md is missing"
    version = tomllib.loads(tree.text_of("pyproject.toml"))["project"]["version"]
    assert markdown.newest_version(tree.text_of("CHANGELOG.md")) == version


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("[a](b.md) [c](../docs) [d](#one-title) [e](b.md#b-1) <a href='b.md'>", 0),
        ("[a](https://example.org/x.md) [m](mailto:a@example.org) `[x](gone.md)`", 0),
        ("```\n[a](gone.md)\n```", 0),
        ("[a](gone.md)", 1),
        ("![a](gone.png 'title')", 1),
        ("[a]: gone.md", 1),
        ("<img src='gone.png'>", 1),
        ("[a](#gone)", 1),
        ("[a](b.md#gone)", 1),
        ("[a](../../outside.md)", 1),
    ],
)
def test_dead_links_are_reported(source: str, count: int) -> None:
    texts = {"docs/a.md": f"# One: `title`!\n\n{source}\n", "docs/b.md": "# B\n\n## B\n"}
    assert len(markdown.check_links("docs/a.md", texts["docs/a.md"], set(texts), texts.__getitem__)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("# A\n\n```\n# b\n```\n\n## B\n", 0),
        ("# A\n\n# B\n", 1),
        ("## A\n", 1),
        ("## A\n\n# B\n", 1),
        ("", 1),
    ],
)
def test_titles_are_reported(source: str, count: int) -> None:
    assert len(markdown.check_title("x.md", source)) == count


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("$ make demo SIZE=3 && make test-system", 0),
        ("$ SIZE=3 make demo  # a remark", 0),
        ("$ .venv/bin/bitweir noise --key x | head", 0),
        ("$ bitweir --help", 0),
        ("make gone (output, not a command)", 0),
        ("$ make gone", 1),
        ("$ make demo GONE=1", 1),
        ("$ make demo TORCH=1", 1),
        ("$ bitweir gone", 1),
        ("$ cd x && bitweir gone", 1),
        ("$ make \\\n    gone", 1),
    ],
)
def test_dead_commands_are_reported(line: str, count: int) -> None:
    source = f"# A\n\n```console\n{line}\n```\n\n```sh\n$ make other\n```\n"
    assert len(markdown.check_console("x.md", source, MAKEFILE, {"noise"})) == count


def test_incomplete_decisions_are_reported() -> None:
    good = "# A\n\n## Context\n\n## Decision\n\n## Cost\n"
    one, two, three = (f"docs/decisions/000{number}-x.md" for number in (1, 2, 3))
    assert markdown.check_decisions({one: good, two: good}) == []
    assert len(markdown.check_decisions({one: good, three: good})) == 1
    assert len(markdown.check_decisions({one: good, "docs/decisions/0001-y.md": good})) == 1
    assert len(markdown.check_decisions({"docs/decisions/first.md": good})) == 1
    for heading in markdown.DECISION_HEADINGS:
        assert len(markdown.check_decisions({one: good.replace(f"## {heading}", "text")})) == 1


def test_newest_version_is_the_first_released_one() -> None:
    assert markdown.newest_version("# C\n\n## Unreleased\n\n## [0.2.0] - 2026-01-01\n\n## 0.1.0\n") == "0.2.0"
    assert markdown.newest_version("# C\n") == ""
