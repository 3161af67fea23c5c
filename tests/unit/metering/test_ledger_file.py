"""The ledger's file: what the database refuses, which edits are seen, and which only a witness can see."""

import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import ledger_file
from bitweir_metering.entries import COLUMNS, Chain, policy_note
from bitweir_metering.errors import LedgerError, PolicyError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import EntryKind, Reservation, export, verify
from tests.unit.metering.example_ledger import (
    LIMIT_BITS,
    copied,
    created,
    expected_hash,
    filled,
    log_of,
    model,
    opened,
    raised,
    small_policy,
    tampered,
)
from tests.unit.metering.example_policy import signed

FRAME_BYTES = 24 + 4096
WAL_HEADER_BYTES = 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.ledger"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "link.ledger"
    filled(path).close()
    return path


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    with closing(ledger_file.connected(path, "ro")) as connection:
        return connection.execute(ledger_file.SELECT).fetchall()


def next_row(rows: Sequence[Sequence[Any]], *arguments: Any, **named: Any) -> list[Any]:
    """What the code would write after these rows."""
    chain = Chain()
    for row in rows:
        chain.check(row)
    return list(chain.extend(*arguments, **named))


# What the database refuses by itself.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET wire_bits = 1 WHERE sequence = 1",
        "UPDATE entry SET limit_bits = limit_bits + 1",
        "UPDATE OR REPLACE entry SET sequence = 0 WHERE sequence = 1",
        "DELETE FROM entry WHERE sequence = 1",
        "DELETE FROM entry",
        "INSERT OR REPLACE INTO entry SELECT * FROM entry WHERE sequence = 1",
        "INSERT OR IGNORE INTO entry SELECT * FROM entry WHERE sequence = 3",
    ],
)
def test_the_database_keeps_every_entry(sound: Path, tmp_path: Path, statement: str) -> None:
    path = copied(sound, tmp_path)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    assert verify(path).head == verify(sound).head


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in {"note", "hash"}])
@pytest.mark.parametrize("change", [-1, 1])
def test_the_database_takes_only_what_follows_the_last_entry(
    sound: Path, tmp_path: Path, column: str, change: int
) -> None:
    path = copied(sound, tmp_path)
    row = next_row(rows_of(path), EntryKind.RESERVE, charge=Reservation(TrafficClass.MODEL, 1_000, 500))
    place = COLUMNS.index(column)
    value = row[place]
    row[place] = bytes(32) if isinstance(value, bytes) else value + change
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(ledger_file.INSERT, row)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", -1),
        ("kind", 6),
        ("class", -1),
        ("class", 5),
        ("class", 255),
        ("wire_bits", 0),
        ("wire_bits", -1),
        ("wire_bits", 1 << 62),
        ("wire_bits", "many"),
        ("wire_bits", 1.5),
        ("wire_bits", None),
        ("information_bits", -1),
        ("information_bits", 1_001),
        ("limit_bits", 9_999),
        ("limit_bits", 1 << 62),
        ("wire_model", -1),
        ("wire_model", LIMIT_BITS * 2 + 1),
        ("information_timing", 1 << 62),
        ("note", b"x" * (64 * 1024 + 1)),
        ("note", "text"),
        ("note", None),
        ("previous", bytes(31)),
        ("hash", bytes(33)),
    ],
)
def test_the_table_refuses_what_no_entry_can_be(sound: Path, tmp_path: Path, column: str, value: Any) -> None:
    path = copied(sound, tmp_path)
    row = next_row(rows_of(path), EntryKind.RESERVE, charge=Reservation(TrafficClass.MODEL, 1_000, 500))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER only_next")
        connection.execute("SAVEPOINT sound")
        connection.execute(ledger_file.INSERT, row)
        connection.execute("ROLLBACK TO sound")
        row[COLUMNS.index(column)] = value
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(ledger_file.INSERT, row)


