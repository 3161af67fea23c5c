"""Keys that two sides of a link hold: one form, closed to others, never overwritten."""

import os
from pathlib import Path

import pytest

from bitweir_loadgen.cli import main
from bitweir_metering import keys
from bitweir_metering.errors import KeyFileError
from bitweir_metering.keys import load_shared, new_shared

KEY = bytes(range(32))


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_new_key_is_random_closed_and_read_back(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.key" for number in range(8)]
    before = os.umask(0)
    try:
        for path in paths:
            new_shared(path)
    finally:
        os.umask(before)
    found = [load_shared(path) for path in paths]
    assert len(set(found)) == 8
    for path, key in zip(paths, found, strict=True):
        assert path.read_bytes() == key.hex().encode() + b"\n"
        assert path.stat().st_mode & 0o7777 == 0o600


def test_its_form(tmp_path: Path) -> None:
    assert load_shared(written(tmp_path / "key", KEY.hex().encode() + b"\n")) == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        KEY,
        KEY.hex().encode(),
        KEY.hex().encode() + b"\r\n",
        KEY.hex().encode() + b"\n\n",
        b"\n" + KEY.hex().encode() + b"\n",
        b" " + KEY.hex().encode() + b"\n",
        KEY.hex().upper().encode() + b"\n",
        KEY.hex().encode()[:-1] + b"\n",
        KEY.hex().encode()[:-1] + b"g\n",
        KEY.hex().encode() + b"0\n",
        KEY.hex().encode() + b"00\n",
        b"0x" + KEY.hex().encode()[2:] + b"\n",
        "٠".encode() * 64 + b"\n",
        b"-----BEGIN PRIVATE KEY-----\n",
    ],
    ids=range(16),
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeyFileError, match="holds no shared key") as caught:
        load_shared(written(tmp_path / "key", content))
    assert "bitweir keys shared" in caught.value.remedy
    # An error names the file and not what is in it.
    assert KEY.hex()[8:] not in str(caught.value)


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="longer than 4096 bytes"):
        load_shared(written(tmp_path / "key", KEY.hex().encode() + b"\n" * 4096))


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_that_others_may_open_is_refused(tmp_path: Path, bit: int) -> None:
    new_shared(tmp_path / "key")
    (tmp_path / "key").chmod(0o600 | bit)
    with pytest.raises(KeyFileError, match=f"others may open .*: mode {0o600 | bit:04o}") as caught:
        load_shared(tmp_path / "key")
    assert "chmod 600" in caught.value.remedy
    (tmp_path / "key").chmod(0o400)
    load_shared(tmp_path / "key")


def test_what_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    keys.new(tmp_path / "private.pem")
    cases = {"missing": "cannot read", "pipe": "is not a file", ".": "is not a file", "private.pem": "no shared key"}
    for name, message in cases.items():
        with pytest.raises(KeyFileError, match=message) as caught:
            load_shared(tmp_path / name)
        assert caught.value.remedy


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_shared(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(KeyFileError, match="exists"):
            new_shared(tmp_path / name)
    with pytest.raises(KeyFileError, match="cannot write"):
        new_shared(tmp_path / "below" / "key")
    assert (tmp_path / "key").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_kept_is_not_left_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failed)
    with pytest.raises(KeyFileError, match="Input/output error"):
        new_shared(tmp_path / "key")
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_modes_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on vfat: every file is open to everybody, whatever it is set to."""
    real = os.fstat

    def open_to_all(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        return os.stat_result([found[0] | 0o077, *found[1:]])

    monkeypatch.setattr(os, "fstat", open_to_all)
    with pytest.raises(KeyFileError, match="others may open"):
        new_shared(tmp_path / "key")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_the_command_prints_no_key_and_overwrites_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["keys", "shared", "outer.key"])
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    before = load_shared(tmp_path / "outer.key")
    for words, message in ((("outer.key",), "outer.key exists"), (("below/key",), "cannot write below/key")):
        with pytest.raises(SystemExit) as caught:
            main(["keys", "shared", *words])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"bitweir: {message}")
        assert len(captured.err.splitlines()) == 1
    assert load_shared(tmp_path / "outer.key") == before
