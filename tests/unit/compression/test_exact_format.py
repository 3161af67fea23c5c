"""The container: one encoding, every damage found, every limit held."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from bitweir_compression.exact import format, schema
from bitweir_compression.exact.bounds import check_file
from bitweir_compression.exact.errors import ExactFormatError

VECTORS = Path(__file__).parents[2] / "vectors"
CONTENT = (VECTORS / "exact_plain_int16.safetensors").read_bytes()
FILE = format.decode(CONTENT)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return a copy of the header after a change."""
    header = json.loads(format.canonical(FILE.header))
    change(header)
    return header


def test_encoding_what_was_decoded_gives_the_same_bytes() -> None:
    assert format.encode(FILE.header, FILE.tensors) == CONTENT


def test_a_file_can_be_written_and_read(tmp_path: Path) -> None:
    written = format.write(tmp_path / format.FILE_NAME, FILE.header, FILE.tensors)
    assert format.read(tmp_path).fingerprint == written.fingerprint == FILE.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [format.FILE_NAME]


def test_the_safetensors_library_reads_it() -> None:
    with safe_open(VECTORS / "exact_plain_int16.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["bitweir"]) == FILE.header
        assert set(file.keys()) == set(FILE.tensors)
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            assert np.array_equal(file.get_tensor(name), FILE.tensors[name])


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_every_flipped_byte_is_found(position: int, flip: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= flip
    with pytest.raises(ExactFormatError):
        format.decode(bytes(damaged))


@given(st.integers(0, 6000), st.integers(1, 255))
def test_every_flipped_byte_of_the_header_is_found(position: int, flip: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= flip
    with pytest.raises(ExactFormatError):
        format.decode(bytes(damaged))


@given(st.binary(max_size=64))
def test_noise_is_no_file(content: bytes) -> None:
    with pytest.raises(ExactFormatError):
        format.decode(content)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 100, len(CONTENT) - 1])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(ExactFormatError):
        format.decode(CONTENT[:length])


def test_a_longer_file_is_refused() -> None:
    with pytest.raises(ExactFormatError, match="laid out"):
        format.decode(CONTENT + b"\x00")


def test_a_header_longer_than_the_limit_is_not_parsed() -> None:
    with pytest.raises(ExactFormatError, match="header"):
        format.decode((1 << 62).to_bytes(8, "little") + CONTENT)


def test_a_deeply_nested_header_is_refused() -> None:
    text = b"[" * 100_000
    with pytest.raises(ExactFormatError, match="parsed"):
        format.decode(len(text).to_bytes(8, "little") + text)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ExactFormatError) as caught:
        format.read(tmp_path / "none")
    assert "quantise" in caught.value.remedy


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown key": lambda h: h.update(extra=1),
    "missing key": lambda h: h.pop("norms"),
    "other version": lambda h: h.update(format="bitweir-exact 2"),
    "other profile": lambda h: h.update(profile="int4"),
    "other grid": lambda h: h["grids"].update(logit_exponent=7),
    "grid that is a float": lambda h: h["grids"].update(logit_exponent=6.0),
    "huge vocabulary": lambda h: h["architecture"].update(vocabulary_size=1 << 40),
    "zero layers": lambda h: h["architecture"].update(layer_count=0),
    "boolean size": lambda h: h["architecture"].update(layer_count=True),
    "odd rotary size": lambda h: h["architecture"].update(rotary_size=3),
    "uneven heads": lambda h: h["architecture"].update(head_count=3, kv_head_count=2),
    "unknown family": lambda h: h["architecture"].update(family="mamba"),
    "layers that are missing": lambda h: h["layers"].pop(),
    "fine exponents": lambda h: h["layers"][0].update(query_exponent=13),
    "coarse exponents": lambda h: h["layers"][0].update(query_exponent=1, key_exponent=2),
    "two digits in int16": lambda h: h["linears"]["layers.0.qkv"].update(digits=2),
    "far exponent": lambda h: h["linears"]["layers.0.qkv"].update(exponent=63),
    "no epsilon": lambda h: h["norms"]["final_norm"].update(epsilon=0),
    "far norm exponent": lambda h: h["norms"]["final_norm"].update(exponent=55),
    "source that is a number": lambda h: h["source"].update(name=5),
    "architecture that is a list": lambda h: h.update(architecture=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_unsound_header_is_refused(name: str) -> None:
    with pytest.raises(ExactFormatError):
        format.encode(changed(CHANGES[name]), FILE.tensors)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("embedding.weight", (0, 0), -32768),
        ("embedding.scale", (0,), 0),
        ("layers.0.qkv.bias", (0,), (1 << 40) + 1),
        ("final_norm.gain", (0,), (1 << 24) + 1),
        ("rope.cos", (0, 0), (1 << 25) + 1),
        ("table.softmax", (-1,), 1),
        ("table.softmax", (5,), 0),
        ("table.frequency", (0,), 5),
        ("table.frequency", (-1,), 2),
        ("table.activation", (-1,), 3),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, index: tuple[int, ...], value: int) -> None:
    tensor = FILE.tensors[name].copy()
    tensor[index] = value
    with pytest.raises(ExactFormatError):
        format.encode(FILE.header, {**FILE.tensors, name: tensor})


def test_other_shapes_dtypes_and_names_are_refused() -> None:
    cosines = FILE.tensors["rope.cos"]
    for other in (cosines[:-1], cosines.astype(np.int64), cosines.astype(np.float32)):
        with pytest.raises(ExactFormatError):
            format.encode(FILE.header, {**FILE.tensors, "rope.cos": other})
    with pytest.raises(ExactFormatError):
        format.encode(FILE.header, {**FILE.tensors, "extra": cosines})


def test_weights_that_break_a_static_bound_are_refused() -> None:
    for change, what in (
        (lambda h: h["linears"]["layers.0.mlp"].update(exponent=-20), "30 bits"),
        (lambda h: h["linears"]["layers.0.qkv"].update(exponent=-20), "34 bits"),
        (lambda h: h["linears"]["embedding"].update(exponent=-20), "40 bits"),
        (lambda h: h["linears"]["layers.0.qkv"].update(exponent=7), "22 bits"),
    ):
        with pytest.raises(ExactFormatError, match=what):
            check_file(format.decode(format.encode(changed(change), FILE.tensors)))


def test_the_fingerprint_covers_header_names_and_numbers() -> None:
    specs = schema.tensor_specs(FILE.profile, FILE.architecture)
    other = {**FILE.tensors, "rope.cos": FILE.tensors["rope.sin"]}
    digests = {
        FILE.fingerprint,
        format.fingerprint(changed(lambda h: h["source"].update(name="x")), FILE.tensors, specs),
        format.fingerprint(FILE.header, other, specs),
    }
    assert len(digests) == 3