@pytest.mark.parametrize(
    "changes",
    [{"kind": 7}, {"kind": 1}, {"class": 0}, {"wire_bits": 5}, {"class": 0, "wire_bits": 5}],
)
def test_the_table_refuses_bits_where_none_belong(sound: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    path = copied(sound, tmp_path)
    row = next_row(rows_of(path), EntryKind.EVENT, b"")
    for column, value in changes.items():
        row[COLUMNS.index(column)] = value
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("DROP TRIGGER only_next")
        connection.execute(ledger_file.INSERT, row)


def test_the_first_entry_is_a_policy_and_starts_at_nothing(path: Path) -> None:
    document = small_policy()
    chain = Chain()
    first = chain.extend(EntryKind.POLICY, policy_note(document, signed(document, 0, 1)))
    second = list(chain.extend(EntryKind.RESERVE, charge=model()))
    with closing(sqlite3.connect(path)) as connection:
        for statement in ledger_file.SCHEMA.values():
            connection.execute(statement)
        second[0] = 0
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(ledger_file.INSERT, second)
        event = list(first)
        event[1] = int(EntryKind.EVENT)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(ledger_file.INSERT, event)
        charged = list(first)
        charged[COLUMNS.index("wire_model")] = 1
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(ledger_file.INSERT, charged)
        connection.execute(ledger_file.INSERT, first)


# Edits behind the ledger's back.


def edited(column: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1]) if value else b"x"
    if column == "sequence":
        return value + 1000
    if column == "class":
        return 0 if value == 255 else (value + 1) % 5
    return (value + 1) % 6 if column == "kind" else value + 1


@pytest.mark.parametrize("column", COLUMNS)
def test_an_edit_of_any_column_of_any_entry_is_seen(sound: Path, tmp_path: Path, column: str) -> None:
    rows = rows_of(sound)
    for row in rows:
        path = copied(sound, tmp_path)
        with tampered(path) as connection:
            value = edited(column, row[COLUMNS.index(column)])
            connection.execute(f"UPDATE entry SET {column} = ? WHERE sequence = ?", (value, row[0]))  # noqa: S608
        report = verify(path)
        assert not report.ok
        assert report.entry_count == row[0]
        assert any(problem.startswith(f"entry {row[0]}: ") for problem in report.problems), report.problems
        with pytest.raises(LedgerError):
            opened(path)


