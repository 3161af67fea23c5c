"""Loads a model folder without trusting it: known keys, limits, exactly the tensors called for. Imports torch.

Rules:
1. Only the keys of CONFIG_LIMITS reach the model, each within its limits; nothing in a folder can name code or files.
2. Weights come from model.safetensors alone; a tensor too many, too few or of another shape is an error, so that the
   fingerprint names what runs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from bitweir_compression.errors import CheckpointError
from bitweir_compression.models.chat import load_tokenizer

CONFIG_BYTES_MAX = 1 << 16
# Integer keys with their largest value: what memory a configuration may ask for.
CONFIG_LIMITS = {
    "vocab_size": 1 << 20,
    "hidden_size": 1 << 14,
    "intermediate_size": 1 << 16,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
    "num_key_value_heads": 256,
    "head_dim": 1 << 10,
    "max_position_embeddings": 1 << 17,
    "bos_token_id": 1 << 20,
    "eos_token_id": 1 << 20,
    "pad_token_id": 1 << 20,
}
# Keys that must have the value the project's own models have, where they are given.
CONFIG_FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_REMEDY = "delete the folder and build it again"


def load_model(folder: Path, device: str) -> LlamaForCausalLM:
    """Return the model of a folder in evaluation mode; see `checkpoint.Checkpoint.model`."""
    check_device(device)
    model = LlamaForCausalLM(_config(folder))
    try:
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        reason = str(error).split("\n", 2)[-1].strip()[:160]
        raise CheckpointError(
            f"the weights of {folder} do not fit its configuration: {reason}", remedy=_REMEDY
        ) from error
    return model.to(device).eval()


def check_device(device: str) -> None:
    """Refuse a device this machine does not have.

    Raises:
        CheckpointError: the name is unknown, or it is `cuda` and there is none.
    """
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise CheckpointError(
            f"no device '{device}' here", remedy="use cpu, or cuda on a machine with a CUDA build of torch"
        )


def _config(folder: Path) -> LlamaConfig:
    path = folder / "config.json"
    if path.stat().st_size > CONFIG_BYTES_MAX:
        raise CheckpointError(f"{path} is over {CONFIG_BYTES_MAX} bytes", remedy=_REMEDY)
    try:
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", remedy=_REMEDY) from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} is not a configuration", remedy=_REMEDY)
    chosen: dict[str, Any] = {"tie_word_embeddings": True, "rms_norm_eps": CONFIG_FIXED["rms_norm_eps"]}
    for name, most in CONFIG_LIMITS.items():
        value = given.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise CheckpointError(f"{path}: {name} is {value!r:.40}, not an integer of 0 to {most}", remedy=_REMEDY)
        chosen[name] = value
    rope = given.get("rope_parameters")
    for name, value in CONFIG_FIXED.items():
        if given.get(name) != value:
            raise CheckpointError(f"{path}: {name} is {given.get(name)!r:.40}, not {value!r}", remedy=_REMEDY)
    if rope != ROPE:
        raise CheckpointError(f"{path}: rope_parameters are {rope!r:.60}, not {ROPE!r}", remedy=_REMEDY)
    vocabulary = load_tokenizer(folder).vocabulary_size
    if vocabulary > chosen["vocab_size"]:
        raise CheckpointError(f"{folder}: {vocabulary} token ids, {chosen['vocab_size']} in the model", remedy=_REMEDY)
    if 0 in (chosen["head_dim"], chosen["num_key_value_heads"], chosen["num_hidden_layers"]):
        raise CheckpointError(f"{path}: a size is 0", remedy=_REMEDY)
    return LlamaConfig(**chosen)
