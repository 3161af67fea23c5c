"""Who may use the API: a file of hashed keys, a token bucket for each name, and the addresses that need them.

Rules:
1. The file holds `name sha256-hex-of-key` a line: whoever reads it cannot call. Keys are long and random, never chosen.
2. Every hash is compared, in constant time, whichever fits.
3. An address other than loopback is not listened on without keys.
"""

import hashlib
import hmac
import ipaddress
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bitweir_services.errors import ApiKeysError

FILE_BYTES_MAX: Final = 256 * 1024
# Each request is compared with all of them.
KEY_COUNT_MAX: Final = 1000
KEY_CHARACTERS_MAX: Final = 256
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# Others may not even read: a name is somebody's, and a hash shows when a key is exchanged.
OTHERS: Final = 0o077
REMEDY: Final = "see docs/reference/api.md for how to make one"


class ApiKeys:
    """The keys of everybody who may call.

    Args:
        entries: pairs of a name and the SHA-256 of a key. A name may have several keys, a key has one name.

    Raises:
        ApiKeysError: no entries, too many, a name or hash is malformed, or a key is there twice.
    """

    def __init__(self, entries: Iterable[tuple[str, bytes]]) -> None:
        self._entries = tuple(entries)
        if not 0 < len(self._entries) <= KEY_COUNT_MAX:
            raise ApiKeysError(f"{len(self._entries)} API keys", remedy=f"have 1 to {KEY_COUNT_MAX}")
        for index, (name, digest) in enumerate(self._entries):
            if not NAME.fullmatch(name) or len(digest) != hashlib.sha256().digest_size:
                raise ApiKeysError(
                    f"entry {index + 1} of the API keys is malformed",
                    remedy="use names of 1 to 64 characters a-z, 0-9, dot, hyphen, underscore; and a SHA-256",
                )
        if len({digest for _, digest in self._entries}) < len(self._entries):
            raise ApiKeysError("an API key is there twice", remedy="keep one of the lines")

    @classmethod
    def read(cls, path: Path) -> "ApiKeys":
        """Read a file that nobody else may open: `name sha256-hex-of-key` a line; empty lines and `#` are skipped.

        Raises:
            ApiKeysError: the file cannot be read, others may open it, it is too long, or a line is malformed.
        """
        return cls(_entries(path, _read_closed(path)))

    def name_of(self, key: str) -> str | None:
        """Return whose key this is, or None."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for name, expected in self._entries:
            if hmac.compare_digest(digest, expected):
                found = name
        return found if len(key) <= KEY_CHARACTERS_MAX else None


class RateLimit:
    """A token bucket for each name.

    Args:
        per_minute: answers that a name may ask for a minute, in the long run.
        burst: answers at once, at most.
        clock: seconds, monotonic.

    Raises:
        ApiKeysError: a limit is not positive.
    """

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < per_minute < math.inf or burst < 1:
            raise ApiKeysError(
                f"a rate limit of {per_minute} a minute, {burst} at once", remedy="allow more than nothing"
            )
        self._per_s = per_minute / 60
        self._burst = burst
        self._clock = clock
        # Name -> (tokens, when). As many as there are keys, or one.
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, count: int = 1) -> float:
        """Take `count` answers from a name's bucket, all or none.

        Returns:
            0 if they were there; else the seconds after which they will be, infinite if never.
        """
        now = self._clock()
        tokens, since = self._buckets.get(name, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        taken = tokens >= count
        self._buckets[name] = (tokens - count if taken else tokens, now)
        if taken:
            return 0.0
        return (count - tokens) / self._per_s if count <= self._burst else math.inf


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; a name other than `localhost` might be any address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_address(host: str, keys: ApiKeys | None) -> None:
    """Refuse to listen where others can call without a key.

    Raises:
        ApiKeysError: the address is not loopback, and there are no keys.
    """
    if keys is None and not is_loopback(host):
        raise ApiKeysError(
            f"listening on {host!r:.80} without API keys lets anybody spend the budget",
            remedy="give a file of keys, or listen on 127.0.0.1",
        )


def _read_closed(path: Path) -> str:
    """Return the text of a file that nobody else may open."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ApiKeysError(f"{path} is not a file", remedy=REMEDY)
            if status.st_mode & OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                raise ApiKeysError(f"others may open {path}: mode {mode:04o}", remedy=f"chmod 600 {path}")
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ApiKeysError(f"cannot read {path}: {error.strerror}", remedy=REMEDY) from error
    if len(content) > FILE_BYTES_MAX:
        raise ApiKeysError(f"{path} is longer than {FILE_BYTES_MAX} bytes", remedy=REMEDY)
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise ApiKeysError(f"{path} is not ASCII", remedy=REMEDY) from error


def _entries(path: Path, text: str) -> list[tuple[str, bytes]]:
    """Return the entries of a file's lines; of a wrong line only the number is told, it might be a key."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not DIGEST.fullmatch(words[1]):
            raise ApiKeysError(f"{path}, line {number}: not a name and 64 hexadecimal digits", remedy=REMEDY)
        entries.append((words[0], bytes.fromhex(words[1])))
    return entries
