"""A result names the commit it came from, and nobody else's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bitweir_compression import provenance


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("installed/\n")
    for folder in ("source", "installed"):
        (tmp_path / folder).mkdir()
        shutil.copy(provenance.__file__, tmp_path / folder / "provenance.py")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def commit_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(provenance, "__file__", str(file))
    return provenance.commit()


def test_a_checkout_names_its_commit_and_says_when_it_differs(repository: Path, monkeypatch) -> None:
    head = git(repository, "rev-parse", "HEAD")
    file = repository / "source" / "provenance.py"
    assert commit_of(file, monkeypatch) == head
    (repository / "source" / "new.py").write_text("")
    assert commit_of(file, monkeypatch) == head + "+"


def test_a_copy_inside_somebody_elses_repository_is_unknown(repository: Path, monkeypatch) -> None:
    assert commit_of(repository / "installed" / "provenance.py", monkeypatch) == "unknown"


def test_no_repository_is_unknown(tmp_path: Path, monkeypatch) -> None:
    assert commit_of(tmp_path / "provenance.py", monkeypatch) == "unknown"


def test_everything_that_can_change_a_result_is_named() -> None:
    found = provenance.provenance()
    assert {"machine", "versions", "commit"} == set(found)
    assert found["versions"]["torch"][0].isdigit()
    assert found["machine"]["core_count"] >= 1
