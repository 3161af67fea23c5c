"""Reading and writing exact.safetensors: one file, one encoding, one fingerprint.

Rules:
1. The file is a safetensors file of one canonical layout: a reader rebuilds the safetensors header from what it parsed
   and refuses a file whose header differs by a byte. Every other byte is covered by the fingerprint.
2. Nothing is allocated before it was limited: sizes are read from the file's length and the checked header.
3. Every tensor's dtype, shape and range are checked before anybody computes with it.
4. The fingerprint is SHA-256 over `bitweir exact v1`, the canonical header without its fingerprint, and every tensor's
   name, dtype, shape and bytes in file order. Two files with one fingerprint compute the same.

docs/reference/exact-format.md, sections 1 to 3, changes together with this file. Imports no torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitweir_compression.exact import schema
from bitweir_compression.exact.errors import ExactFormatError
from bitweir_compression.exact.schema import Architecture, TensorSpec

FILE_NAME = "exact.safetensors"
METADATA_KEY = "bitweir"
# The header of a model with 256 layers takes about half a megabyte.
HEADER_BYTES_MAX = 8 << 20
FILE_BYTES_MAX = 64 << 30
_ALIGNMENT = 8
_LENGTH_BYTES = 8

Tensor = npt.NDArray[np.signedinteger[Any]]
NUMPY_DTYPE: Mapping[str, str] = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True)
class ExactFile:
    """A file that was found sound.

    Attributes:
        profile: `int16` or `int8`.
        architecture: the model's shape.
        header: the parsed header; `schema.checked_header` says what is in it.
        tensors: name -> little-endian integer array, read-only; see `schema.tensor_specs`.
        fingerprint: 64 hexadecimal digits.
    """

    profile: str
    architecture: Architecture
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    fingerprint: str


def canonical(value: object) -> bytes:
    """Return the one JSON encoding: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def fingerprint(header: Mapping[str, Any], tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]) -> str:
    """Return the SHA-256 of rule 4 as 64 hexadecimal digits; a `fingerprint` in the header does not enter."""
    digest = hashlib.sha256(b"bitweir exact v1\x00")
    plain = canonical({key: value for key, value in header.items() if key != "fingerprint"})
    digest.update(len(plain).to_bytes(8, "little") + plain)
    for name in file_order(specs):
        spec = specs[name]
        digest.update(canonical([name, spec.dtype, list(spec.shape)]))
        digest.update(np.ascontiguousarray(tensors[name], dtype=NUMPY_DTYPE[spec.dtype]).data)
    return digest.hexdigest()


def file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """Return the tensors' names in the order of their bytes: wider dtypes first, then by name."""
    return sorted(specs, key=lambda name: (-_item_bytes(specs[name]), name))


