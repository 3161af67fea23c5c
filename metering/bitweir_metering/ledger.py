"""The ledger: what may leave is written here first, durably and for ever. SQLite with one writer; see entries.py.

Rules:
1. Reserve, then send. `reserve` returns after fdatasync. Nothing gives a reservation back: no refund, void or timeout.
2. What makes this true (`ledger_file.SETTINGS`) is read back. Another setting, file system or writer is refused.
3. Any error on the way to the disk closes the ledger for the rest of the process; nothing is tried twice.
4. Opening checks every entry. A missing file is an error: only `create` makes one, and not where parts of one lie.
5. The writer's process opens the file by no other means: closing any descriptor of it drops SQLite's lock.

A file cannot know that it is an old copy of itself, or that its newest entries were cut off: the witness knows.
"""

import copy
import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from bitweir_metering import ledger_file as file
from bitweir_metering.budget import Totals
from bitweir_metering.durable import sync_directory
from bitweir_metering.entries import (
    Chain,
    EntryKind,
    Head,
    Lease,
    Reservation,
    Row,
    Trip,
    numbers_note,
    policy_note,
    reset_note,
)
from bitweir_metering.errors import BudgetError, LedgerError
from bitweir_metering.ledger_file import Report, export, verify
from bitweir_metering.policy import Policy, Signatures
from bitweir_metering.resets import Reset
from bitweir_metering.units import amount, positive

__all__ = ["EntryKind", "Head", "Lease", "Ledger", "Report", "Reservation", "export", "verify"]

REQUESTS_MAX: Final = 4096  # reservations of one transaction
REASON_BYTES_MAX: Final = 200  # of a trip
HASHES_MAX: Final = 100_000  # hashes of one answer: 3.2 MB
CHECKPOINT_ENTRIES: Final = 1000  # between checkpoints: the log of leases stays at a few MiB


