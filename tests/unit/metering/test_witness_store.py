"""What a witness signed is durable before the signature leaves, and a store that forgot is refused."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitweir_metering import keys
from bitweir_metering.errors import CheckpointError, CosignError, KeyFileError, WitnessError
from bitweir_metering.witness_store import WitnessStore
from tests.unit.metering.example_log import Log

LOG = Log().reserve(800, 1600, 0, 2400, 800)
NAMES = (LOG.lineage, LOG.link)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.new(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def store(tmp_path: Path, key: Path) -> Iterator[WitnessStore]:
    with WitnessStore.create(tmp_path / "state", key, *NAMES) as store:
        yield store


def reopened(tmp_path: Path, key: Path) -> WitnessStore:
    return WitnessStore.open(tmp_path / "state", key)


def test_a_store_remembers(tmp_path: Path, key: Path, store: WitnessStore) -> None:
    assert store.last == LOG.at[0]
    cosignature = store.cosign(LOG.at[4], LOG.proof(0, 4))
    store.close()
    with reopened(tmp_path, key) as again:
        assert (again.last, again.signed_last(), again.key) == (LOG.at[4], cosignature, cosignature.key)
        with pytest.raises(CosignError, match="SMALLER"):
            again.cosign(LOG.at[3], ())
        assert again.cosign(LOG.at[6], LOG.proof(4, 6)).is_of(LOG.at[6])
    state = tmp_path / "state" / "checkpoint"
    assert [path.name for path in state.parent.iterdir()] == ["checkpoint"]
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
    assert state.read_bytes()[64:] == LOG.at[6].canonical()


def test_what_is_signed_is_on_disk_first_in_this_order(store: WitnessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(name: str, call: Callable[..., Any], describe: Callable[..., str]) -> None:
        def traced(*arguments: Any, **options: Any) -> Any:
            seen.append(f"{name} {describe(*arguments)}")
            return call(*arguments, **options)

        monkeypatch.setattr(os, name, traced)

    def target(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    noted("write", os.write, lambda descriptor, _: target(descriptor))
    noted("fsync", os.fsync, target)
    noted("rename", os.rename, lambda old, new: f"{old} {new}")
    store.cosign(LOG.at[4], LOG.proof(0, 4))
    kept = ["write checkpoint.new", "fsync checkpoint.new", "rename checkpoint.new checkpoint", "fsync state"]
    assert seen == kept


@pytest.mark.parametrize(
    ("name", "number"),
    [("open", 1), ("write", 1), ("fsync", 1), ("rename", 1), ("fsync", 2), ("open", 2), ("write", 2), ("rename", 2)],
)
def test_no_signature_leaves_a_store_that_cannot_keep_it(
    tmp_path: Path, store: WitnessStore, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    before = store.cosign(LOG.at[2], LOG.proof(0, 2))
    calls = 0

    def broken(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(5, "Input/output error")
        return real(*arguments, **options)

    real = getattr(os, name)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        if number == 2 and name != "fsync":
            store.cosign(LOG.at[3], LOG.proof(2, 3))
            size = 3
        else:
            size = 2
        with pytest.raises(WitnessError, match=r"could not be kept: .*Input/output error"):
            store.cosign(LOG.at[4], LOG.proof(size, 4))
    # The disk is well again, and still nothing is tried or told from memory.
    for call in (lambda: store.cosign(LOG.at[4], ()), store.signed_last, lambda: store.last):
        with pytest.raises(WitnessError, match="is closed"):
            call()
    store.close()
    with reopened(tmp_path, tmp_path / "key") as again:
        assert again.last.size == (4 if (name, number) == ("fsync", 2) else size)
        assert before.is_of(LOG.at[2])


def test_a_short_write_is_an_error(store: WitnessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:-1]))
    with pytest.raises(WitnessError, match="bytes were written"):
        store.cosign(LOG.at[4], LOG.proof(0, 4))


def test_an_interrupt_leaves_the_store_closed(store: WitnessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.cosign(LOG.at[4], LOG.proof(0, 4))
    with pytest.raises(WitnessError, match="was interrupted"):
        store.signed_last()


def test_what_was_renamed_before_a_crash_is_made_durable_before_it_is_told(
    tmp_path: Path, key: Path, store: WitnessStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(WitnessError, match="could not be kept"):
        reopened(tmp_path, key)
    monkeypatch.undo()
    reopened(tmp_path, key).close()  # the lock was let go


def test_a_damaged_store_is_refused(tmp_path: Path, key: Path, store: WitnessStore) -> None:
    store.cosign(LOG.at[4], LOG.proof(0, 4))
    store.close()
    state = tmp_path / "state" / "checkpoint"
    sound = state.read_bytes()
    flipped = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in range(0, len(sound), 7)]
    for content in (b"", sound[:63], sound[:64], sound[:-1], sound + b"\0", sound * 3, *flipped):
        state.write_bytes(content)
        with pytest.raises(WitnessError, match="damaged") as caught:
            reopened(tmp_path, key)
        assert "lost its memory must be retired" in caught.value.remedy
    state.write_bytes(sound)
    reopened(tmp_path, key).close()


def test_a_missing_store_is_refused_and_its_key_gets_no_other(tmp_path: Path, key: Path, store: WitnessStore) -> None:
    store.close()
    state = tmp_path / "state" / "checkpoint"
    state.unlink()
    with pytest.raises(WitnessError, match="no checkpoint in") as caught:
        reopened(tmp_path, key)
    assert "must be retired" in caught.value.remedy
    for directory in (tmp_path / "state", tmp_path / "elsewhere"):
        with pytest.raises(WitnessError, match="had a store before") as caught:
            WitnessStore.create(directory, key, *NAMES)
        assert "must be retired" in caught.value.remedy
    for nothing in (state.mkdir, lambda: (state.rmdir(), state.symlink_to(tmp_path / "key"))):
        nothing()
        with pytest.raises(WitnessError, match="no checkpoint in"):
            reopened(tmp_path, key)
    with pytest.raises(WitnessError, match="cannot use"):
        WitnessStore.open(tmp_path / "nowhere", key)


def test_a_pipe_is_no_store(tmp_path: Path, key: Path, store: WitnessStore) -> None:
    store.close()
    (tmp_path / "state" / "checkpoint").unlink()
    os.mkfifo(tmp_path / "state" / "checkpoint")
    with pytest.raises(WitnessError, match="damaged"):
        reopened(tmp_path, key)


def test_a_store_is_not_made_over_another(tmp_path: Path, store: WitnessStore) -> None:
    store.close()
    keys.new(tmp_path / "second")
    with pytest.raises(WitnessError, match="there is a witness in"):
        WitnessStore.create(tmp_path / "state", tmp_path / "second", *NAMES)
    assert not (tmp_path / "second.witness").exists()
    with pytest.raises(WitnessError, match="or another key's"):
        WitnessStore.open(tmp_path / "state", tmp_path / "second")


def test_a_store_needs_a_key_a_name_and_a_place(tmp_path: Path, key: Path) -> None:
    with pytest.raises(KeyFileError):
        WitnessStore.create(tmp_path / "state", tmp_path / "none", *NAMES)
    with pytest.raises(KeyFileError):
        WitnessStore.open(tmp_path / "state", tmp_path / "none")
    with pytest.raises(CheckpointError):
        WitnessStore.create(tmp_path / "state", key, "No Name", "x")
    for place in (tmp_path / "a" / "b", key):
        with pytest.raises(WitnessError, match="cannot use"):
            WitnessStore.create(place, key, *NAMES)
    assert not (tmp_path / "key.witness").exists()


def test_a_key_whose_claim_cannot_be_kept_gets_no_store(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(WitnessError, match="No space left"):
        WitnessStore.create(tmp_path / "state", key, *NAMES)
    assert not (tmp_path / "state" / "checkpoint").exists()


def test_one_process_at_a_time(tmp_path: Path, key: Path, store: WitnessStore) -> None:
    with pytest.raises(WitnessError, match="is in use"):
        reopened(tmp_path, key)
    store.close()
    store.close()
    with reopened(tmp_path, key), pytest.raises(WitnessError, match="closed by its owner"):
        store.signed_last()


def test_a_directory_that_was_exchanged_closes_the_store(tmp_path: Path, store: WitnessStore) -> None:
    (tmp_path / "state").rename(tmp_path / "moved")
    (tmp_path / "state").mkdir()
    with pytest.raises(WitnessError, match="moved or replaced"):
        store.cosign(LOG.at[4], LOG.proof(0, 4))
    assert not list((tmp_path / "state").iterdir())


def test_the_lock_is_of_the_directory_itself(tmp_path: Path, store: WitnessStore) -> None:
    descriptor = os.open(tmp_path / "state", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    assert store.last == LOG.at[0]