def encode(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file's bytes; the header's fingerprint is filled in.

    Raises:
        ExactFormatError: the header or a tensor is not what the format allows.
    """
    profile, shape = schema.checked_header({**header, "fingerprint": ""})
    specs = schema.tensor_specs(profile, shape)
    _check_tensors(tensors, specs)
    complete = {**header, "fingerprint": fingerprint(header, tensors, specs)}
    parts = [_container_header(complete, specs)]
    parts += [
        np.ascontiguousarray(tensors[name], NUMPY_DTYPE[specs[name].dtype]).tobytes() for name in file_order(specs)
    ]
    return b"".join(parts)


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ExactFile:
    """Write a file in one step and return it as read back.

    Raises:
        ExactFormatError: as `encode`.
    """
    content = encode(header, tensors)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    return decode(content)


def read(path: Path) -> ExactFile:
    """Read and check a file, or the file of that name in a folder.

    Raises:
        ExactFormatError: it is missing, no regular file, too large, damaged, or breaks a limit.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        size_bytes = file.stat().st_size
        if size_bytes > FILE_BYTES_MAX:
            raise ExactFormatError(f"{file} has {size_bytes} bytes", remedy=f"the limit is {FILE_BYTES_MAX}")
        if not file.is_file():
            raise ExactFormatError(f"{file} is no regular file", remedy="name an exact file")
        with file.open("rb") as stream:
            # One byte more than it should have, however it grows: `decode` compares the length.
            content = stream.read(size_bytes + 1)
    except OSError as error:
        remedy = "write one: bitweir models quantise"
        raise ExactFormatError(f"{file} cannot be read: {error.strerror}", remedy=remedy) from error
    return decode(content)


def decode(content: bytes) -> ExactFile:
    """Parse and check the bytes of a file; the tensors are views of `content`.

    Raises:
        ExactFormatError: the bytes are not exactly what `encode` writes.
    """
    header = _metadata(content)
    profile, shape = schema.checked_header(header)
    specs = schema.tensor_specs(profile, shape)
    prefix = _container_header(header, specs)
    size_bytes = len(prefix) + sum(_size_bytes(spec) for spec in specs.values())
    if len(content) != size_bytes or not content.startswith(prefix):
        raise _damaged("it is not laid out as its header says")
    tensors: dict[str, Tensor] = {}
    offset = len(prefix)
    for name in file_order(specs):
        spec = specs[name]
        count = _size_bytes(spec) // _item_bytes(spec)
        tensors[name] = np.frombuffer(content, NUMPY_DTYPE[spec.dtype], count, offset).reshape(spec.shape)
        offset += _size_bytes(spec)
    digest = fingerprint(header, tensors, specs)
    if header["fingerprint"] != digest:
        raise _damaged(f"its fingerprint is {digest[:12]}…, not the one it states")
    _check_tensors(tensors, specs)
    return ExactFile(profile, shape, header, tensors, digest)


def _metadata(content: bytes) -> Mapping[str, Any]:
    """Return our header out of the safetensors header."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or not 0 < length <= min(HEADER_BYTES_MAX, len(content) - _LENGTH_BYTES):
        raise _damaged("it is too short for its header, or the header too long")
    try:
        outer = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
        header = json.loads(outer["__metadata__"][METADATA_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"its header cannot be parsed: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise _damaged("its header is not an object")
    return header


def _container_header(header: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> bytes:
    """Return the length and the safetensors header, padded with spaces to a multiple of eight bytes."""
    outer: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical(header).decode()}}
    offset = 0
    for name in file_order(specs):
        end = offset + _size_bytes(specs[name])
        outer[name] = {"dtype": specs[name].dtype, "shape": list(specs[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = canonical(outer)
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > HEADER_BYTES_MAX:
        raise ExactFormatError(f"the header has {len(text)} bytes", remedy=f"the limit is {HEADER_BYTES_MAX}")
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _check_tensors(tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]) -> None:
    if set(tensors) != set(specs):
        raise _damaged(f"tensors {sorted(set(tensors) ^ set(specs))[:4]} are missing or unknown")
    for name, spec in specs.items():
        tensor = tensors[name]
        if tensor.shape != spec.shape or tensor.dtype != np.dtype(NUMPY_DTYPE[spec.dtype]):
            raise _damaged(f"{name} is {tensor.dtype} {tensor.shape}, not {spec.dtype} {spec.shape}")
        if int(tensor.min()) < spec.low or int(tensor.max()) > spec.high:
            raise _damaged(f"{name} leaves {spec.low} to {spec.high}")
    softmax, activation, frequency = (tensors[f"table.{name}"] for name in ("softmax", "activation", "frequency"))
    if softmax[0] != 1 << schema.SOFTMAX_BITS or softmax[-1] != 0 or (np.diff(softmax) > 0).any():
        raise _damaged("the softmax table does not fall from 2**20 to 0")
    if frequency[0] != 1 << schema.FREQUENCY_BITS or frequency[-1] != 1 or (np.diff(frequency) > 0).any():
        raise _damaged("the frequency table does not fall from 2**24 to 1")
    if activation[-1] != 0:
        raise _damaged("the activation table does not end in 0")


def _item_bytes(spec: TensorSpec) -> int:
    return np.dtype(NUMPY_DTYPE[spec.dtype]).itemsize


def _size_bytes(spec: TensorSpec) -> int:
    size = _item_bytes(spec)
    for length in spec.shape:
        size *= length
    return size


def _damaged(what: str) -> ExactFormatError:
    return ExactFormatError(f"this is no sound exact file: {what}", remedy="copy it again, or quantise the model again")
