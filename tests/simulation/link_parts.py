"""What the simulated link is made of: chance, a disk, witnesses behind bad lines, and bad networks. See link_world.py.

Rules:
1. One generator decides everything, so a seed is a whole world.
2. Every fault that strikes is counted under its name: tests see that none of them has become rare.
3. The parts below the gate are the production ones, on other disks and lines: `SimLedger` is `ledger.Ledger`.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

from bitweir_metering.entries import Chain, Row
from bitweir_metering.errors import LedgerError, WitnessError
from bitweir_metering.ledger import Ledger
from bitweir_metering.policy import NS_PER_MS
from bitweir_metering.witness import Checkpoint, Cosignature, Witness

# The highest chance of each fault; about half of them are off in a world. See where each name is used.
MOST: Final = {
    "crash": 0.03, "disk error": 0.01, "frame not sent": 0.05, "stall": 0.02, "clock jump": 0.005, "clock back": 0.004,
    "slow commit": 0.1, "frame lost": 0.3, "frame copied": 0.1, "frame delayed": 0.3, "frame damaged": 0.1,
    "frame injected": 0.1, "message lost": 0.4, "message copied": 0.2, "message delayed": 0.3, "message damaged": 0.2,
    "message replayed": 0.4, "question lost": 0.15, "answer lost": 0.15, "answer damaged": 0.1, "witness down": 0.05,
    "late permit": 0.05, "false alarm": 0.02, "rolled back": 0.6, "reboot": 0.3, "ledger not asked": 0.1,
    "term signal": 0.004, "kill": 0.006, "raise": 0.4, "unsigned": 0.5, "fork": 0.5,
}  # fmt: skip
# How long the gate waits for a witness: gate.WITNESS_TIMEOUT_S.
WITNESS_TIMEOUT_NS: Final = 500 * NS_PER_MS


class CrashError(Exception):
    """The gate's process ended here, between two effects."""


class Chance:
    """Which faults there are in this world, and when they strike."""

    def __init__(self, random: Random, counts: Counter[str]) -> None:
        self.random = random
        self.counts = counts
        self.of = {name: most * random.random() * (random.random() < 0.5) for name, most in MOST.items()}

    def strikes(self, name: str) -> bool:
        if self.of[name] and self.random.random() < self.of[name]:
            self.counts[name] += 1
            return True
        return False

    def end(self) -> None:
        """From here on nothing goes wrong."""
        self.of = dict.fromkeys(self.of, 0.0)


class Shell(Protocol):
    """What the parts ask of the world they are in."""

    chance: Chance

    def effect(self, place: str, took_ns: int) -> None:
        """Let time pass for the gate; it may crash here."""

    def written(self) -> None:
        """Something has become durable."""


class Disk:
    """What a crash leaves of the ledger: everything that was committed."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = list(rows)
        self.chain = Chain()
        for row in rows:
            self.chain.check(row)

    def commit(self, rows: Sequence[Row], chain: Chain) -> None:
        self.rows += rows
        self.chain = chain

    def crash(self, random: Random) -> None:
        """Power is lost."""


class SimLedger(Ledger):
    """The real ledger, but what it commits goes to a `Disk`, and reading and writing may fail."""

    def __init__(self, disk: Disk, shell: Shell) -> None:
        self._disk = disk
        self._shell = shell
        self._path = Path("simulated.ledger")
        self._chain = disk.chain
        self._process = os.getpid()
        self._closed = ""

    def hashes(self, start: int, count: int) -> list[bytes]:
        self._draft()
        return [bytes(row[-1]) for row in self._disk.rows[start : start + count]]

    def _commit(self, rows: Sequence[Row], chain: Chain, *, checkpoint: bool = False) -> None:
        self._closed = "a commit was interrupted"
        chance = self._shell.chance
        try:
            self._shell.effect("before commit", 0)
            self._fail()
            if rows:
                self._disk.commit(rows, chain)
                self._shell.written()
            self._fail()
            most_ns = (200 if chance.strikes("slow commit") else 2) * NS_PER_MS
            self._shell.effect("after commit", chance.random.randrange(most_ns))
        except OSError as error:
            self._closed = f"a commit failed: {error}"
            raise LedgerError(f"{self._path}: {self._closed}", remedy="find out why, then start again") from error
        self._chain = chain
        self._closed = ""

    def _fail(self) -> None:
        if self._shell.chance.strikes("disk error"):
            raise OSError(5, "simulated")


class WitnessLine:
    """A witness and the line to it. The witness keeps its state; a message each way may be lost or damaged."""

    def __init__(self, witness: Witness, shell: Shell) -> None:
        self.witness = witness
        self.is_up = True
        self._shell = shell

    def latest(self) -> Checkpoint:
        self._asked()
        self._answered()
        return self.witness.last

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        self._asked()
        answer = self.witness.cosign(checkpoint, proof)
        self._answered()
        if self._shell.chance.strikes("answer damaged"):
            return Cosignature(answer.key, bytes([answer.signature[0] ^ 1]) + answer.signature[1:])
        return answer

    def _asked(self) -> None:
        if not self.is_up or self._shell.chance.strikes("question lost"):
            self._timed_out()
        self._shell.effect("witness asked", self._shell.chance.random.randrange(NS_PER_MS))

    def _answered(self) -> None:
        if self._shell.chance.strikes("answer lost"):
            self._timed_out()
        self._shell.effect("witness answered", self._shell.chance.random.randrange(NS_PER_MS))

    def _timed_out(self) -> None:
        self._shell.effect("witness silent", WITNESS_TIMEOUT_NS)
        raise WitnessError("no answer", remedy="ask again later")


class Pipe:
    """A network in one direction: it loses, copies, delays (and so reorders), damages, and lets others put things in.

    Args:
        chance: of this world.
        what: "frame" or "message": the prefix of its faults' names.
        at: called with a delay in nanoseconds and what arrives then.
    """

    def __init__(self, chance: Chance, what: str, at: Callable[[int, bytes], Any]) -> None:
        self._chance = chance
        self._what = what
        self._at = at
        self._old: list[bytes] = []

    def send(self, content: bytes) -> None:
        chance, random = self._chance, self._chance.random
        if self._what == "message":
            self._old.append(content)
            if chance.strikes("message replayed"):
                self._at(random.randrange(NS_PER_MS), random.choice(self._old))
        elif chance.strikes("frame injected"):
            self._at(random.randrange(NS_PER_MS), random.randbytes(random.choice((0, 21, 23, 77, 1037, 1400))))
        if chance.strikes(f"{self._what} lost"):
            return
        for _ in range(1 + chance.strikes(f"{self._what} copied")):
            is_late = chance.strikes(f"{self._what} delayed")
            arrives = content
            if chance.strikes(f"{self._what} damaged"):
                place = random.randrange(len(content))
                arrives = content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
            self._at(random.randrange((800 if is_late else 3) * NS_PER_MS), arrives)
