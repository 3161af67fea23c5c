"""Entries of the ledger: what each says, how they hang together, and what they add up to. Pure.

Rules:
1. Entries are dense from 0. Each holds all totals so far and the hash of the one before; entry 0 is a signed policy.
2. Every column is determined by (kind, class, bits, note) and the entries before: checking is making the entry again.
3. Totals never fall, and no entry takes them above the policy in force. There is no entry that gives bits back.
4. A limit changes only by an entry with a policy that enough signers of the one before have signed.
5. After a trip nothing is reserved until an entry with a reset of that trip, signed by enough of the policy's signers.
6. The numbers of frames never repeat: each NUMBERS entry gives out the next ones.

Hash: SHA-256 of `_PREFIX`, `_HEADER` (sequence, kind, class, wire bits, information bits, limit, wire and information
totals in the order of `TrafficClass`, bytes of the note), the note, and the previous hash (zeros before entry 0).
docs/reference/ledger.md describes them; it changes with this file.
"""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from bitweir_metering import resets
from bitweir_metering.budget import Budget, Totals
from bitweir_metering.errors import BudgetError, LedgerError, MeteringError
from bitweir_metering.frame import SEQUENCE_LIMIT, TrafficClass
from bitweir_metering.policy import Policy, Signatures, check_signed, format_signatures, parse, parse_signatures
from bitweir_metering.resets import Reset
from bitweir_metering.units import amount, positive

NOTE_BYTES_MAX: Final = 64 * 1024  # a policy and its signatures take at most 48 KiB and a newline
HASH_BYTES: Final = 32
NO_CLASS: Final = 255
"""The class of an entry without bits."""
TOTAL_COLUMNS: Final = tuple(f"{name}_{kind.name.lower()}" for name in ("wire", "information") for kind in TrafficClass)
AMOUNT_COLUMNS: Final = ("wire_bits", "information_bits", "limit_bits", *TOTAL_COLUMNS)
COLUMNS: Final = ("sequence", "kind", "class", *AMOUNT_COLUMNS, "note", "previous", "hash")
Row = tuple[int | bytes, ...]
"""One value for each of `COLUMNS`."""

_PREFIX: Final = b"bitweir ledger entry v1\n"
_HEADER: Final = struct.Struct(f">QBB3Q{len(TOTAL_COLUMNS)}QI")
_DECIMAL: Final = re.compile(rb"[1-9][0-9]{0,18}")
_EVIDENCE: Final = "keep the files as they are, and ask the witness for its newest checkpoint"


class EntryKind(IntEnum):
    """What an entry says."""

    POLICY = 0
    """From here on this policy holds; the note is its canonical form, a newline and its signatures."""
    RESERVE = 1
    """These bits may leave."""
    LOSS = 2
    """A crash wasted so much of what was reserved; changes no total."""
    TRIP = 3
    """The link was taken down for good; the note says why."""
    RESET = 4
    """People signed for taking it up again; the note is the reset, a newline and its signatures."""
    EVENT = 5
    """The gate started, stopped, or anything else worth keeping."""
    NUMBERS = 6
    """Frames may be numbered up to, not including, the decimal number in the note."""


@dataclass(frozen=True)
class Reservation:
    """Bits of one class: asked for, granted or lost.

    Raises:
        BudgetError: not a traffic class, or more information than wire bits.
        UnitError: a number is no amount, or there are no wire bits.
    """

    kind: TrafficClass
    wire_bits: int
    information_bits: int

    def __post_init__(self) -> None:
        if not isinstance(self.kind, TrafficClass):
            raise BudgetError(f"{self.kind!r:.40} is no traffic class", remedy="use one of frame.TrafficClass")
        if amount(self.information_bits, "information_bits") > positive(self.wire_bits, "wire_bits"):
            raise BudgetError("more information than wire bits", remedy="a frame cannot say more than it holds")


@dataclass(frozen=True)
class Lease:
    """A durable reservation, by the number of its entry: so much may leave."""

    sequence: int
    reservation: Reservation


@dataclass(frozen=True)
class Trip:
    """The entry that took the link down."""

    sequence: int
    entry_hash: bytes
    reason: str


@dataclass(frozen=True)
class Head:
    """What a witness signs: how many entries, the hash of the last, and what they add up to."""

    entry_count: int
    entry_hash: bytes
    totals: Totals


