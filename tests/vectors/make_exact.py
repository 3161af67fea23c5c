"""Write exact.json and the two exact files it is about: `python -m tests.vectors.make_exact`.

The weights are whole numbers out of SHA-256, so no generator, library or trained model has a say. The tables come from
this machine's exp, erf and cos; the files ship them, which is why a test compares everything but the tables with what
this script makes. A change of any value breaks every stored output, so regenerate only together with a new version in
schema.py.

Between them the two files have all there is: grouped heads, head norms, biases, partial RoPE, LayerNorm and RMSNorm,
gated and plain MLPs, parallel residual, tied and untied heads, odd sizes, more than one chunk of a float32 product.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bitweir_compression.exact import certify, format
from bitweir_compression.exact.quantise import convert
from bitweir_compression.exact.schema import ROPE_EXPONENT, Architecture
from bitweir_compression.exact.sources import Floats, Source

FOLDER = Path(__file__).parent
SHAPES = {
    "exact_gated_int8": Architecture(
        family="qwen3",
        vocabulary_size=61,
        hidden_size=5,
        layer_count=2,
        head_count=6,
        kv_head_count=2,
        head_size=6,
        rotary_size=6,
        mlp_size=1041,
        context_tokens=48,
        activation="silu",
        centred_norm=False,
        gated_mlp=True,
        parallel_residual=False,
        head_norm=True,
        tied=False,
        qkv_bias=True,
        out_bias=False,
        mlp_bias=False,
        down_bias=False,
        norm_bias=False,
    ),
    "exact_plain_int16": Architecture(
        family="gpt_neox",
        vocabulary_size=67,
        hidden_size=21,
        layer_count=2,
        head_count=3,
        kv_head_count=3,
        head_size=7,
        rotary_size=4,
        mlp_size=50,
        context_tokens=48,
        activation="gelu",
        centred_norm=True,
        gated_mlp=False,
        parallel_residual=True,
        head_norm=False,
        tied=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        down_bias=True,
        norm_bias=True,
    ),
}


def numbers(label: str) -> Iterator[int]:
    """Yield integers of -2**15 to 2**15 - 1."""
    for block in range(1 << 30):
        digest = hashlib.sha256(f"bitweir exact vectors {label} {block}".encode()).digest()
        for index in range(0, len(digest), 2):
            yield int.from_bytes(digest[index : index + 2], "little", signed=True)


def values(label: str, shape: tuple[int, ...], scale: float) -> Floats:
    """Return numbers of -scale to scale, with a few outliers four times as large."""
    stream = numbers(label)
    flat = np.array([next(stream) for _ in range(math.prod(shape))], dtype=np.float64) / 32768 * scale
    flat[::97] *= 4
    return flat.reshape(shape)


def source(label: str, shape: Architecture) -> Source:
    """Return a model of that shape with made-up weights."""
    frequencies = 10_000.0 ** (-np.arange(shape.rotary_size // 2) * 2 / shape.rotary_size)
    angles = np.arange(shape.context_tokens)[:, None] * frequencies
    rope = [np.rint(part * (1 << ROPE_EXPONENT)).astype(np.int32) for part in (np.cos(angles), np.sin(angles))]
    result = Source(shape, label, (rope[0], rope[1]))
    for name, outputs, inputs, has_bias in shape.linears():
        scale = 1.0 if name == "embedding" else 4.0 / math.sqrt(inputs)
        if shape.head_norm and name.endswith(".qkv"):
            # Heads are normalised, so only the values grow: far enough for a sum to be shifted left.
            scale *= 256
        scale *= 4 if name == "head" else 1
        result.matrices[name] = values(f"{label} {name}", (outputs, inputs), scale)
        if has_bias:
            result.biases[name] = values(f"{label} {name} bias", (outputs,), 0.5)
    for name, size, has_bias in shape.norms():
        result.gains[name] = (values(f"{label} {name}", (size,), 0.5) + 1.0) * math.sqrt(size)
        result.epsilons[name] = 2.0**-20
        if has_bias:
            result.biases[name] = values(f"{label} {name} bias", (size,), 0.25)
    return result


def content(label: str) -> bytes:
    """Return the bytes of one exact file."""
    profile = label.rpartition("_")[2]
    return format.encode(*convert(source(label, SHAPES[label]), profile))


def main() -> None:
    """Write the files."""
    vectors = {}
    for label in SHAPES:
        (FOLDER / f"{label}.safetensors").write_bytes(content(label))
        vectors[label] = certify.freeze(format.read(FOLDER / f"{label}.safetensors"))
    document = {"made_by": "tests/vectors/make_exact.py", "units": "logits: 1/64 nat", "files": vectors}
    (FOLDER / "exact.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
