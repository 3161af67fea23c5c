"""Hugging Face causal models in one form: named float64 matrices, gains and biases, ready to be rounded.

Rules:
1. Nothing is guessed: an architecture, activation, window or RoPE kind that the exact model does not have is refused.
2. What folds exactly folds here: 1/sqrt(head size) into the query projection (into the query norm's gain where there is
   one), sqrt(size) into every gain, fused and interleaved matrices into ours.
3. Files are local. Nothing is downloaded and no code of a checkpoint is run.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bitweir_compression.exact import schema, tables
from bitweir_compression.exact.errors import ExactConversionError
from bitweir_compression.exact.format import Tensor
from bitweir_compression.exact.schema import Architecture

Floats = npt.NDArray[np.float64]

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# RoPE whose frequencies depend on how long the sequence has become; they are constant up to the original context.
_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})


@dataclass
class Source:
    """A model in float64.

    Attributes:
        architecture: its shape.
        name: what to call it in the header.
        matrices: linear layer -> float64 [outputs, inputs]; `head` is absent where it is tied.
        gains: norm -> float64 [size], multiplied by sqrt(size).
        biases: linear layer or norm -> float64 [size].
        epsilons: norm -> the constant under its root.
        rope: cosines and sines, int32 [context, rotary_size / 2].
    """

    architecture: Architecture
    name: str
    rope: tuple[Tensor, Tensor]
    matrices: dict[str, Floats] = field(default_factory=dict)
    gains: dict[str, Floats] = field(default_factory=dict)
    biases: dict[str, Floats] = field(default_factory=dict)
    epsilons: dict[str, float] = field(default_factory=dict)


def load(folder: Path) -> Any:
    """Load a Hugging Face folder in float64 and evaluation mode, from local files.

    Raises:
        ExactConversionError: there is no model the installed transformers can load.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - takes seconds; a file is read without it
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise ExactConversionError(f"{folder} has no config.json", remedy="name a Hugging Face model folder")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        remedy = "check config.json and model.safetensors"
        raise ExactConversionError(f"{folder} cannot be loaded: {error}", remedy=remedy) from error
    return model.eval()


def extract(model: Any, context_tokens: int) -> Source:
    """Return a Hugging Face model's numbers.

    Args:
        model: a causal language model of a supported family.
        context_tokens: longest sequence the exact model will serve.

    Raises:
        ExactConversionError: see rule 1.
    """
    config = model.config
    family = str(config.model_type)
    if family not in schema.FAMILIES:
        raise ExactConversionError(f"no exact form of {family!r}", remedy=f"supported: {', '.join(schema.FAMILIES)}")
    _check_window(config, context_tokens)
    if family == "gpt_neox":
        return _neox(model, context_tokens)
    return _llama(model, family, context_tokens)