class Ledger:
    """The one writer of a ledger, from `open` or `create`; see the rules of this file."""

    def __init__(self, path: Path, connection: sqlite3.Connection, chain: Chain) -> None:
        """Take over what `open` has checked."""
        self._path = path
        self._connection = connection
        self._chain = chain
        self._files = file.identities(path)
        self._process = os.getpid()
        self._entries_since_checkpoint = 0
        self._closed = ""

    @classmethod
    def create(cls, path: Path, policy: Policy, signatures: Signatures, *, allow_filesystem: str = "") -> "Ledger":
        """Make a ledger whose entry 0 is this policy, and open it. It appears under its name when it is complete.

        Raises:
            PolicyError: not signed as the first policy of a lineage.
            LedgerError: something is there already, or the place is none for a ledger; see `open`.
        """
        path = file.checked_place(path, allow_filesystem)
        row = Chain().extend(EntryKind.POLICY, policy_note(policy, signatures))
        unfinished = path.with_name(path.name + ".new")
        for part in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
            if part.exists():
                raise LedgerError(f"{part} exists", remedy="keep it: a second ledger would forget what the first sent")
        try:
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            with closing(file.connected(unfinished, "rw")) as connection:
                file.settle(connection)
                marks = [f"PRAGMA {name} = {value}" for name, value in file.MARKS.items()]
                for statement in [*file.SCHEMA.values(), *marks]:
                    connection.execute(statement)
                connection.execute(file.INSERT, row)
                file.checkpoint(connection)
            os.link(unfinished, path)
            unfinished.unlink()
            sync_directory(path.parent)
        except file.FAILURES as error:
            raise LedgerError(f"cannot create {path}: {error}", remedy=f"remove {unfinished} if it is there") from error
        return cls.open(path, allow_filesystem=allow_filesystem)

    @classmethod
    def open(cls, path: Path, *, allow_filesystem: str = "") -> "Ledger":
        """Open a ledger as its only writer, after checking all of it.

        Args:
            path: the file; SQLite keeps its log beside it.
            allow_filesystem: one more type of file system to accept, as /proc/self/mountinfo calls it. For tests.

        Raises:
            LedgerError: no ledger there, not sound, in use, or not on a local file system with honest fdatasync.
        """
        path = file.checked_place(path, allow_filesystem)
        chain = Chain()
        with ExitStack() as on_error:
            try:
                connection = on_error.enter_context(closing(file.connected(path, "rw")))
                file.settle(connection)
                for problem in file.problems_in(connection, chain):
                    raise LedgerError(f"{path}: {problem}", remedy="copy the files, then: bitweir ledger verify")
                sync_directory(path.parent)
                ledger = cls(path, connection, chain)
            except file.FAILURES as error:
                remedy = "a ledger has one writer, and no reader beside it"
                raise LedgerError(f"{path}: {file.reason(error)}", remedy=remedy) from error
            on_error.pop_all()
        return ledger

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._chain.policy

    @property
    def head(self) -> Head:
        """What is durable: count, last hash and totals."""
        return self._chain.head

    @property
    def totals(self) -> Totals:
        """What is durably reserved."""
        return self._chain.head.totals

    @property
    def tripped(self) -> Trip | None:
        """The trip that nobody has reset, if there is one."""
        return self._chain.trip

    @property
    def losses(self) -> Totals:
        """What of it crashes wasted, as far as it was recorded."""
        return self._chain.losses

    def reserve(self, requests: Sequence[Reservation]) -> list[Lease | BudgetError]:
        """Reserve for all with one fdatasync; return when it is durable, one answer for each request, in order.

        What does not fit the budget is answered with the error; the others go through.

        Raises:
            LedgerError: nothing was granted and the ledger is closed for good; or too many requests at once.
        """
        if len(requests) > REQUESTS_MAX:
            raise LedgerError(f"{len(requests)} requests at once", remedy=f"at most {REQUESTS_MAX}")
        chain = self._draft()
        rows: list[Row] = []
        answers: list[Lease | BudgetError] = []
        for request in requests:
            try:
                rows.append(chain.extend(EntryKind.RESERVE, charge=request))
                answers.append(Lease(chain.head.entry_count - 1, request))
            except BudgetError as refusal:
                answers.append(refusal)
        self._commit(rows, chain)
        return answers

    def trip(self, reason: str) -> int:
        """Take the link down for good: nothing is reserved until a reset. See `reset`; return the entry's number.

        Raises:
            LedgerError: the ledger is closed.
        """
        return self._add(EntryKind.TRIP, reason.encode("ascii", "replace")[:REASON_BYTES_MAX])

    def reset(self, reset: Reset, signatures: Signatures) -> int:
        """Let reservations be made again after a trip; return the entry's number when it is durable.

        Raises:
            LedgerError: not of the trip that is in force, or the ledger is closed.
            PolicyError: not signed by enough of the policy's signers.
        """
        return self._add(EntryKind.RESET, reset_note(reset, signatures))

    def event(self, note: bytes) -> int:
        """Write what is worth keeping; return the entry's number when it is durable.

        Raises:
            LedgerError: a note that is too long, or the ledger is closed.
        """
        return self._add(EntryKind.EVENT, note)

    def give_numbers(self, count: int) -> range:
        """Return the next numbers for frames, durably given out: nobody gets them again.

        Raises:
            LedgerError: there are no more, or the ledger is closed.
            UnitError: the count is no amount above 0.
        """
        start = self._chain.numbers_end
        end = start + positive(count, "count")
        self._add(EntryKind.NUMBERS, numbers_note(end))
        return range(start, end)

    def record_loss(self, loss: Reservation, note: bytes = b"") -> int:
        """Write what of the reserved bits was never sent, for people; no total changes. Return the entry's number.

        Raises:
            LedgerError: more lost than was ever reserved, or the ledger is closed.
            UnitError: so much more that no total holds it.
        """
        return self._add(EntryKind.LOSS, note, loss)

    def replace_policy(self, policy: Policy, signatures: Signatures) -> int:
        """Let another policy hold from here on; return the entry's number.

        Raises:
            PolicyError: not the next one, or not signed by enough signers of the one in force.
        """
        return self._add(EntryKind.POLICY, policy_note(policy, signatures))

    def hashes(self, start: int, count: int) -> list[bytes]:
        """Return the hashes of at most `count` entries from `start` on: leaves of the witness's tree.

        Raises:
            LedgerError: too many, or they cannot be read.
            UnitError: a number is no amount.
        """
        self._draft()
        if amount(count, "count") > HASHES_MAX:
            raise LedgerError(f"{count} hashes at once", remedy=f"at most {HASHES_MAX}")
        query = "SELECT hash FROM entry WHERE sequence >= ? ORDER BY sequence LIMIT ?"
        try:
            return [found for (found,) in self._connection.execute(query, (amount(start, "start"), count))]
        except file.FAILURES as error:
            raise LedgerError(f"{self._path}: {error}", remedy="find out why, then start again") from error

    def close(self) -> None:
        """Let go of the file, its log moved into it. A ledger that an error has closed is left as it is.

        Raises:
            LedgerError: the log could not be moved; what was reserved stays in it.
        """
        if not self._closed:
            self._commit([], self._draft(), checkpoint=True)
            self._closed = "closed by its owner"
        self._connection.close()

    def _add(self, kind: EntryKind, note: bytes, charge: Reservation | None = None) -> int:
        chain = self._draft()
        self._commit([chain.extend(kind, note, charge)], chain)
        return chain.head.entry_count - 1

    def _draft(self) -> Chain:
        """Return a copy of what is durable, to add entries to; the ledger is open and belongs to this process."""
        if self._closed:
            raise LedgerError(f"{self._path} is closed: {self._closed}", remedy="find out why, then start again")
        if os.getpid() != self._process:
            raise LedgerError(f"{self._path} is process {self._process}'s", remedy="ask it, through a LedgerClient")
        return copy.copy(self._chain)

    def _commit(self, rows: Sequence[Row], chain: Chain, *, checkpoint: bool = False) -> None:
        """Make rows durable. Whatever interrupts this, be it Ctrl-C, leaves the ledger closed."""
        self._closed = "a commit was interrupted"
        try:
            if file.identities(self._path) != self._files:
                raise OSError("the file or its log was moved or replaced")
            if rows:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(file.INSERT, rows)
                self._connection.execute("COMMIT")
            self._entries_since_checkpoint += len(rows)
            if checkpoint or self._entries_since_checkpoint >= CHECKPOINT_ENTRIES:
                file.checkpoint(self._connection)
                self._entries_since_checkpoint = 0
        except file.FAILURES as error:
            self._closed = f"a commit failed: {error}"
            raise LedgerError(f"{self._path}: {self._closed}", remedy="find out why, then start again") from error
        self._chain = chain
        self._closed = ""
