"""A model folder: written whole, read with suspicion. Reading the card and the files' hashes needs no torch.

<root>/<profile>/strong/   config.json  model.safetensors  tokenizer.json  tokenizer_config.json  model_card.json
<root>/<profile>/weak/     the same, and exact.safetensors
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitweir_compression.errors import CheckpointError
from bitweir_compression.models.chat import ChatTokenizer, load_tokenizer, tokenizer_config

if TYPE_CHECKING:
    from bitweir_compression.models.training import Model

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model_card.json"
# The files whose bytes decide what a model computes, in the order they are hashed.
HASHED_FILES = ("config.json", WEIGHTS_FILE, "tokenizer.json")
# The exact form of a weak model lies beside it; it names the model it was made from (exact_weak.py).
OTHER_FILES = ("tokenizer_config.json", "generation_config.json", "exact.safetensors")
EXPECTED_FILES = frozenset({*HASHED_FILES, CARD_FILE, *OTHER_FILES})
# What every card says, and of what type.
CARD_FIELDS = {"role": str, "profile": dict, "measured": dict, "parameter_count": int, "fingerprint": str}
CARD_BYTES_MAX = 1 << 20
HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that was found complete and unaltered.

    Attributes:
        folder: where it is.
        card: the model card; see `write`.
        weights_bytes: size of model.safetensors, what an attacker wants to carry out.
        fingerprint: SHA-256 over the hashed files, 64 hexadecimal digits.
    """

    folder: Path
    card: Mapping[str, Any]
    weights_bytes: int
    fingerprint: str

    def tokenizer(self) -> ChatTokenizer:
        """Load the tokenizer."""
        return load_tokenizer(self.folder)

    def model(self, device: str = "cpu") -> "Model":
        """Load the weights as float32, in evaluation mode. Imports torch and transformers.

        Raises:
            CheckpointError: the configuration is not one of ours, or the weights are not exactly those it calls for.
        """
        from bitweir_compression.models.loading import load_model  # noqa: PLC0415 - reading a card must not load torch

        return load_model(self.folder, device)


@dataclass(frozen=True)
class Pair:
    """A strong and a weak model that share one tokenizer."""

    strong: Checkpoint
    weak: Checkpoint


def models_root() -> Path:
    """Return where built models live: $BITWEIR_MODELS, or `models` in the current folder."""
    return Path(os.environ.get("BITWEIR_MODELS", "models"))


def open_pair(folder: Path) -> Pair:
    """Open `folder`/strong and `folder`/weak.

    Raises:
        CheckpointError: one is missing, incomplete or altered, or their tokenizers differ.
    """
    pair = Pair(strong=open_checkpoint(folder / "strong"), weak=open_checkpoint(folder / "weak"))
    hashes = [
        hashlib.sha256((side.folder / "tokenizer.json").read_bytes()).digest() for side in (pair.strong, pair.weak)
    ]
    if hashes[0] != hashes[1]:
        raise CheckpointError(
            f"the two models of {folder} have different tokenizers", remedy="use a strong and a weak model of one build"
        )
    return pair


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check a model folder against its card.

    Raises:
        CheckpointError: a file is missing, or its bytes are not those the card names.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"no model at {folder}", remedy=f"build it: bitweir models build --profile {folder.parent.name or 'tiny'}"
        )
    missing = [name for name in (*HASHED_FILES, CARD_FILE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}", remedy="delete the folder and build it again")
    extra = sorted({path.name for path in folder.iterdir()} - EXPECTED_FILES)
    if extra:
        raise CheckpointError(f"{folder} holds {', '.join(extra)[:120]}", remedy="keep only the files of a build in it")
    card = _read_card(folder / CARD_FILE)
    digest = fingerprint(folder)
    if card.get("fingerprint") != digest:
        raise CheckpointError(
            f"{folder} is not the model its card describes: its fingerprint is {digest[:12]}…",
            remedy="delete the folder and build it again",
        )
    return Checkpoint(folder, card, (folder / WEIGHTS_FILE).stat().st_size, digest)


def write(folder: Path, model: "Model", tokenizer: ChatTokenizer, card: Mapping[str, Any], *, reasons: bool) -> None:
    """Write a model folder in one step: files go to a sibling, which then takes the folder's place."""
    from transformers.utils import logging  # noqa: PLC0415 - reading a card must not load it

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    logging.disable_progress_bar()
    model.save_pretrained(partial)
    (partial / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    context_tokens = int(model.config.max_position_embeddings)
    config = json.dumps(tokenizer_config(context_tokens, reasons=reasons), indent=1)
    (partial / "tokenizer_config.json").write_text(config, encoding="utf-8")
    complete = {**card, "parameter_count": model.num_parameters(), "fingerprint": fingerprint(partial)}
    (partial / CARD_FILE).write_text(json.dumps(complete, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the names, sizes and bytes of the hashed files."""
    digest = hashlib.sha256(b"bitweir checkpoint v1\x00")
    for name in HASHED_FILES:
        path = folder / name
        digest.update(f"{name}\x00{path.stat().st_size}\x00".encode())
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _read_card(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > CARD_BYTES_MAX:
        raise CheckpointError(f"{path} is over {CARD_BYTES_MAX} bytes", remedy="this is no model card")
    try:
        card = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", remedy="delete the folder and build it again") from error
    if not isinstance(card, dict) or not all(type(card.get(name)) is kind for name, kind in CARD_FIELDS.items()):
        raise CheckpointError(f"{path} is not a model card", remedy="delete the folder and build it again")
    return card
