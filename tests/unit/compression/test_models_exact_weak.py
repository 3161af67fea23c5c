"""The exact form beside a weak model: made once, tied to the model it was made from."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from bitweir_compression.errors import CheckpointError, CompressionError
from bitweir_compression.models.build import build
from bitweir_compression.models.checkpoint import Pair, open_pair
from bitweir_compression.models.exact_weak import open_exact_weak
from tests.unit.compression.micro import MICRO


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(MICRO, tmp_path_factory.mktemp("models"), lambda *_: None).weak.folder.parent


@pytest.fixture
def pair(built: Path, tmp_path: Path) -> Pair:
    """A copy that a test may damage."""
    return open_pair(Path(shutil.copytree(built, tmp_path / "micro")))


def test_a_build_leaves_it_and_a_lost_one_is_made_again(pair: Pair) -> None:
    path = pair.weak.folder / "exact.safetensors"
    before = path.read_bytes()
    path.unlink()
    assert open_exact_weak(pair).header["source"]["fingerprint"] == pair.weak.fingerprint
    assert path.read_bytes() == before


def test_the_form_of_another_model_is_refused(pair: Pair) -> None:
    other = dataclasses.replace(pair, weak=dataclasses.replace(pair.weak, fingerprint="0" * 64))
    with pytest.raises(CheckpointError, match="another weak model"):
        open_exact_weak(other)


def test_a_damaged_form_is_refused(pair: Pair) -> None:
    path = pair.weak.folder / "exact.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CompressionError):
        open_exact_weak(pair)
