"""Any doubt closes a ledger: errors of disk and database, files moved away; and nothing granted is lost."""

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import ledger as ledger_module
from bitweir_metering import ledger_file
from bitweir_metering.entries import Chain
from bitweir_metering.errors import LedgerError
from bitweir_metering.ledger import Ledger, verify
from tests.unit.metering.example_ledger import LIMIT_BITS, created, forked, log_of, model, opened, raised
from tests.unit.metering.example_policy import signed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.ledger"


def test_a_closed_ledger_grants_nothing(path: Path) -> None:
    ledger = created(path)
    ledger.close()
    ledger.close()
    for action in every_action(ledger):
        with pytest.raises(LedgerError, match="closed by its owner"):
            action()


def every_action(ledger: Ledger) -> list[Callable[[], object]]:
    later = raised(2, 2 * LIMIT_BITS)
    return [
        lambda: ledger.reserve([model()]),
        lambda: ledger.reserve([]),
        lambda: ledger.event(b""),
        lambda: ledger.trip("reason"),
        lambda: ledger.give_numbers(1),
        lambda: ledger.record_loss(model(8)),
        lambda: ledger.replace_policy(later, signed(later, 0, 1)),
        lambda: ledger.hashes(0, 1),
    ]


def test_what_cannot_be_read_is_an_error(path: Path) -> None:
    ledger = created(path)
    ledger._connection.close()
    with pytest.raises(LedgerError, match="closed database"):
        ledger.hashes(0, 1)


def test_names_are_durable_before_a_ledger_is_said_to_exist_or_to_be_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    link, unlink, fsync, settle = os.link, Path.unlink, os.fsync, ledger_file.settle
    folder = path.parent.stat().st_ino

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        events.append("synced" if os.fstat(descriptor).st_ino == folder else "synced another")

    monkeypatch.setattr(os, "link", lambda *names: (link(*names), events.append("named")))
    monkeypatch.setattr(Path, "unlink", lambda name: (unlink(name), events.append("unnamed")))
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(ledger_file, "settle", lambda connection: (settle(connection), events.append("opened")))
    created(path).close()
    assert events == ["opened", "named", "unnamed", "synced", "opened", "synced"]


class Failing:
    """A connection that fails once, at a chosen statement."""

    def __init__(self, connection: sqlite3.Connection, statement: str, error: BaseException) -> None:
        self._connection = connection
        self._statement = statement
        self._error: BaseException | None = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith(self._statement) and self._error:
            error, self._error = self._error, None
            raise error
        return self._connection.execute(statement, *values)


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT", "PRAGMA wal_checkpoint"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), sqlite3.OperationalError("disk I/O error")])
def test_any_error_of_a_commit_closes_the_ledger_for_good(
    path: Path, statement: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = created(path)
    ledger.reserve([model()])
    monkeypatch.setattr(ledger_module, "CHECKPOINT_ENTRIES", 2)
    ledger._connection = Failing(ledger._connection, statement, error)  # type: ignore[assignment]
    head = ledger.head
    with pytest.raises(LedgerError, match="rror"):
        ledger.reserve([model()])
    for action in every_action(ledger):
        with pytest.raises(LedgerError, match="is closed: a commit failed"):
            action()
    assert ledger.head == head
    ledger.close()
    # What was being reserved may be spent; what was granted is.
    report = verify(path)
    assert report.ok
    assert report.totals.wire_bits == (20_000 if statement.startswith("PRAGMA") else 10_000)


def test_an_interrupt_in_a_commit_closes_the_ledger(path: Path) -> None:
    ledger = created(path)
    ledger._connection = Failing(ledger._connection, "COMMIT", KeyboardInterrupt())  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        ledger.reserve([model()])
    with pytest.raises(LedgerError, match="interrupted"):
        ledger.reserve([model()])
    ledger.close()
    assert verify(path).ok


def test_a_database_that_refuses_a_row_closes_the_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checks of the database stand behind those of the code.
    extend = Chain.extend

    def wrong(self: Chain, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        row = list(extend(self, *arguments, **named))
        row[-2] = bytes(32)
        return tuple(row)

    with created(path) as ledger:
        monkeypatch.setattr(Chain, "extend", wrong)
        with pytest.raises(LedgerError, match="not what follows"):
            ledger.reserve([model()])
        monkeypatch.undo()
        with pytest.raises(LedgerError, match="is closed"):
            ledger.reserve([model()])
    assert verify(path).entry_count == 1


@pytest.mark.parametrize("which", ["file", "log"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_was_moved_away_closes_the_ledger(path: Path, which: str, how: str) -> None:
    ledger = created(path)
    ledger.reserve([model()])
    part = path if which == "file" else log_of(path)
    content = part.read_bytes()
    part.rename(path.parent / "moved")
    if how == "replaced":
        part.write_bytes(content)
    with pytest.raises(LedgerError, match=r"moved or replaced|No such file"):
        ledger.reserve([model()])
    with pytest.raises(LedgerError, match="is closed"):
        ledger.event(b"")
    ledger.close()


def test_a_full_database_closes_the_ledger(path: Path) -> None:
    ledger = created(path)
    ledger.reserve([model()])
    ledger._connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(LedgerError, match="full"):
        for _ in range(3):
            ledger.event(b"x" * 60_000)
    with pytest.raises(LedgerError, match="is closed"):
        ledger.reserve([model()])
    ledger.close()
    assert verify(path).totals.wire_bits == 10_000


def test_a_write_that_the_system_refuses_closes_the_ledger(path: Path) -> None:
    # RLIMIT_FSIZE makes write(2) itself fail; in a child, because it cannot be taken back without privilege.
    created(path).close()
    reader, writer = os.pipe()
    child = forked()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = opened(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        granted = 0
        try:
            while granted < 100:
                ledger.reserve([model(1_000)])
                granted += 1
        except LedgerError as error:
            os.write(writer, f"{granted} {error}\n".encode())
        try:
            ledger.reserve([model(1_000)])
        except LedgerError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        first, second = pipe.read().splitlines()
    os.waitpid(child, 0)
    granted = int(first.split()[0])
    assert "disk" in first
    assert "is closed" in second
    assert 0 < granted < 100
    report = verify(path)
    assert report.ok
    assert granted * 1_000 <= report.totals.wire_bits <= (granted + 1) * 1_000


def test_a_log_that_cannot_be_moved_is_an_error_of_close_and_loses_nothing(path: Path) -> None:
    ledger = created(path)
    ledger.reserve([model()])
    connection = ledger._connection
    ledger._connection = Failing(connection, "PRAGMA wal_checkpoint", OSError("no"))  # type: ignore[assignment]
    with pytest.raises(LedgerError, match="a commit failed"):
        ledger.close()
    ledger.close()
    with opened(path) as again:
        assert again.totals.wire_bits == 10_000


class Reluctant:
    """A connection whose checkpoints do not move everything."""

    def __init__(self, answer: tuple[int, int, int]) -> None:
        self._answer = answer

    def execute(self, _: str) -> "Reluctant":
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return self._answer


@pytest.mark.parametrize("answer", [(1, 5, 5), (0, 5, 4), (1, -1, -1)])
def test_a_checkpoint_that_moved_too_little_is_an_error(answer: tuple[int, int, int]) -> None:
    with pytest.raises(sqlite3.OperationalError, match="could be moved"):
        ledger_file.checkpoint(Reluctant(answer))  # type: ignore[arg-type]