class Chain:
    """What the entries so far add up to. It makes the next one, and makes stored ones again to check them."""

    def __init__(self) -> None:
        self._head = Head(0, bytes(HASH_BYTES), Totals())
        self._losses = Totals()
        self._policy: Policy | None = None
        self._trip: Trip | None = None
        self._numbers_end = 0

    @property
    def head(self) -> Head:
        """Count, last hash and totals."""
        return self._head

    @property
    def losses(self) -> Totals:
        """What crashes wasted, as far as it was recorded."""
        return self._losses

    @property
    def trip(self) -> "Trip | None":
        """The trip that nobody has reset, if there is one."""
        return self._trip

    @property
    def numbers_end(self) -> int:
        """The first number that no frame may have yet."""
        return self._numbers_end

    @property
    def policy(self) -> Policy:
        """The policy in force.

        Raises:
            LedgerError: there is no entry yet.
        """
        if self._policy is None:
            raise LedgerError("no policy is in force", remedy="a ledger starts with its policy")
        return self._policy

    def extend(self, kind: EntryKind, note: bytes = b"", charge: Reservation | None = None) -> Row:
        """Add an entry and return its row; with an error nothing changes.

        Raises:
            BudgetError: a reservation that does not fit the policy, or while the link is tripped.
            LedgerError: not such an entry, more lost than was ever reserved, a reset without its trip, or numbers that
                were given out before.
            PolicyError: not the next policy, or policy or reset not signed by enough signers of the one in force.
        """
        if type(note) is not bytes or len(note) > NOTE_BYTES_MAX:
            raise LedgerError("a note that is not at most 64 KiB of bytes", remedy="shorten it")
        if (charge is not None) is not (kind in (EntryKind.RESERVE, EntryKind.LOSS)):
            raise LedgerError(f"{kind.name}: bits where none belong, or none", remedy="only RESERVE and LOSS have bits")
        policy = _policy_of(note, self._policy) if kind is EntryKind.POLICY else self.policy
        totals, losses, numbers_end = self._head.totals, self._losses, self._numbers_end
        if kind is EntryKind.RESET:
            _check_reset(note, policy, self._trip)
        elif kind is EntryKind.NUMBERS:
            numbers_end = _numbers_end_of(note, numbers_end)
        elif charge and kind is EntryKind.RESERVE:
            if self._trip:
                raise BudgetError(
                    f"the link is tripped: {self._trip.reason}", remedy="bitweir gate propose, sign, reset"
                )
            refusal = Budget(policy, totals).refusal(charge.kind, charge.wire_bits)
            if refusal:
                raise BudgetError(refusal, remedy="only a newer policy, signed by enough people, raises a limit")
            totals = totals.plus(charge.kind, charge.wire_bits, charge.information_bits)
        elif charge:
            losses = losses.plus(charge.kind, charge.wire_bits, charge.information_bits)
            if not totals.holds(losses):
                raise LedgerError("more lost than was ever reserved", remedy="record a loss once")
        bits = (charge.kind, charge.wire_bits, charge.information_bits) if charge else (NO_CLASS, 0, 0)
        numbers = (self._head.entry_count, kind, *bits, policy.limit_bits, *totals.wire, *totals.information)
        previous = self._head.entry_hash
        digest = hashlib.sha256(_PREFIX + _HEADER.pack(*numbers, len(note)) + note + previous).digest()
        if kind is EntryKind.TRIP:
            self._trip = self._trip or Trip(self._head.entry_count, digest, note.decode("ascii", "replace"))
        elif kind is EntryKind.RESET:
            self._trip = None
        self._head = Head(self._head.entry_count + 1, digest, totals)
        self._losses, self._policy, self._numbers_end = losses, policy, numbers_end
        return (*map(int, numbers), note, previous, digest)

    def check(self, row: Sequence[Any]) -> None:
        """Add the entry of a stored row.

        Raises:
            LedgerError: it is not the row that `extend` makes.
        """
        kind, traffic, wire_bits, information_bits = row[1:5]
        before = dict(vars(self))
        name = f"entry {self._head.entry_count}"
        try:
            charge = None if traffic == NO_CLASS else Reservation(TrafficClass(traffic), wire_bits, information_bits)
            due = self.extend(EntryKind(kind), row[-3], charge)
        except (MeteringError, ValueError) as error:
            raise LedgerError(f"{name}: {error}", remedy=_EVIDENCE) from error
        wrong = [column for column, value, right in zip(COLUMNS, row, due, strict=True) if value != right]
        if wrong:
            vars(self).update(before)
            raise LedgerError(f"{name}: not what the entries before it make: {', '.join(wrong)}", remedy=_EVIDENCE)


def policy_note(policy: Policy, signatures: Signatures) -> bytes:
    """Return the note of a POLICY entry."""
    return policy.canonical() + b"\n" + format_signatures(signatures)


def reset_note(reset: Reset, signatures: Signatures) -> bytes:
    """Return the note of a RESET entry."""
    return reset.canonical() + b"\n" + format_signatures(signatures)


def numbers_note(end: int) -> bytes:
    """Return the note of a NUMBERS entry."""
    return b"%d" % amount(end, "numbers_end")


def _check_reset(note: bytes, policy: Policy, trip: Trip | None) -> None:
    content, _, signatures = note.partition(b"\n")
    reset = resets.parse(content)
    if trip is None or (reset.sequence, reset.trip_hash) != (trip.sequence, trip.entry_hash.hex()):
        raise LedgerError("a reset without its trip", remedy="make it anew: bitweir gate propose")
    resets.check_signed(reset, parse_signatures(signatures), policy)


def _numbers_end_of(note: bytes, before: int) -> int:
    end = int(note) if _DECIMAL.fullmatch(note) else 0
    if not before < end <= SEQUENCE_LIMIT:
        raise LedgerError(f"numbers up to {note!r:.40} after {before}", remedy=f"a larger one, up to {SEQUENCE_LIMIT}")
    return end


def _policy_of(note: bytes, before: Policy | None) -> Policy:
    content, _, signatures = note.partition(b"\n")
    policy = parse(content)
    check_signed(policy, parse_signatures(signatures), before)
    return policy
