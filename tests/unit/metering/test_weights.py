"""Measuring a checkpoint: all of its weights, and a size that can be had back."""

import random
import struct
import zlib
from pathlib import Path

import pytest

from bitweir_metering import weights
from bitweir_metering.errors import WeightsError


def silent(done_bytes: int, total_bytes: int) -> None:
    """Report nothing."""


def noise(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


def test_all_files_of_the_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "model-00001.safetensors").write_bytes(noise(3000, 1))
    (tmp_path / "model-00002.safetensors").write_bytes(noise(2000, 2))
    (tmp_path / "config.json").write_bytes(noise(500, 3))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "model.safetensors").write_bytes(noise(500, 4))
    (tmp_path / "folder.safetensors").mkdir()
    measured = weights.measure(tmp_path, silent)
    assert (measured.file_count, measured.size_bytes) == (2, 5000)
    assert measured.compressed_bytes >= 5000
    (tmp_path / "model-00003.safetensors").symlink_to(tmp_path / "more" / "model.safetensors")
    assert weights.measure(tmp_path, silent).size_bytes == 5500


@pytest.mark.parametrize(("form", "stride"), [("<f", 4), ("<H", 2), ("B", 1)])
def test_the_best_stride_counts(tmp_path: Path, form: str, stride: int) -> None:
    draw = random.Random(5)
    if form == "<f":
        values = [draw.gauss(0, 0.02) for _ in range(400_000)]
    elif form == "<H":  # bfloat16: the upper half of a float32
        values = [struct.unpack("<I", struct.pack("<f", draw.gauss(0, 0.02)))[0] >> 16 for _ in range(400_000)]
    else:
        values = [draw.randrange(16) for _ in range(400_000)]
    content = b"".join(struct.pack(form, value) for value in values)
    (tmp_path / "model.safetensors").write_bytes(content)
    measured = weights.measure(tmp_path, silent)
    assert measured.stride == stride
    # What was counted are bytes of streams that give the content back.
    planes = [zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY) for _ in range(stride)]
    streams = [plane.compress(content[offset::stride]) + plane.flush() for offset, plane in enumerate(planes)]
    restored = bytearray(len(content))
    for offset, stream in enumerate(streams):
        restored[offset::stride] = zlib.decompress(stream)
    assert bytes(restored) == content
    assert measured.compressed_bytes == sum(map(len, streams)) < len(content) * 0.95


def test_progress_runs_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(weights.CHUNK_BYTES + 1))
    (tmp_path / "b.safetensors").write_bytes(bytes(5))
    total = weights.CHUNK_BYTES + 6
    calls: list[tuple[int, int]] = []
    weights.measure(tmp_path, lambda done, whole: calls.append((done, whole)))
    assert calls == [(weights.CHUNK_BYTES, total), (weights.CHUNK_BYTES + 1, total), (total, total)]


def test_folders_without_weights(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "empty.safetensors"):
        with pytest.raises(WeightsError, match="no weights in") as caught:
            weights.measure(folder, silent)
        assert caught.value.remedy


def test_weights_that_change_while_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2 * weights.CHUNK_BYTES))

    def cut(done_bytes: int, total_bytes: int) -> None:
        path.write_bytes(bytes(weights.CHUNK_BYTES))

    with pytest.raises(WeightsError, match="changed while it was read"):
        weights.measure(tmp_path, cut)


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(bytes(10))

    def remove(done_bytes: int, total_bytes: int) -> None:
        (tmp_path / "b.safetensors").unlink(missing_ok=True)

    with pytest.raises(WeightsError, match=r"cannot read .*b\.safetensors: No such file") as caught:
        weights.measure(tmp_path, remove)
    assert caught.value.remedy
