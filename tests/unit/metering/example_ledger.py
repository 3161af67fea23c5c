"""Ledgers for tests: small ones on whatever file system the test runs on, copies of them, and an independent reader."""

import hashlib
import os
import shutil
import sqlite3
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bitweir_metering import ledger_file
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import Ledger, Reservation
from bitweir_metering.policy import Policy
from bitweir_metering.resets import Reset
from tests.unit.metering.example_policy import PRIVATE, PUBLIC, policy, signed

LIMIT_BITS = 10**6
CLASS_LIMITS = dict.fromkeys(TrafficClass, LIMIT_BITS) | {TrafficClass.CONTROL: 20_000, TrafficClass.TUNNEL: 0}


def small_policy(**changes: Any) -> Policy:
    """A policy with room for a hundred reservations of 10,000 bits."""
    fields = {"limit_bits": LIMIT_BITS, "class_limits": CLASS_LIMITS, "lease_bits": 100_000, "epoch_slots": 100}
    return policy(**fields | changes)


def raised(serial: int, limit_bits: int) -> Policy:
    """A later policy with another limit."""
    return small_policy(serial=serial, limit_bits=limit_bits, class_limits=dict.fromkeys(TrafficClass, limit_bits))


def place(path: Path) -> str:
    """The type of file system a path lies on: what tests allow, because it may be tmpfs."""
    return ledger_file.mount_of(path)[0]


def created(path: Path, document: Policy | None = None) -> Ledger:
    """A new ledger of a signed policy."""
    document = document or small_policy()
    return Ledger.create(path, document, signed(document, 0, 1), allow_filesystem=place(path.parent))


def opened(path: Path) -> Ledger:
    """An existing ledger."""
    return Ledger.open(path, allow_filesystem=place(path.parent))


def model(wire_bits: int = 10_000, information_bits: int | None = None) -> Reservation:
    """A reservation of model output."""
    return Reservation(TrafficClass.MODEL, wire_bits, wire_bits // 2 if information_bits is None else information_bits)


def filled(path: Path) -> Ledger:
    """A ledger with an entry of every kind, sixteen of them."""
    ledger = created(path)
    ledger.reserve([model(), model(8), Reservation(TrafficClass.TIMING, 100, 100)])
    ledger.event(b"started")
    ledger.trip("meters disagree")
    ledger.reset(*signed_reset(ledger))
    ledger.record_loss(model(5_000), b"crash")
    later = raised(2, 2 * LIMIT_BITS)
    ledger.replace_policy(later, signed(later, 0, 1))
    for count in range(7):
        ledger.reserve([Reservation(TrafficClass.CONTROL, 1_000 + count, count)])
    return ledger


def signed_reset(ledger: Ledger, *numbers: int) -> tuple[Reset, dict[bytes, bytes]]:
    """A reset of the trip in force, signed by the keys with these numbers; by default, by enough of them."""
    trip = ledger.tripped
    assert trip is not None
    reset = Reset(ledger.policy.lineage, ledger.policy.link, trip.sequence, trip.entry_hash.hex(), "somebody looked")
    return reset, {PUBLIC[number]: PRIVATE[number].sign(reset.message()) for number in numbers or (0, 1)}


def copied(path: Path, folder: Path) -> Path:
    """What a crash would leave of a ledger: file and log, as they are, in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (path, log_of(path)):
        if part.exists():
            shutil.copyfile(part, folder / part.name)
    return folder / path.name


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(part.name for part in folder.iterdir())


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of a ledger."""
    return path.with_name(path.name + "-wal")


@contextmanager
def tampered(path: Path) -> Iterator[sqlite3.Connection]:
    """Write to a ledger behind its back: no triggers, no checks, and the schema put back afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("synchronous = OFF", "ignore_check_constraints = ON"):
            connection.execute(f"PRAGMA {pragma}")
        triggers = [name for name in ledger_file.SCHEMA if name != "entry"]
        for name in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for name in triggers:
            connection.execute(ledger_file.SCHEMA[name])


def forked() -> int:
    """Fork, for a child that runs a few lines and ends with os._exit.

    Python warns of other threads, which a parallel test run has; a child that takes none of their locks is fine.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def expected_hash(entry: dict[str, Any]) -> str:
    """The hash of an exported entry, computed from the description in docs/reference/ledger.md and nothing else."""
    kinds = ["policy", "reserve", "loss", "trip", "reset", "event"]
    classes = ["model", "control", "resend", "tunnel", "timing"]
    note, previous = bytes.fromhex(entry["note"]), bytes.fromhex(entry["previous"])
    content = b"bitweir ledger entry v1\n" + struct.pack(">Q", entry["sequence"])
    content += bytes([kinds.index(entry["kind"]), 255 if entry["class"] is None else classes.index(entry["class"])])
    amounts = [entry["wire_bits"], entry["information_bits"], entry["limit_bits"]]
    amounts += [entry[f"{total}_{name}"] for total in ("wire", "information") for name in classes]
    content += b"".join(amount.to_bytes(8, "big") for amount in amounts) + len(note).to_bytes(4, "big")
    return hashlib.sha256(content + note + previous).hexdigest()
