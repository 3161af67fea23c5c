"""How a ledger's side asks a witness to sign; and the messages, which witness_server.py reads too.

    request    version (= 1), kind, 4 B number, 1 B count of hashes; of COSIGN then the checkpoint and these hashes
    answer     version (= 1), status, 1 B reason, 4 B number of the request; of COSIGNED, LATEST and REFUSED then the
               64 B signature of the last checkpoint and the checkpoint itself                     all big endian

Rules:
1. One message, one datagram of a local SOCK_SEQPACKET socket, of at most `REQUEST_BYTES_MAX`, `ANSWER_BYTES_MAX` bytes.
   Anything else ends the connection.
2. An answer that is not to the question, or not signed by the witness's key, closes the client and counts as none.
3. A refusal comes with the signed checkpoint that it rests on, so that others can see who is wrong.
4. After no answer the witness may have signed: ask for the latest before the next proof.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final

from bitweir_metering import keys, local_socket
from bitweir_metering.errors import CheckpointError, CosignError, WitnessError
from bitweir_metering.merkle import HASH_BYTES, PROOF_HASHES_MAX
from bitweir_metering.witness import CHECKPOINT_BYTES_MAX, Checkpoint, Cosignature, Refusal, parse

VERSION: Final = 1
REQUEST: Final = struct.Struct(">BBIB")
ANSWER: Final = struct.Struct(">BBBI")
REQUEST_BYTES_MAX: Final = REQUEST.size + CHECKPOINT_BYTES_MAX + HASH_BYTES * PROOF_HASHES_MAX
ANSWER_BYTES_MAX: Final = ANSWER.size + keys.SIGNATURE_BYTES + CHECKPOINT_BYTES_MAX
# Two fsyncs take milliseconds; of a busy disk they may take seconds.
TIMEOUT_S: Final = 10.0
_NUMBERS: Final = 1 << 32


class Request(IntEnum):
    """What is asked for."""

    COSIGN = 1
    """Sign this checkpoint."""
    LATEST = 2
    """Show the last checkpoint you signed."""


class Status(IntEnum):
    """What the witness says to a request."""

    COSIGNED = 0
    """Signed, and durable."""
    LATEST = 1
    """This is the last."""
    REFUSED = 2
    """It does not follow the last one; the reason is a `witness.Refusal`."""
    DAMAGED = 3
    """No request of this version; the connection ends."""
    CLOSED = 4
    """The witness could not keep a checkpoint; it ends."""


class WitnessClient:
    """One connection to a witness.

    Args:
        path: the witness's socket.
        key: its public key, from the policy.
        lineage: the log that it watches.
        link: likewise.
        timeout_s: how long to wait for an answer.

    Raises:
        WitnessError: nobody answers there.
    """

    def __init__(self, path: Path, key: bytes, lineage: str, link: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._key = key
        self._log = (lineage, link)
        self._number = 0
        try:
            self._socket = local_socket.connected(path, timeout_s)
        except OSError as error:
            raise WitnessError(f"no witness at {path}: {error}", remedy="start it: witness_server.py") from error

    def __enter__(self) -> "WitnessClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        """Return the witness's signature of a checkpoint, when the witness has it durably.

        Args:
            checkpoint: what the ledger says it is.
            proof: consistency proof from the witness's last checkpoint, see `latest`, to this one.

        Raises:
            CheckpointError: the proof is too long to be one; nothing was sent.
            CosignError: refused. Its `reason` is a `Refusal`.
            WitnessError: no such answer came; this client is closed.
        """
        body = checkpoint.canonical() + b"".join(proof)
        if len(proof) > PROOF_HASHES_MAX or any(len(one) != HASH_BYTES for one in proof):
            raise CheckpointError(f"{len(proof)} hashes are no proof", remedy="make it with merkle.Tree")
        status, reason, content = self._asked(Request.COSIGN, len(proof), body)
        cosignature, last = self._signed(content)
        if status is Status.REFUSED and reason in set(Refusal):
            raise CosignError(
                f"the witness at {self._path} refuses {checkpoint.size} entries: {Refusal(reason).name}; "
                f"it has signed {last.size}",
                reason=reason,
                remedy="keep the ledger as it is, and compare it with the witness's last checkpoint",
            )
        if status is not Status.COSIGNED or reason or last != checkpoint:
            raise self._useless(f"{status.name} of {last.size} entries")
        return cosignature

    def latest(self) -> Checkpoint:
        """Return the last checkpoint that the witness signed; of a new one, of no entries.

        Raises:
            WitnessError: no such answer came; this client is closed.
        """
        status, reason, content = self._asked(Request.LATEST, 0, b"")
        _, last = self._signed(content)
        if status is not Status.LATEST or reason:
            raise self._useless(status.name)
        return last

    def _asked(self, kind: Request, count: int, body: bytes) -> tuple[Status, int, bytes]:
        """Send a request; return status, reason and the rest of the answer."""
        self._number = (self._number + 1) % _NUMBERS
        try:
            self._socket.send(REQUEST.pack(VERSION, kind, self._number, count) + body)
            content = self._socket.recv(ANSWER_BYTES_MAX + 1)
        except OSError as error:
            self.close()
            raise WitnessError(f"{self._path} does not answer: {error}", remedy="look at the witness") from error
        if ANSWER.size <= len(content) <= ANSWER_BYTES_MAX:
            version, status, reason, number = ANSWER.unpack_from(content)
            if version == VERSION and status in set(Status) and number == self._number:
                if status in {Status.DAMAGED, Status.CLOSED}:
                    raise self._useless(Status(status).name)
                return Status(status), reason, content[ANSWER.size :]
        raise self._useless(f"no answer to the question: {content[:8].hex() or 'end'}")

    def _signed(self, content: bytes) -> tuple[Cosignature, Checkpoint]:
        """Return what an answer shows, if it is of this log and the witness has signed it."""
        try:
            cosignature = Cosignature(self._key, content[: keys.SIGNATURE_BYTES])
            last = parse(content[keys.SIGNATURE_BYTES :])
        except CheckpointError as error:
            raise self._useless(f"nothing that is signed: {error}") from error
        if (last.lineage, last.link) != self._log or not cosignature.is_of(last):
            raise self._useless("another log's checkpoint, or not signed by the witness's key")
        return cosignature, last

    def _useless(self, text: str) -> WitnessError:
        self.close()
        return WitnessError(f"{self._path} says {text}", remedy="look at the witness; until then nothing may leave")
