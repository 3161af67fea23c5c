"""The ledger's file: what lies in it, what it must lie on, and how anybody checks it. Written by ledger.py alone.

Rules:
1. The settings that durability rests on (`SETTINGS`) are read back after they are set.
2. Table and triggers are compared with `SCHEMA` word for word, then every entry is made again and compared.
3. `verify` and `export` only read, and not while a writer has the file open.

A file cannot know that it is an old copy of itself, or that its newest entries were cut off: the witness knows.
docs/reference/ledger.md describes it; it changes with this file.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitweir_metering.budget import Totals
from bitweir_metering.entries import (
    AMOUNT_COLUMNS,
    COLUMNS,
    HASH_BYTES,
    NO_CLASS,
    NOTE_BYTES_MAX,
    TOTAL_COLUMNS,
    Chain,
    EntryKind,
    Head,
    Trip,
)
from bitweir_metering.errors import LedgerError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import Policy
from bitweir_metering.units import AMOUNT_LIMIT

MOUNTS: Final = Path("/proc/self/mountinfo")
# Where fdatasync is known to mean what it says. Anything else is refused, above all tmpfs and the network.
FILESYSTEMS: Final = frozenset({"btrfs", "ext3", "ext4", "f2fs", "xfs"})
UNSAFE_MOUNT_OPTIONS: Final = frozenset({"barrier=0", "nobarrier", "fsync_mode=nobarrier"})
# Pragma, what it is set to, what it must say afterwards.
SETTINGS: Final[tuple[tuple[str, str, object], ...]] = (
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("wal_autocheckpoint", "0", 0),  # SQLite hides errors of its own checkpoints; `checkpoint` does not
    ("trusted_schema", "OFF", 0),
)
# What reading and writing can end in; a damaged file has texts that are none.
FAILURES: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
MARKS: Final = {"application_id": int.from_bytes(b"bwlg", "big"), "user_version": 1}
_RESERVE, _LOSS, _POLICY = int(EntryKind.RESERVE), int(EntryKind.LOSS), int(EntryKind.POLICY)
_WIRE_TOTAL: Final = " + ".join(TOTAL_COLUMNS[: len(TrafficClass)])
_GROWTH: Final = " OR ".join(
    f"NEW.{name} <> {name} + (NEW.kind = {_RESERVE} AND NEW.class = {index % len(TrafficClass)})"
    f" * NEW.{name.partition('_')[0]}_bits"
    for index, name in enumerate(TOTAL_COLUMNS)
)
# The database refuses what this file must never do, should this file be wrong.
SCHEMA: Final[Mapping[str, str]] = {
    "entry": f"""CREATE TABLE entry (
    sequence INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND {max(EntryKind):d}),
    class INTEGER NOT NULL CHECK (class BETWEEN 0 AND {max(TrafficClass):d} OR class = {NO_CLASS}),
    {", ".join(f"{name} INTEGER NOT NULL CHECK ({name} BETWEEN 0 AND {AMOUNT_LIMIT - 1})" for name in AMOUNT_COLUMNS)},
    note BLOB NOT NULL CHECK (length(note) <= {NOTE_BYTES_MAX}),
    previous BLOB NOT NULL CHECK (length(previous) = {HASH_BYTES}),
    hash BLOB NOT NULL CHECK (length(hash) = {HASH_BYTES}),
    CHECK ((kind IN ({_RESERVE}, {_LOSS})) = (wire_bits > 0) AND (class = {NO_CLASS}) = (wire_bits = 0)),
    CHECK (information_bits <= wire_bits),
    CHECK (kind <> {_RESERVE} OR {_WIRE_TOTAL} <= limit_bits),
    CHECK (sequence > 0 OR (kind = {_POLICY} AND {_WIRE_TOTAL} = 0))
) STRICT""",
    "no_update": """CREATE TRIGGER no_update BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entries never change'); END""",
    "no_delete": """CREATE TRIGGER no_delete BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END""",
    "only_next": f"""CREATE TRIGGER only_next BEFORE INSERT ON entry
WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence) + 1, 0) FROM entry) OR EXISTS (
    SELECT 1 FROM entry WHERE sequence = NEW.sequence - 1 AND (NEW.previous <> hash
    OR (NEW.kind <> {_POLICY} AND NEW.limit_bits <> limit_bits) OR {_GROWTH}))
BEGIN SELECT RAISE(ABORT, 'not what follows the last entry'); END""",  # noqa: S608
}
INSERT: Final = f"INSERT INTO entry ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM entry ORDER BY sequence"  # noqa: S608


@dataclass(frozen=True)
class Report:
    """What `verify` found. With problems, the rest describes the entries before the first bad one.

    Attributes:
        problems: one line each; none means sound.
        head: count, last hash and totals.
        losses: what crashes wasted, as far as it was recorded.
        trip: the one that nobody has reset, if there is one.
        policy: the one in force; None where not even the first entry is sound.
    """

    problems: tuple[str, ...]
    head: Head
    losses: Totals
    policy: Policy | None
    trip: Trip | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def entry_count(self) -> int:
        """How many entries are sound."""
        return self.head.entry_count

    @property
    def totals(self) -> Totals:
        """What is reserved."""
        return self.head.totals


