"""The exact form of a pair's weak model: what encoder and decoder load. Imports torch only to make it.

<root>/<profile>/weak/exact.safetensors is made from the weak model beside it, once. Copy that one file to both sides:
rounding weights is deterministic on one machine, but only equal files promise equal bits.
"""

from pathlib import Path

from bitweir_compression.errors import CheckpointError
from bitweir_compression.exact import format as exact_format
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.models.checkpoint import Pair


def open_exact_weak(pair: Pair) -> ExactFile:
    """Read the exact form of a pair's weak model; make it first where it is missing.

    Raises:
        CheckpointError: the file was made from another model, or cannot be written.
        ExactFormatError: it is damaged.
    """
    path = pair.weak.folder / exact_format.FILE_NAME
    if not path.is_file():
        _make(pair, path)
    file = exact_format.read(path)
    if file.header["source"]["fingerprint"] != pair.weak.fingerprint:
        raise CheckpointError(f"{path} was made from another weak model", remedy="delete it; it is made again")
    return file


def _make(pair: Pair, path: Path) -> None:
    from bitweir_compression.exact.quantise import quantise  # noqa: PLC0415 - reading a file must not load torch

    try:
        quantise(pair.weak.model(), path, source_fingerprint=pair.weak.fingerprint)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", remedy="make it elsewhere with bitweir models quantise"
        ) from error