def test_an_entry_that_is_missing_repeated_or_moved_is_seen(sound: Path, tmp_path: Path) -> None:
    count = len(rows_of(sound))
    for number in range(count - 1):
        path = copied(sound, tmp_path)
        with tampered(path) as connection:
            connection.execute("DELETE FROM entry WHERE sequence = ?", (number,))
        assert f"entry {number}: " in " ".join(verify(path).problems)
        path = copied(sound, tmp_path)
        with tampered(path) as connection:
            connection.execute("DELETE FROM entry WHERE sequence = ?", (number,))
            connection.execute("UPDATE entry SET sequence = sequence - 1 WHERE sequence > ?", (number,))
        assert f"entry {number}: " in " ".join(verify(path).problems)
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("UPDATE entry SET sequence = ? WHERE sequence = 1", (count + 1,))
        connection.execute("UPDATE entry SET sequence = 1 WHERE sequence = 2")
    assert "entry 1: " in " ".join(verify(path).problems)
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("DELETE FROM entry")
    assert verify(path).problems == ("there is no sound entry",)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER no_update",
        "DROP TRIGGER no_delete",
        "DROP TRIGGER only_next",
        "CREATE TRIGGER more AFTER INSERT ON entry BEGIN SELECT 1; END",
        "CREATE TABLE other (x)",
        "CREATE INDEX other ON entry (kind)",
        "ALTER TABLE entry ADD COLUMN other INTEGER",
        "PRAGMA application_id = 1",
        "PRAGMA user_version = 2",
    ],
)
def test_another_schema_is_seen(sound: Path, tmp_path: Path, statement: str) -> None:
    path = copied(sound, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    assert verify(path).problems == ("no ledger of this version, or its table or triggers were changed",)
    with pytest.raises(LedgerError, match="triggers were changed"):
        opened(path)


def test_a_damaged_byte_never_changes_what_is_believed(sound: Path, tmp_path: Path) -> None:
    content, truth = sound.read_bytes(), verify(sound)
    generator = random.Random(5)
    path = tmp_path / sound.name
    seen = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        report = verify(path)
        assert all("\n" not in problem for problem in report.problems)
        assert not report.ok or report.head == truth.head
        seen += not report.ok
    assert seen > 100


def test_damage_outside_all_entries_is_seen(sound: Path, tmp_path: Path) -> None:
    path = copied(sound, tmp_path)
    content = bytearray(path.read_bytes())
    content[39] ^= 1  # how many pages are free
    path.write_bytes(content)
    report = verify(path)
    assert report.entry_count == 16
    assert [problem.startswith("SQLite: ") for problem in report.problems] == [True]
    with pytest.raises(LedgerError, match="SQLite"):
        opened(path)


def test_verify_only_reads(sound: Path, tmp_path: Path) -> None:
    with filled(tmp_path / "link.ledger") as ledger:
        path = copied(tmp_path / "link.ledger", tmp_path / "copy")
        head = ledger.head
    before = [part.read_bytes() for part in (path, log_of(path))]
    assert verify(path).head == head
    assert [part.read_bytes() for part in (path, log_of(path))] == before


# What only the witness can see.


def test_an_old_copy_passes_its_own_check(path: Path, tmp_path: Path) -> None:
    with created(path) as ledger:
        ledger.reserve([model()])
        old = copied(path, tmp_path / "old")
        ledger.reserve([model()])
        newest = ledger.head
    with opened(old) as ledger:
        assert ledger.head.entry_count == newest.entry_count - 1
        ledger.reserve([model(7)])
        assert ledger.head.entry_count == newest.entry_count
        assert ledger.head.entry_hash != newest.entry_hash


def test_missing_newest_entries_pass_the_ledger_s_own_check(sound: Path, tmp_path: Path) -> None:
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("DELETE FROM entry WHERE sequence >= 9")
    report = verify(path)
    assert report.ok
    assert report.entry_count == 9


def test_a_chain_made_anew_passes_but_cannot_raise_the_limit(sound: Path, tmp_path: Path) -> None:
    document = small_policy()
    forged = Chain()
    rows = [forged.extend(EntryKind.POLICY, policy_note(document, signed(document, 0, 1)))]
    rows.append(forged.extend(EntryKind.RESERVE, charge=model(1)))
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("DELETE FROM entry")
        connection.executemany(ledger_file.INSERT, rows)
    assert verify(path).ok
    assert verify(path).totals.wire_bits == 1
    higher = raised(2, 5 * LIMIT_BITS)
    with pytest.raises(PolicyError):
        forged.extend(EntryKind.POLICY, policy_note(higher, signed(higher, 0)))


def test_a_log_cut_anywhere_leaves_an_earlier_state_and_never_another_one(path: Path, tmp_path: Path) -> None:
    with created(path) as ledger:
        heads = [ledger.head]
        for count in range(12):
            if count % 4 == 3:
                ledger.event(bytes([count]) * 9_000)
            else:
                ledger.reserve([model(1_000 + count)])
            heads.append(ledger.head)
        whole = copied(path, tmp_path / "whole")
    log = log_of(whole).read_bytes()
    boundaries = range(WAL_HEADER_BYTES, len(log) + 1, FRAME_BYTES)
    assert boundaries[-1] == len(log)
    assert len(boundaries) > 15
    cut = copied(whole, tmp_path / "cut")
    before = -1
    for size in boundaries:
        log_of(cut).write_bytes(log[:size])
        report = verify(cut)
        assert report.ok, report.problems
        found = heads.index(report.head)
        assert found >= before
        before = found
        for nearby in (size - 1, size + 1, size + 30):
            log_of(cut).write_bytes(log[:nearby])
            assert verify(cut).head in heads
    assert before == len(heads) - 1
    generator = random.Random(6)
    for start in boundaries[:-1]:
        damaged = bytearray(log)
        damaged[start + generator.randrange(FRAME_BYTES)] ^= 1 << generator.randrange(8)
        log_of(cut).write_bytes(damaged)
        assert verify(cut).head in heads


# Export.


def test_an_export_holds_everything_and_the_hashes_can_be_made_from_it(sound: Path) -> None:
    entries = [json.loads(line) for line in export(sound)]
    assert [entry["sequence"] for entry in entries] == list(range(16))
    assert {entry["kind"] for entry in entries} == {"policy", "reserve", "loss", "trip", "reset", "event"}
    assert {entry["class"] for entry in entries} == {None, "model", "control", "timing"}
    previous = "00" * 32
    for entry in entries:
        assert entry["previous"] == previous
        assert entry["hash"] == expected_hash(entry)
        previous = entry["hash"]
    assert previous == verify(sound).head.entry_hash.hex()
    assert list(entries[0]) == list(COLUMNS)


def test_what_is_not_sound_is_exported_all_the_same(sound: Path, tmp_path: Path) -> None:
    path = copied(sound, tmp_path)
    with tampered(path) as connection:
        connection.execute("UPDATE entry SET kind = 9, class = 77 WHERE sequence = 3")
    entries = [json.loads(line) for line in export(path)]
    assert (entries[3]["kind"], entries[3]["class"]) == (9, 77)
    assert len(entries) == 16


def test_what_is_no_ledger_cannot_be_exported(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        list(export(path))
    path.write_bytes(b"x" * 4096)
    with pytest.raises(LedgerError, match="not a database"):
        list(export(path))


def test_a_report_of_no_ledger_says_so(path: Path) -> None:
    report = verify(path)
    assert report.problems == (f"there is no ledger at {path}",)
    assert (report.policy, report.entry_count, report.totals.wire_bits) == (None, 0, 0)