def _check_window(config: Any, context_tokens: int) -> None:
    if not 1 <= context_tokens <= min(schema.CONTEXT_MAX, int(config.max_position_embeddings)):
        limit = min(schema.CONTEXT_MAX, int(config.max_position_embeddings))
        raise ExactConversionError(f"a context of {context_tokens} tokens", remedy=f"use 1 to {limit}")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < context_tokens:
        raise ExactConversionError(
            f"a sliding window of {window} tokens is shorter than the context of {context_tokens}",
            remedy=f"quantise with a context of at most {window} tokens",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") in _LENGTH_DEPENDENT and context_tokens > original:
        raise ExactConversionError(
            f"{rope['rope_type']} RoPE changes with the length beyond {original} tokens",
            remedy=f"quantise with a context of at most {original} tokens",
        )


def _activation(config: Any) -> str:
    name = str(config.hidden_act)
    if name not in _ACTIVATIONS:
        raise ExactConversionError(f"activation {name!r}", remedy=f"supported: {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name]


def _floats(tensor: torch.Tensor) -> Floats:
    result: Floats = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return result


def _linear(source: Source, name: str, *modules: Any, factors: tuple[float, ...] = ()) -> None:
    """Stack linear modules, each times its factor."""
    scales = factors or (1.0,) * len(modules)
    pairs = list(zip(modules, scales, strict=True))
    source.matrices[name] = np.concatenate([_floats(module.weight) * factor for module, factor in pairs])
    if any(module.bias is not None for module in modules):
        parts = [
            np.zeros(len(module.weight)) if module.bias is None else _floats(module.bias) * factor
            for module, factor in pairs
        ]
        source.biases[name] = np.concatenate(parts)


def _norm(source: Source, name: str, module: Any, epsilon: float, *, factor: float = 1.0) -> None:
    gain = _floats(module.weight)
    source.gains[name] = gain * math.sqrt(len(gain)) * factor
    source.epsilons[name] = float(epsilon)
    if getattr(module, "bias", None) is not None:
        source.biases[name] = _floats(module.bias)


def _llama(model: Any, family: str, context_tokens: int) -> Source:
    """Llama, Mistral, Qwen2, Qwen3: RMSNorm, gated MLP, separate projections."""
    config, inner = model.config, model.model
    first = inner.layers[0]
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    shape = Architecture(
        family=family,
        vocabulary_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        layer_count=int(config.num_hidden_layers),
        head_count=int(config.num_attention_heads),
        kv_head_count=int(config.num_key_value_heads),
        head_size=head_size,
        rotary_size=head_size,
        mlp_size=int(config.intermediate_size),
        context_tokens=context_tokens,
        activation=_activation(config),
        centred_norm=False,
        gated_mlp=True,
        parallel_residual=False,
        head_norm=hasattr(first.self_attn, "q_norm"),
        tied=model.lm_head.weight is inner.embed_tokens.weight,
        qkv_bias=first.self_attn.q_proj.bias is not None,
        out_bias=first.self_attn.o_proj.bias is not None,
        mlp_bias=first.mlp.gate_proj.bias is not None,
        down_bias=first.mlp.down_proj.bias is not None,
        norm_bias=False,
    )
    rope = tables.rope_tables(inner.rotary_emb, context_tokens, head_size)
    source = Source(shape, str(config.name_or_path or family)[-128:], rope)
    source.matrices["embedding"] = _floats(inner.embed_tokens.weight)
    epsilon, root = config.rms_norm_eps, 1 / math.sqrt(head_size)
    for index, layer in enumerate(inner.layers):
        name, attention = f"layers.{index}.", layer.self_attn
        query_factor = 1.0 if shape.head_norm else root
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        _linear(source, name + "qkv", *projections, factors=(query_factor, 1.0, 1.0))
        _linear(source, name + "out", attention.o_proj)
        _linear(source, name + "mlp", layer.mlp.gate_proj, layer.mlp.up_proj)
        _linear(source, name + "down", layer.mlp.down_proj)
        _norm(source, name + "attention_norm", layer.input_layernorm, epsilon)
        _norm(source, name + "mlp_norm", layer.post_attention_layernorm, epsilon)
        if shape.head_norm:
            _norm(source, name + "query_norm", attention.q_norm, epsilon, factor=root)
            _norm(source, name + "key_norm", attention.k_norm, epsilon)
    _norm(source, "final_norm", inner.norm, epsilon)
    if not shape.tied:
        _linear(source, "head", model.lm_head)
    return source


def _neox(model: Any, context_tokens: int) -> Source:
    """GPT-NeoX: LayerNorm, one interleaved qkv matrix, partial RoPE, plain MLP, biases."""
    config, inner = model.config, model.gpt_neox
    first = inner.layers[0]
    head_size = int(config.hidden_size // config.num_attention_heads)
    shape = Architecture(
        family="gpt_neox",
        vocabulary_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        layer_count=int(config.num_hidden_layers),
        head_count=int(config.num_attention_heads),
        kv_head_count=int(config.num_attention_heads),
        head_size=head_size,
        rotary_size=int(first.attention.rotary_ndims),
        mlp_size=int(config.intermediate_size),
        context_tokens=context_tokens,
        activation=_activation(config),
        centred_norm=True,
        gated_mlp=False,
        parallel_residual=bool(config.use_parallel_residual),
        head_norm=False,
        tied=model.lm_head.weight is inner.embed_in.weight,
        qkv_bias=first.attention.query_key_value.bias is not None,
        out_bias=first.attention.dense.bias is not None,
        mlp_bias=True,
        down_bias=True,
        norm_bias=True,
    )
    rope = tables.rope_tables(inner.rotary_emb, context_tokens, shape.rotary_size)
    source = Source(shape, str(config.name_or_path or "gpt_neox")[-128:], rope)
    source.matrices["embedding"] = _floats(inner.embed_in.weight)
    epsilon = config.layer_norm_eps
    for index, layer in enumerate(inner.layers):
        name = f"layers.{index}."
        _interleaved(source, name + "qkv", layer.attention.query_key_value)
        _linear(source, name + "out", layer.attention.dense)
        _linear(source, name + "mlp", layer.mlp.dense_h_to_4h)
        _linear(source, name + "down", layer.mlp.dense_4h_to_h)
        _norm(source, name + "attention_norm", layer.input_layernorm, epsilon)
        _norm(source, name + "mlp_norm", layer.post_attention_layernorm, epsilon)
    _norm(source, "final_norm", inner.final_layer_norm, epsilon)
    if not shape.tied:
        _linear(source, "head", model.lm_head)
    return source


def _interleaved(source: Source, name: str, module: Any) -> None:
    """Reorder [heads, (q, k, v), head size] rows into all queries, all keys, all values."""
    shape = source.architecture
    factors = np.array([1 / math.sqrt(shape.head_size), 1.0, 1.0])
    weight = _floats(module.weight).reshape(shape.head_count, 3, shape.head_size, shape.hidden_size)
    source.matrices[name] = (weight * factors[:, None, None]).transpose(1, 0, 2, 3).reshape(-1, shape.hidden_size)
    if module.bias is not None:
        bias = _floats(module.bias).reshape(shape.head_count, 3, shape.head_size)
        source.biases[name] = (bias * factors[:, None]).transpose(1, 0, 2).reshape(-1)
