"""Where a witness keeps the last checkpoint it signed: durable before the signature leaves.

    STATE_DIR/checkpoint    64 B signature of the witness, then the checkpoint (witness.py)
    KEY.witness             beside the key file: this key has a store, so it never gets a second one

Rules:
1. Write a temporary file, fsync it, rename it, fsync the directory; only then the signature is returned.
2. Any error on the way closes the store for good in this process. Nothing is tried again.
3. A store that is missing, damaged or another key's is refused. A witness that lost its memory must be retired with its
   key: started anew it would sign a ledger that was rolled back. So only `create` starts from nothing, once for a key.
4. One process at a time, held by a lock of the directory.
"""

import fcntl
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering import keys
from bitweir_metering.durable import sync_directory
from bitweir_metering.errors import CheckpointError, WitnessError
from bitweir_metering.witness import CHECKPOINT_BYTES_MAX, Checkpoint, Cosignature, Witness, parse

STATE_NAME: Final = "checkpoint"
TEMPORARY_NAME: Final = "checkpoint.new"
CLAIM_SUFFIX: Final = ".witness"
_BYTES_MAX: Final = keys.SIGNATURE_BYTES + CHECKPOINT_BYTES_MAX
_RETIRE: Final = (
    "a witness that lost its memory must be retired: have a policy signed that names a new key, and make a new store"
)


class WitnessStore:
    """An open store; `create` and `open` make one, `close` lets it go.

    Args:
        directory: of the store.
        descriptor: that directory, open and locked; this object closes it.
        witness: the state that it holds.
    """

    def __init__(self, directory: Path, descriptor: int, witness: Witness) -> None:
        self._directory = directory
        self._descriptor = descriptor
        self._witness = witness
        self._closed = ""

    @classmethod
    def create(cls, directory: Path, key_file: Path, lineage: str, link: str) -> "WitnessStore":
        """Make the store of a new witness of one log, and return it open.

        Raises:
            CheckpointError: no name of a lineage or link.
            KeyFileError: no private key in the file.
            WitnessError: there is a store already, the key has had one, or nothing can be written.
        """
        private, empty = keys.load(key_file), Checkpoint.empty(lineage, link)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable(directory, error) from error
        with ExitStack() as on_error:
            descriptor = _locked(directory)
            on_error.callback(os.close, descriptor)
            if (directory / STATE_NAME).exists():
                raise WitnessError(f"there is a witness in {directory}", remedy="start it without --new")
            _claim(key_file)
            store = cls(directory, descriptor, Witness(private, empty))
            store._keep()
            sync_directory(directory.absolute().parent)
            on_error.pop_all()
        return store

    @classmethod
    def open(cls, directory: Path, key_file: Path) -> "WitnessStore":
        """Open the store of this key.

        Raises:
            KeyFileError: no private key in the file.
            WitnessError: no store, in use elsewhere, damaged, another key's, or it cannot be written.
        """
        private = keys.load(key_file)
        with ExitStack() as on_error:
            descriptor = _locked(directory)
            on_error.callback(os.close, descriptor)
            store = cls(directory, descriptor, Witness(private, _read(directory, descriptor, private)))
            # What is there was perhaps renamed just before a crash: make it durable before anybody is told of it.
            store._keep()
            on_error.pop_all()
        return store

    def __enter__(self) -> "WitnessStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def key(self) -> bytes:
        """The witness's public key."""
        return self._witness.key

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint that is durable.

        Raises:
            WitnessError: the store is closed.
        """
        self._check_open()
        return self._witness.last

    def signed_last(self) -> Cosignature:
        """Return the signature of the last checkpoint.

        Raises:
            WitnessError: the store is closed.
        """
        self._check_open()
        return self._witness.signed_last()

    def cosign(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> Cosignature:
        """Sign what follows the last checkpoint; return the signature when that is durable.

        Raises:
            CosignError: refused; nothing changed.
            WitnessError: it could not be kept, or the store is closed; no signature was made for the caller.
        """
        self._check_open()
        cosignature = self._witness.cosign(checkpoint, proof)
        self._keep()
        return cosignature

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._closed = -1, self._closed or "closed by its owner"

    def _check_open(self) -> None:
        if self._closed:
            raise WitnessError(f"{self._directory} is closed: {self._closed}", remedy="find out why, then start again")

    def _keep(self) -> None:
        """Make the state durable. Whatever interrupts this, be it Ctrl-C, leaves the store closed."""
        self._closed = "keeping a checkpoint was interrupted"
        content = self._witness.signed_last().signature + self._witness.last.canonical()
        try:
            if not os.path.samestat(self._directory.stat(), os.fstat(self._descriptor)):
                raise OSError("the directory was moved or replaced")
            _write(self._descriptor, content)
        except OSError as error:
            self._closed = f"a checkpoint could not be kept: {error}"
            raise WitnessError(f"{self._directory}: {self._closed}", remedy="find out why, then start again") from error
        self._closed = ""


def _write(directory: int, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(TEMPORARY_NAME, flags, 0o600, dir_fd=directory)
    try:
        written = os.write(descriptor, content)
        if written != len(content):
            raise OSError(f"{written} of {len(content)} bytes were written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(TEMPORARY_NAME, STATE_NAME, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _locked(directory: Path) -> int:
    """Return the directory, open, and locked until this descriptor is closed."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise WitnessError(f"{directory} is in use: {error.strerror}", remedy="one process at a time") from error
    return descriptor


def _read(directory: Path, descriptor: int, private: Ed25519PrivateKey) -> Checkpoint:
    """Return the checkpoint that was kept, if this key signed it."""
    try:
        file = os.open(STATE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        try:
            content = os.read(file, _BYTES_MAX + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise WitnessError(f"no checkpoint in {directory}: {error.strerror}", remedy=_RETIRE) from error
    signature, canonical = content[: keys.SIGNATURE_BYTES], content[keys.SIGNATURE_BYTES :]
    try:
        checkpoint = parse(canonical)
        is_sound = Cosignature(keys.public_key(private), signature).is_of(checkpoint)
    except CheckpointError as error:
        raise WitnessError(f"{directory} is damaged: {error}", remedy=_RETIRE) from error
    if not is_sound:
        raise WitnessError(f"{directory} is damaged, or another key's", remedy=f"use its own key; {_RETIRE}")
    return checkpoint


def _claim(key_file: Path) -> None:
    """Note, durably, that this key has a store: it gets no second one."""
    claim = key_file.with_name(key_file.name + CLAIM_SUFFIX)
    try:
        descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(claim.absolute().parent)
    except FileExistsError as error:
        raise WitnessError(f"{key_file} had a store before: {claim} says so", remedy=_RETIRE) from error
    except OSError as error:
        raise _unusable(claim, error) from error


def _unusable(path: Path, error: OSError) -> WitnessError:
    return WitnessError(f"cannot use {path}: {error.strerror or error}", remedy="name a directory that can be written")
