"""Ed25519 keys and shared keys, and the files they live in.

Rules:
1. A private key is one PKCS #8 PEM file, not encrypted, mode 0600: its protection is that nobody else can open it.
   A shared key, which two sides of a link hold, is 64 hexadecimal digits and a newline, protected in the same way.
2. A file that its group or others may open in any way is refused, on writing before the key is in it.
3. A key file is never overwritten.
4. What reads and writes private keys loads its library itself: the gate, which only verifies, does without.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bitweir_metering.durable import sync_directory
from bitweir_metering.errors import KeyFileError

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SHARED_KEY_BYTES: Final = 32
# A PKCS #8 PEM file of an Ed25519 key has 119 bytes; the rest is room for text around it.
KEY_FILE_BYTES_MAX: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# The points of order 1, 2, 4 and 8 in all their encodings, without the sign bit. For such a key anybody can make
# signatures: "all zeros", the usual placeholder, is one of them.
_FIELD: Final = 2**255 - 19
_EIGHTH: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER: Final = frozenset({0, 1, _EIGHTH, _FIELD - _EIGHTH, _FIELD - 1, _FIELD, _FIELD + 1})


def is_public_key(content: bytes) -> bool:
    """Return whether the bytes can be a public key: 32 of them, and not one for which anybody can sign."""
    if type(content) is not bytes or len(content) != PUBLIC_KEY_BYTES:
        return False
    return int.from_bytes(content, "little") & ~(1 << 255) not in _SMALL_ORDER


def public_key(private: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public key."""
    return private.public_key().public_bytes_raw()


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether this key made this signature of this message (RFC 8032, Ed25519)."""
    if not is_public_key(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def new(path: Path) -> bytes:
    """Make a key, write it to a new file, durably, and return the public key.

    Raises:
        KeyFileError: there is a file already, or none can be written that is closed to others.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - rule 4

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(path, pem)
    return public_key(private)


def new_shared(path: Path) -> None:
    """Make a shared key and write it to a new file, durably.

    Raises:
        KeyFileError: there is a file already, or none can be written that is closed to others.
    """
    _write_new(path, os.urandom(SHARED_KEY_BYTES).hex().encode() + b"\n")


def load_shared(path: Path) -> bytes:
    """Read a shared key, 32 bytes.

    Raises:
        KeyFileError: no such file, others may open it, or it holds no shared key.
    """
    content = _read_closed(path, "bitweir keys shared makes one")
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * SHARED_KEY_BYTES), content):
        raise KeyFileError(f"{path} holds no shared key", remedy="bitweir keys shared makes one")
    return bytes.fromhex(content.decode("ascii"))


def _write_new(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists", remedy="name a new file; keys are never overwritten") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}", remedy="name a file elsewhere") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            _check_closed(descriptor, path)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        sync_directory(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"cannot write {path}: {error.strerror}", remedy="name a file elsewhere") from error
    except KeyFileError:
        path.unlink(missing_ok=True)
        raise


def load(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        KeyFileError: no such file, others may open it, or it holds no Ed25519 key that needs no password.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - rule 4

    remedy = "bitweir keys new makes one"
    content = _read_closed(path, remedy)
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise KeyFileError(f"{path} is no unencrypted PKCS #8 PEM file", remedy=remedy) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind than Ed25519", remedy=remedy)
    return private


def _read_closed(path: Path, remedy: str) -> bytes:
    """Return the content of a file that nobody else may open."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _check_closed(descriptor, path)
            content = os.read(descriptor, KEY_FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}", remedy=remedy) from error
    if len(content) > KEY_FILE_BYTES_MAX:
        raise KeyFileError(f"{path} is no key file: longer than {KEY_FILE_BYTES_MAX} bytes", remedy=remedy)
    return content


def _check_closed(descriptor: int, path: Path) -> None:
    """Look at the open file, not at its name, so that nobody can exchange it in between."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is not a file", remedy="name a key file")
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(
            f"others may open {path}: mode {mode:04o}",
            remedy=f"chmod 600 {path}, and think about whether somebody has read it",
        )
