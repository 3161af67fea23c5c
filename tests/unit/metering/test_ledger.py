"""The ledger: what it grants, what it refuses, where it may lie, and that any doubt closes it."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import ledger as ledger_module
from bitweir_metering import ledger_file
from bitweir_metering.entries import Chain
from bitweir_metering.errors import BudgetError, LedgerError, MeteringError, PolicyError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import EntryKind, Lease, Ledger, Reservation, verify
from tests.unit.metering.example_ledger import (
    LIMIT_BITS,
    copied,
    created,
    filled,
    forked,
    log_of,
    model,
    names,
    opened,
    place,
    raised,
    small_policy,
)
from tests.unit.metering.example_policy import signed

NO_AMOUNTS = [True, False, -1, 1.0, float("nan"), float("inf"), 1 << 62, 1 << 80, "1", None, b"1"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.ledger"


# Making and opening.


def test_a_new_ledger_holds_its_policy_and_nothing_else(path: Path) -> None:
    with created(path) as ledger:
        assert ledger.policy == small_policy()
        assert ledger.head.entry_count == 1
        assert ledger.totals.wire_bits == ledger.losses.wire_bits == 0
    assert names(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with opened(path) as ledger:
        assert ledger.head.entry_count == 1


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_a_ledger_is_never_made_where_parts_of_one_lie(path: Path, end: str) -> None:
    part = path.with_name(path.name + end)
    part.write_bytes(b"evidence")
    with pytest.raises(LedgerError, match="exists"):
        created(path)
    assert part.read_bytes() == b"evidence"
    assert names(path.parent) == [part.name]


def test_an_interrupted_creation_leaves_no_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    with monkeypatch.context() as patch, pytest.raises(LedgerError, match="no links here"):
        patch.setattr(os, "link", refuse)
        created(path)
    with pytest.raises(LedgerError, match="there is no ledger"):
        opened(path)
    with pytest.raises(LedgerError, match="File exists") as caught:
        created(path)
    assert str(path) + ".new" in caught.value.remedy


def test_a_ledger_appears_only_when_all_of_it_is_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(ledger_file, "checkpoint", fail)
    with pytest.raises(LedgerError, match="cannot create"):
        created(path)
    assert not path.exists()


def test_only_a_signed_first_policy_starts_a_ledger(path: Path) -> None:
    first, second = small_policy(), small_policy(serial=2)
    for document, signatures in ((first, {}), (first, signed(first, 0)), (second, signed(second, 0, 1))):
        with pytest.raises(PolicyError):
            Ledger.create(path, document, signatures, allow_filesystem=place(path.parent))
    assert names(path.parent) == []


def test_a_missing_ledger_is_an_error_and_not_a_new_one(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger") as caught:
        opened(path)
    assert caught.value.remedy
    assert names(path.parent) == []
    with pytest.raises(LedgerError, match="cannot tell"):
        Ledger.open(path / "below" / "nothing")


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"x" * 8192, None, "database"])
def test_other_files_are_no_ledgers(path: Path, content: object) -> None:
    if content is None:
        path.mkdir()
    elif content == "database":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE entry (sequence INTEGER PRIMARY KEY)")
    else:
        path.write_bytes(content)
    with pytest.raises(LedgerError):
        opened(path)
    assert not verify(path).ok


def test_a_relative_path_and_a_link_to_the_file_mean_the_same_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(path).close()
    (path.parent / "other").mkdir()
    (path.parent / "other" / "name").symlink_to(path)
    monkeypatch.chdir(path.parent)
    with opened(Path("other/name")) as ledger:
        assert log_of(path).exists()
        with pytest.raises(LedgerError, match="open elsewhere"):
            opened(Path(path.name))
        ledger.reserve([model()])


# Settings, writers, places.


@pytest.mark.parametrize(
    ("name", "value"),
    [("synchronous", "NORMAL"), ("synchronous", "OFF"), ("locking_mode", "NORMAL"), ("journal_mode", "DELETE"),
     ("wal_autocheckpoint", "1000"), ("trusted_schema", "ON"), ("unknown_setting", "1")],
)  # fmt: skip
def test_a_setting_that_does_not_hold_is_refused(
    path: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(path).close()
    due = {name: due for name, _, due in ledger_file.SETTINGS} | {"unknown_setting": 1}
    others = [setting for setting in ledger_file.SETTINGS if setting[0] != name]
    monkeypatch.setattr(ledger_file, "SETTINGS", (*others, (name, value, due[name])))
    with pytest.raises(LedgerError, match=name):
        opened(path)
    monkeypatch.undo()
    opened(path).close()


def test_durability_rests_on_these_settings() -> None:
    assert {name: due for name, _, due in ledger_file.SETTINGS} == {
        "locking_mode": "exclusive",
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "trusted_schema": 0,
    }


def test_a_ledger_has_one_writer_and_no_reader_beside_it(path: Path) -> None:
    with created(path):
        with pytest.raises(LedgerError, match="open elsewhere"):
            opened(path)
        assert verify(path).problems == ("it is open elsewhere",)
        with pytest.raises(LedgerError, match="open elsewhere"):
            list(ledger_module.export(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entry").fetchall()
        with pytest.raises(LedgerError, match="open elsewhere"):
            opened(path)
    opened(path).close()


def test_another_process_cannot_write(path: Path) -> None:
    program = (
        "import sqlite3, sys\nconnection = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: connection.execute('SELECT * FROM entry')\nexcept sqlite3.OperationalError as error: print(error)"
    )
    with created(path):
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert result.stdout == "database is locked\n"


def in_a_fork(action: Callable[[], None]) -> str:
    """Run an action in a forked child and return its error."""
    reader, writer = os.pipe()
    child = forked()
    if child == 0:
        try:
            action()
            message = "no error"
        except MeteringError as error:
            message = str(error)
        os.write(writer, message.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode()
    os.waitpid(child, 0)
    return message


def test_a_forked_child_is_not_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with created(path) as ledger:
        for action in (lambda: ledger.reserve([model()]), ledger.close, lambda: ledger.hashes(0, 1)):
            assert f"process {os.getpid()}'s" in in_a_fork(action)
        ledger.reserve([model()])
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 0)
            with pytest.raises(LedgerError, match="'s"):
                ledger.reserve([model()])
    assert verify(path).totals.wire_bits == 10_000


MOUNTS = """25 1 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=1k
{number} 1 254:0 / / rw,relatime shared:1 - {rest}
"""


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("ext4 /dev/vda rw,discard", ""),
        ("xfs /dev/a\\040b rw", ""),
        ("tmpfs tmpfs rw", "lies on tmpfs"),
        ("nfs4 server:/export rw", "lies on nfs4"),
        ("overlay overlay rw,volatile", "lies on overlay"),
        ("fuse.sshfs host: rw", "lies on fuse.sshfs"),
        ("ext4 /dev/vda rw,nobarrier", "ext4 nobarrier"),
        ("ext4 /dev/vda rw,barrier=0", "ext4 barrier=0"),
    ],
)
def test_only_local_disks_hold_a_ledger(
    path: Path, rest: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    number = Path(f"/proc/self/fdinfo/{descriptor}").read_text().partition("mnt_id:")[2].split()[0]
    os.close(descriptor)
    mounts = tmp_path_factory.mktemp("mounts") / "mountinfo"
    mounts.write_text(MOUNTS.format(number=number, rest=rest))
    monkeypatch.setattr(ledger_file, "MOUNTS", mounts)
    document = small_policy()
    if not message:
        Ledger.create(path, document, signed(document, 0, 1)).close()
        Ledger.open(path).close()
        return
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.create(path, document, signed(document, 0, 1))
    assert "ext4" in caught.value.remedy
    assert names(path.parent) == []
    with pytest.raises(LedgerError, match=message):
        Ledger.open(path)


def test_a_place_that_cannot_be_told_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mounts, message in ((Path(os.devnull), "an unknown file system"), (path, "cannot tell")):
        monkeypatch.setattr(ledger_file, "MOUNTS", mounts)
        with pytest.raises(LedgerError, match=message):
            Ledger.open(path)


def test_the_file_system_is_that_of_the_directory() -> None:
    assert ledger_file.mount_of(Path("/proc"))[0] == "proc"
    assert ledger_file.mount_of(Path("/proc/self"))[0] == "proc"
    shared = Path("/dev") / "shm"
    assert ledger_file.mount_of(shared)[0] == "tmpfs"
    document = small_policy()
    with pytest.raises(LedgerError, match="lies on tmpfs"):
        Ledger.create(shared / "never.ledger", document, signed(document, 0, 1))


# Reservations.


def test_a_lease_is_in_the_file_when_it_is_returned(path: Path, tmp_path: Path) -> None:
    with created(path) as ledger:
        for count in range(1, 4):
            assert ledger.reserve([model()]) == [Lease(count, model())]
            report = verify(copied(path, tmp_path / str(count)))
            assert report.ok
            assert report.head == ledger.head
            assert report.totals.wire == (10_000 * count, 0, 0, 0, 0)
            assert report.totals.information == (5_000 * count, 0, 0, 0, 0)
    with opened(path) as ledger:
        assert ledger.totals.wire_bits == 30_000


def test_who_does_not_fit_is_refused_and_the_others_go_through(path: Path) -> None:
    with created(path) as ledger:
        answers = ledger.reserve(
            [
                model(600_000),
                model(600_000),
                Reservation(TrafficClass.CONTROL, 20_001, 0),
                Reservation(TrafficClass.CONTROL, 20_000, 0),
                Reservation(TrafficClass.TUNNEL, 1, 0),
                model((1 << 62) - 1),
                model(LIMIT_BITS - 620_000),
                model(1),
            ]
        )
        assert [answer.sequence if isinstance(answer, Lease) else 0 for answer in answers] == [1, 0, 0, 2, 0, 0, 3, 0]
        refusals = [str(answer) for answer in answers if isinstance(answer, BudgetError)]
        for refusal, words in zip(refusals, ["lifetime", "control", "tunnel", "lifetime", "lifetime"], strict=True):
            assert words in refusal
        assert ledger.totals.wire_bits == LIMIT_BITS
        head = ledger.head
        assert isinstance(ledger.reserve([model(1)])[0], BudgetError)
        assert ledger.reserve([]) == []
        assert ledger.head == head
    assert verify(path).totals.wire_bits == LIMIT_BITS


@pytest.mark.parametrize("bad", NO_AMOUNTS, ids=str)
def test_what_is_no_amount_is_refused_everywhere(path: Path, bad: Any) -> None:
    with pytest.raises(UnitError):
        Reservation(TrafficClass.MODEL, bad, 0)
    with pytest.raises(UnitError):
        Reservation(TrafficClass.MODEL, 8, bad)
    with created(path) as ledger:
        head = ledger.head
        for field in ("wire_bits", "information_bits"):
            forged = model(8)
            object.__setattr__(forged, field, bad)
            with pytest.raises(UnitError):
                ledger.reserve([model(), forged])
        for arguments in ((bad, 1), (1, bad)):
            with pytest.raises(UnitError):
                ledger.hashes(*arguments)
        assert ledger.head == head
        ledger.reserve([model()])
    assert verify(path).totals.wire_bits == 10_000


def test_a_reservation_has_bits_a_class_and_no_more_information_than_bits() -> None:
    with pytest.raises(UnitError):
        Reservation(TrafficClass.MODEL, 0, 0)
    with pytest.raises(BudgetError):
        Reservation(TrafficClass.MODEL, 8, 9)
    for kind in (0, None, "model", True):
        with pytest.raises(BudgetError):
            Reservation(kind, 8, 8)


def test_so_many_at_once_and_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REQUESTS_MAX", 3)
    with created(path) as ledger:
        assert len(ledger.reserve([model(8)] * 3)) == 3
        with pytest.raises(LedgerError, match="4 requests"):
            ledger.reserve([model(8)] * 4)
        assert ledger.head.entry_count == 4


def test_what_is_reserved_survives_checkpoints_and_reopening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CHECKPOINT_ENTRIES", 4)
    created(path).close()
    moved: list[int] = []
    monkeypatch.setattr(ledger_file, "checkpoint", lambda connection, real=ledger_file.checkpoint: (
        moved.append(1), real(connection)))  # fmt: skip
    for round_number in range(3):
        with opened(path) as ledger:
            for _ in range(9):
                ledger.reserve([model(1_000)])
            assert verify(copied(path, path.parent / str(round_number))).head == ledger.head
    assert len(moved) == 3 * (2 + 1)
    assert verify(path).totals.wire_bits == 27_000


# Other entries.


def test_events_are_written_and_change_no_total(path: Path) -> None:
    with created(path) as ledger:
        ledger.reserve([model()])
        totals = ledger.totals
        assert ledger.event(b"x" * (64 * 1024)) == 2
        for note in (b"x" * (64 * 1024 + 1), "text", None, bytearray(b"x")):
            with pytest.raises(LedgerError, match="at most 64 KiB"):
                ledger.event(note)
        assert ledger.totals == totals
        assert ledger.head.entry_count == 3


def test_losses_are_kept_apart_and_never_exceed_what_was_reserved(path: Path) -> None:
    with created(path) as ledger:
        ledger.reserve([model(10_000, 4_000)])
        assert ledger.record_loss(model(6_000, 4_000), b"crash") == 2
        for loss in (model(4_001, 0), model(1, 1), Reservation(TrafficClass.CONTROL, 1, 0)):
            with pytest.raises(LedgerError, match="more lost"):
                ledger.record_loss(loss)
        ledger.record_loss(model(4_000, 0))
        assert ledger.losses.wire == (10_000, 0, 0, 0, 0)
        assert ledger.totals.wire_bits == 10_000
        head = ledger.head
    assert verify(path).losses.wire_bits == 10_000
    with opened(path) as ledger:
        assert (ledger.head, ledger.losses.wire_bits) == (head, 10_000)


def test_a_limit_rises_only_by_a_signed_policy(path: Path) -> None:
    later, forged = raised(2, 2 * LIMIT_BITS), raised(2, 3 * LIMIT_BITS)
    with created(path) as ledger:
        ledger.reserve([model(LIMIT_BITS)])
        for document, signatures in ((later, {}), (later, signed(later, 0)), (forged, signed(later, 0, 1))):
            with pytest.raises(PolicyError):
                ledger.replace_policy(document, signatures)
        assert isinstance(ledger.reserve([model(1)])[0], BudgetError)
        assert ledger.replace_policy(later, signed(later, 1, 2)) == 2
        assert ledger.policy == later
        assert isinstance(ledger.reserve([model(LIMIT_BITS)])[0], Lease)
        lower = raised(3, LIMIT_BITS)
        ledger.replace_policy(lower, signed(lower, 0, 1))
        assert isinstance(ledger.reserve([model(1)])[0], BudgetError)
        assert ledger.totals.wire_bits == 2 * LIMIT_BITS
    report = verify(path)
    assert report.ok
    assert report.policy == lower


def test_hashes_are_the_leaves_of_the_witness(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(path) as ledger:
        found = ledger.hashes(0, 100)
        assert len(found) == ledger.head.entry_count == 16
        assert found[-1] == ledger.head.entry_hash
        assert ledger.hashes(14, 1) == found[14:15]
        assert ledger.hashes(16, 5) == []
        monkeypatch.setattr(ledger_module, "HASHES_MAX", 3)
        assert len(ledger.hashes(0, 3)) == 3
        with pytest.raises(LedgerError, match="at once"):
            ledger.hashes(0, 4)


def test_a_chain_starts_with_a_policy_and_bits_are_where_they_belong() -> None:
    chain = Chain()
    with pytest.raises(LedgerError, match="no policy"):
        chain.policy  # noqa: B018
    for kind, charge in ((EntryKind.RESERVE, model()), (EntryKind.EVENT, None)):
        with pytest.raises(LedgerError, match="no policy"):
            chain.extend(kind, charge=charge)
    for kind, charge in ((EntryKind.RESERVE, None), (EntryKind.LOSS, None), (EntryKind.EVENT, model())):
        with pytest.raises(LedgerError, match="bits"):
            chain.extend(kind, charge=charge)
    assert chain.head.entry_count == 0
