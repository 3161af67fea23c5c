"""Key files: nobody else can open them, none is overwritten, and a key for which anybody can sign is none."""

import base64
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bitweir_metering import keys
from bitweir_metering.errors import KeyFileError

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493


def pem(private: object, encryption: object = None) -> bytes:
    encryption = encryption or serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def of_kind(private: ed25519.Ed25519PrivateKey, last: int) -> bytes:
    """Return the key's file with another last byte in the number that says its kind: 1.3.101.112 is Ed25519."""
    lines = pem(private).splitlines()
    content = base64.b64decode(lines[1]).replace(b"\x2b\x65\x70", bytes([0x2B, 0x65, last]))
    return b"\n".join([lines[0], base64.b64encode(content), lines[2], b""])


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def wide_open() -> Iterator[None]:
    """Let new files be open to all where nobody says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide_open")
def test_a_new_key_signs_and_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "alice.pem"
    public = keys.new(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    private = keys.load(path)
    assert keys.public_key(private) == public
    assert keys.verify(public, private.sign(b"x"), b"x")
    assert keys.new(tmp_path / "bob.pem") != public


def test_a_strict_umask_does_not_lock_the_owner_out(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        keys.new(tmp_path / "alice.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "alice.pem").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "alice.pem", b"precious")
    (tmp_path / "link.pem").symlink_to(tmp_path / "nowhere.pem")
    for name in ("alice.pem", "link.pem", "."):
        with pytest.raises(KeyFileError, match="exists") as caught:
            keys.new(tmp_path / name)
        assert caught.value.remedy
    assert path.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere.pem").exists()


def test_a_key_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot write .*: No such file") as caught:
        keys.new(tmp_path / "missing" / "alice.pem")
    assert caught.value.remedy


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_half_a_key_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(KeyFileError, match="No space left on device"):
        keys.new(tmp_path / "alice.pem")
    assert not list(tmp_path.iterdir())


def test_a_key_and_its_name_are_durable_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        assert (tmp_path / "alice.pem").read_bytes().endswith(b"-----END PRIVATE KEY-----\n")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    keys.new(tmp_path / "alice.pem")
    assert synced == [str(tmp_path / "alice.pem"), str(tmp_path)]


def test_where_a_file_cannot_be_closed_to_others_no_key_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda descriptor, _: real(descriptor, 0o644))
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("written before it was looked at"))
    with pytest.raises(KeyFileError, match="others may open"):
        keys.new(tmp_path / "alice.pem")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_that_others_may_open(tmp_path: Path, bit: int) -> None:
    keys.new(tmp_path / "alice.pem")
    (tmp_path / "alice.pem").chmod(0o600 | bit)
    with pytest.raises(KeyFileError, match=f"others may open .*: mode {0o600 | bit:04o}") as caught:
        keys.load(tmp_path / "alice.pem")
    assert "chmod 600" in caught.value.remedy
    (tmp_path / "alice.pem").chmod(0o400)
    keys.load(tmp_path / "alice.pem")


def test_the_file_counts_and_not_the_link_to_it(tmp_path: Path) -> None:
    public = keys.new(tmp_path / "alice.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "alice.pem")
    assert keys.public_key(keys.load(tmp_path / "link.pem")) == public
    (tmp_path / "alice.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="others may open"):
        keys.load(tmp_path / "link.pem")


def test_files_that_hold_no_key(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    cases = {
        "empty.pem": (b"", "no unencrypted PKCS #8"),
        "text.pem": (b"hello", "no unencrypted PKCS #8"),
        "cut.pem": (pem(private)[:60], "no unencrypted PKCS #8"),
        "secret.pem": (pem(private, serialization.BestAvailableEncryption(b"x")), "no unencrypted PKCS #8"),
        "unknown.pem": (of_kind(private, 127), "no unencrypted PKCS #8"),
        "ed448.pem": (of_kind(private, 113), "no unencrypted PKCS #8"),
        "x25519.pem": (pem(x25519.X25519PrivateKey.generate()), "another kind than Ed25519"),
        "long.pem": (pem(private) + b"\n" * 4096, "longer than 4096 bytes"),
    }
    for name, (content, message) in cases.items():
        with pytest.raises(KeyFileError, match=message) as caught:
            keys.load(written(tmp_path / name, content))
        assert caught.value.remedy
    keys.load(written(tmp_path / "padded.pem", pem(private) + b"\n" * (4096 - len(pem(private)))))


def test_what_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pem", 0o600)
    for name, message in (("missing.pem", "cannot read"), ("pipe.pem", "is not a file"), (".", "is not a file")):
        with pytest.raises(KeyFileError, match=message) as caught:
            keys.load(tmp_path / name)
        assert caught.value.remedy


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    keys.new(tmp_path / "alice.pem")
    keys.load(tmp_path / "alice.pem")
    (tmp_path / "alice.pem").chmod(0o644)
    for path in (tmp_path, tmp_path / "alice.pem"):
        with pytest.raises(KeyFileError):
            keys.load(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# RFC 8032, section 7.1, tests 1 and 2.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_signatures(public: str, message: str, signature: str) -> None:
    key, text, good = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert keys.verify(key, good, text)
    assert not keys.verify(key, good, text + b"x")
    assert not keys.verify(key, good + b"x", text)
    assert not keys.verify(key, good[:-1], text)
    assert not keys.verify(key, b"", text)
    assert not keys.verify(key[:-1], good, text)
    assert not keys.verify(bytes([key[0] ^ 1]) + key[1:], good, text)
    # The same signature with S + L is another text for the same thing; RFC 8032 refuses it.
    larger = (int.from_bytes(good[32:], "little") + ORDER).to_bytes(32, "little")
    assert not keys.verify(key, good[:32] + larger, text)


def added(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    """Return the sum of two points of the curve -x^2 + y^2 = 1 + d x^2 y^2 over the field."""
    (x1, y1), (x2, y2) = left, right
    product = -121665 * pow(121666, -1, FIELD) * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, FIELD)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, FIELD)
    return x % FIELD, y % FIELD


def small_order_points() -> set[tuple[int, int]]:
    """Return the points whose order divides 8: points of the curve, multiplied by the order of the large subgroup."""
    d, found, y = -121665 * pow(121666, -1, FIELD), set(), 2
    while len(found) < 8:
        y += 1
        square = (y * y - 1) * pow(d * y * y + 1, -1, FIELD) % FIELD
        x = pow(square, (FIELD + 3) // 8, FIELD)
        x = x if x * x % FIELD == square else x * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
        if x * x % FIELD == square:
            result, power = (0, 1), (x, y)
            for bit in range(ORDER.bit_length()):
                result = added(result, power) if ORDER >> bit & 1 else result
                power = added(power, power)
            found.add(result)
    return found


def test_keys_for_which_anybody_can_sign_are_refused() -> None:
    points = small_order_points()
    encodings = {
        y + lift | sign << 255 for _, y in points for lift in (0, FIELD) for sign in (0, 1) if y + lift < 2**255
    }
    assert len(encodings) == 14
    forged, broken = bytes([1]) + bytes(63), 0
    for encoding in encodings:
        key = encoding.to_bytes(32, "little")
        assert not keys.is_public_key(key)
        for number in range(64):
            message = b"message %d" % number
            assert not keys.verify(key, forged, message)
            with suppress(InvalidSignature):
                Ed25519PublicKey.from_public_bytes(key).verify(forged, message)
                broken += 1
    # Without the refusal the same bytes would be a signature of many messages: the danger is real.
    assert broken > 64


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), "x" * 32, None, bytearray(range(32))], ids=repr)
def test_what_is_no_public_key(content: object) -> None:
    assert not keys.is_public_key(content)
    assert keys.is_public_key(bytes(range(32)))