def verify(path: Path) -> Report:
    """Check all of a ledger that no writer has open; reading only. It says nothing about how old the file is."""
    chain = Chain()
    problems: list[str] = []
    try:
        with closing(connected(path, "ro")) as connection:
            problems.extend(problems_in(connection, chain))
    except LedgerError as error:
        problems.append(str(error))
    except FAILURES as error:
        problems.append(reason(error))
    policy = chain.policy if chain.head.entry_count else None
    return Report(tuple(problems), chain.head, chain.losses, policy, chain.trip)


def export(path: Path) -> Iterator[str]:
    """Yield each entry as one line of JSON, sound or not; bytes in hexadecimal, integers up to 2**62.

    Raises:
        LedgerError: it cannot be read.
    """
    kinds = {int(kind): kind.name.lower() for kind in EntryKind}
    classes = {int(kind): kind.name.lower() for kind in TrafficClass} | {NO_CLASS: None}
    try:
        with closing(connected(path, "ro")) as connection:
            for row in connection.execute(SELECT):
                values = (value.hex() if isinstance(value, bytes) else value for value in row)
                names = {"kind": kinds.get(row[1], row[1]), "class": classes.get(row[2], row[2])}
                yield json.dumps(dict(zip(COLUMNS, values, strict=True)) | names)
    except FAILURES as error:
        raise LedgerError(f"{path}: {reason(error)}", remedy="bitweir ledger verify says more") from error


def problems_in(connection: sqlite3.Connection, chain: Chain) -> Iterator[str]:
    """Yield what is wrong, and add every sound entry to the chain."""
    marks = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in MARKS}
    if marks != MARKS or dict(connection.execute("SELECT name, sql FROM sqlite_schema")) != SCHEMA:
        yield "no ledger of this version, or its table or triggers were changed"
        return
    for (line,) in connection.execute("PRAGMA integrity_check(10)"):
        if line != "ok":
            yield " ".join(f"SQLite: {line}".split())
    try:
        for row in connection.execute(SELECT):
            chain.check(row)
    except LedgerError as error:
        yield str(error)
    if not chain.head.entry_count:
        yield "there is no sound entry"


def connected(path: Path, mode: str) -> sqlite3.Connection:
    """Open an existing file, mode "rw" or "ro", in autocommit and without waiting for others.

    Raises:
        LedgerError: there is no file.
        sqlite3.Error: it cannot be opened.
    """
    if not path.is_file():
        raise LedgerError(f"there is no ledger at {path}", remedy="find the file: a new one forgets what was sent")
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=0)


def settle(connection: sqlite3.Connection) -> None:
    """Set what durability rests on, and look whether it holds."""
    for name, value, due in SETTINGS:
        connection.execute(f"PRAGMA {name} = {value}")
        found = connection.execute(f"PRAGMA {name}").fetchone()
        if found != (due,):
            raise LedgerError(f"SQLite keeps {name} at {found}, not {due!r}", remedy="use another build of SQLite")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Move the log into the file, and start it anew. SQLite syncs the log before and the file after."""
    busy, logged_pages, moved_pages = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    if busy or moved_pages != logged_pages:
        raise sqlite3.OperationalError(f"{moved_pages} of {logged_pages} pages of the log could be moved")


def identities(path: Path) -> list[tuple[int, int]]:
    """Return which files the ledger and its log are at this moment."""
    states = (path.stat(), path.with_name(path.name + "-wal").stat())
    return [(state.st_dev, state.st_ino) for state in states]


def reason(error: Exception) -> str:
    """Return what an error of SQLite or the system means here, in one line."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return "it is open elsewhere"
    return " ".join(str(error).split())


def checked_place(path: Path, allow_filesystem: str) -> Path:
    """Return the real path, on a file system that keeps what it has synced."""
    path = path.resolve()
    try:
        filesystem, options = mount_of(path.parent)
    except OSError as error:
        raise LedgerError(f"cannot tell what {path.parent} lies on: {error}", remedy="name a directory") from error
    if filesystem not in FILESYSTEMS | {allow_filesystem} or options & UNSAFE_MOUNT_OPTIONS:
        found = " ".join([filesystem, *sorted(options & UNSAFE_MOUNT_OPTIONS)])
        raise LedgerError(f"{path.parent} lies on {found}", remedy=f"use a local {', '.join(sorted(FILESYSTEMS))}")
    return path


def mount_of(directory: Path) -> tuple[str, frozenset[str]]:
    """Return type and options of the file system that a directory lies on, whatever is mounted over what."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    number = "".join(about.partition("mnt_id:")[2].split()[:1])
    for line in MOUNTS.read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if fields.split()[0] == number:
            filesystem, *_, options = source.split()
            return filesystem, frozenset(options.split(","))
    return "an unknown file system", frozenset()
