"""The container, header and tensors of an exact weak model, read by another hand than the decoder's own reader.

This is the file half of the oracle in reference.py: sections 2 and 3 of docs/reference/exact-format.md.

Rules:
1. Written from the specification alone; nothing is shared with the reader it checks.
2. Whatever is wrong with a file is a `ReferenceFormatError` with a remedy, never an untyped error and never a guess.
3. Nothing is allocated before the file's size has been compared with what the header asks for.
4. Parts 1 and 2 of the file are not interpreted but rebuilt from the header and compared byte for byte.
"""

import hashlib
import itertools
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bitweir_compression.errors import CompressionError

Tensor = npt.NDArray[np.signedinteger[Any]]

FORMAT = "bitweir-exact 1"
FINGERPRINT_START = b"bitweir exact v1\0"
HEADER_BYTES_MAX = 8 << 20
SOURCE_CHARACTERS_MAX = 256
REMEDY = "get the file again from where it was published, or export it again"
# Section 2: dtype -> (its rank in the file, its numpy name).
DTYPES = {"I64": (0, "<i8"), "I32": (1, "<i4"), "I16": (2, "<i2"), "I8": (3, "|i1")}
GRIDS = {
    "activation_entries": 16385,
    "activation_exponent": 10,
    "attention_extra_bits": 8,
    "frequency_bits": 24,
    "frequency_entries": 1025,
    "hidden_exponent": 16,
    "logit_exponent": 6,
    "norm_bits": 24,
    "residual_exponent": 20,
    "rope_exponent": 24,
    "score_exponent": 10,
    "softmax_bits": 20,
    "softmax_entries": 15361,
}
# Section 3.1: key of the architecture -> inclusive limits.
SIZES = {
    "vocabulary_size": (1, 1 << 20),
    "hidden_size": (1, 8192),
    "layer_count": (1, 256),
    "head_count": (1, 256),
    "kv_head_count": (1, 256),
    "head_size": (1, 512),
    "rotary_size": (2, 512),
    "mlp_size": (1, 65536),
    "context_tokens": (1, 16384),
}
CHOICES = {
    "family": ("gpt_neox", "llama", "mistral", "qwen2", "qwen3"),
    "activation": ("gelu", "gelu_tanh", "relu", "silu"),
}
SWITCHES = (
    *("centred_norm", "gated_mlp", "parallel_residual", "head_norm", "tied"),
    *("qkv_bias", "out_bias", "mlp_bias", "down_bias", "norm_bias"),
)


class ExactReferenceError(CompressionError):
    """Base of what the oracle of the exact weak model refuses."""


class ReferenceFormatError(ExactReferenceError):
    """A file that is not, to the byte, an exact weak model; nothing of it was used."""


@dataclass(frozen=True)
class Architecture:
    """Section 3.1's `architecture`: sizes in entries, and which parts the model has."""

    family: str
    activation: str
    vocabulary_size: int
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_size: int
    rotary_size: int
    mlp_size: int
    context_tokens: int
    centred_norm: bool
    gated_mlp: bool
    parallel_residual: bool
    head_norm: bool
    tied: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    down_bias: bool
    norm_bias: bool


class LayerExponents(NamedTuple):
    """The exponents one layer's queries, keys and values are rounded to."""

    query: int
    key: int
    value: int


class LinearNumbers(NamedTuple):
    """What the header says of one linear layer: digits per input, exponent of the weights."""

    digits: int
    exponent: int


class NormNumbers(NamedTuple):
    """What the header says of one norm: epsilon in units of the squared input, exponent of the gains."""

    epsilon: int
    exponent: int


class TensorPlan(NamedTuple):
    """One tensor the header asks for: its place and its inclusive value limits."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype][1]).itemsize


@dataclass(frozen=True)
class ReferenceFile:
    """A checked file: the header's numbers by name, and every tensor by name in its stored dtype."""

    architecture: Architecture
    profile: str
    fingerprint: str
    layers: tuple[LayerExponents, ...]
    linears: dict[str, LinearNumbers]
    norms: dict[str, NormNumbers]
    tensors: dict[str, Tensor]


def require(condition: bool, message: str) -> None:
    """Refuse the file with `message` unless the condition holds."""
    if not condition:
        raise ReferenceFormatError(message, remedy=REMEDY)


def canonical(value: object) -> bytes:
    """Return section 2's canonical JSON, without padding."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def parsed(text: bytes | str, what: str) -> dict[str, Any]:
    """Return the JSON object in `text`; keys written twice are caught later, when the bytes are compared."""
    try:
        value = json.loads(text.decode("ascii") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise ReferenceFormatError(f"{what} is not JSON: {error}", remedy=REMEDY) from error
    require(type(value) is dict, f"{what} is not a JSON object")
    return dict(value)


def members(value: object, keys: set[str], what: str) -> dict[str, Any]:
    """Return a JSON object that has exactly `keys`."""
    if type(value) is not dict or value.keys() != keys:
        raise ReferenceFormatError(f"{what} does not have exactly the keys {sorted(keys)[:20]}", remedy=REMEDY)
    return value


def integer(value: object, low: int, high: int, what: str) -> int:
    """Return an integer within inclusive limits; true is not 1 and 1.0 is not 1."""
    if type(value) is not int or not low <= value <= high:
        raise ReferenceFormatError(f"{what} is not an integer from {low} to {high}", remedy=REMEDY)
    return value


def read_architecture(value: object) -> Architecture:
    """Check and return the header's `architecture`."""
    found = members(value, {*SIZES, *CHOICES, *SWITCHES}, "architecture")
    for key, (low, high) in SIZES.items():
        integer(found[key], low, high, f"architecture.{key}")
    for key, choices in CHOICES.items():
        require(type(found[key]) is str and found[key] in choices, f"architecture.{key} is not one of {choices}")
    for key in SWITCHES:
        require(type(found[key]) is bool, f"architecture.{key} is not true or false")
    architecture = Architecture(**found)
    require(architecture.head_count % architecture.kv_head_count == 0, "kv_head_count does not divide head_count")
    rotary = architecture.rotary_size
    require(rotary % 2 == 0 and rotary <= architecture.head_size, "rotary_size is odd or above head_size")
    return architecture


def linear_shapes(a: Architecture) -> dict[str, tuple[int, int, bool]]:
    """Return linear layer's name -> (outputs, inputs, whether it has a bias): section 3.2's first table."""
    heads, shared, up = a.head_count * a.head_size, 2 * a.kv_head_count * a.head_size, a.mlp_size * (1 + a.gated_mlp)
    shapes = {"embedding": (a.vocabulary_size, a.hidden_size, False)}
    for index in range(a.layer_count):
        shapes[f"layers.{index}.qkv"] = (heads + shared, a.hidden_size, a.qkv_bias)
        shapes[f"layers.{index}.out"] = (a.hidden_size, heads, a.out_bias)
        shapes[f"layers.{index}.mlp"] = (up, a.hidden_size, a.mlp_bias)
        shapes[f"layers.{index}.down"] = (a.hidden_size, a.mlp_size, a.down_bias)
    if not a.tied:
        shapes["head"] = (a.vocabulary_size, a.hidden_size, False)
    return shapes


def norm_shapes(a: Architecture) -> dict[str, tuple[int, bool]]:
    """Return norm's name -> (size, whether it has a bias): section 3.2's second table."""
    shapes = {"final_norm": (a.hidden_size, a.norm_bias)}
    for index in range(a.layer_count):
        for name in ("attention_norm", "mlp_norm"):
            shapes[f"layers.{index}.{name}"] = (a.hidden_size, a.norm_bias)
        if a.head_norm:
            for name in ("query_norm", "key_norm"):
                shapes[f"layers.{index}.{name}"] = (a.head_size, False)
    return shapes


def read_layers(value: object, count: int) -> tuple[LayerExponents, ...]:
    """Check and return the header's `layers`."""
    if type(value) is not list or len(value) != count:
        raise ReferenceFormatError(f"layers is not a list of {count} objects", remedy=REMEDY)
    layers = []
    for index, entry in enumerate(value):
        found = members(entry, {"query_exponent", "key_exponent", "value_exponent"}, f"layers[{index}]")
        exponents = {key: integer(number, 0, 12, f"layers[{index}].{key}") for key, number in found.items()}
        layer = LayerExponents(*(exponents[f"{field}_exponent"] for field in LayerExponents._fields))
        require(layer.query + layer.key >= 10, f"layers[{index}]: query_exponent + key_exponent is below 10")
        layers.append(layer)
    return tuple(layers)


def read_linears(value: object, profile: str, architecture: Architecture) -> dict[str, LinearNumbers]:
    """Check and return the header's `linears`."""
    found = members(value, set(linear_shapes(architecture)), "linears")
    linears = {}
    for name, entry in found.items():
        numbers = members(entry, {"digits", "exponent"}, f"linears.{name}")
        digits_max = 2 if profile == "int8" and name != "embedding" else 1
        linears[name] = LinearNumbers(
            integer(numbers["digits"], 1, digits_max, f"linears.{name}.digits"),
            integer(numbers["exponent"], -62, 62, f"linears.{name}.exponent"),
        )
    return linears


def read_norms(value: object, architecture: Architecture) -> dict[str, NormNumbers]:
    """Check and return the header's `norms`."""
    found = members(value, set(norm_shapes(architecture)), "norms")
    norms = {}
    for name, entry in found.items():
        numbers = members(entry, {"epsilon", "exponent"}, f"norms.{name}")
        norms[name] = NormNumbers(
            integer(numbers["epsilon"], 1, 1 << 60, f"norms.{name}.epsilon"),
            integer(numbers["exponent"], -8, 54, f"norms.{name}.exponent"),
        )
    return norms


def read_header(header: dict[str, Any]) -> ReferenceFile:
    """Check section 3.1's header and return it, still without tensors."""
    keys = {"format", "profile", "fingerprint", "source", "grids", "architecture", "layers", "linears", "norms"}
    members(header, keys, "the header")
    profile, fingerprint = header["profile"], header["fingerprint"]
    require(header["format"] == FORMAT, f"format is not {FORMAT!r}")
    require(type(profile) is str and profile in {"int16", "int8"}, "profile is neither int16 nor int8")
    require(type(fingerprint) is str, "fingerprint is not a string")
    for key, text in members(header["source"], {"fingerprint", "name"}, "source").items():
        good = type(text) is str and len(text) <= SOURCE_CHARACTERS_MAX
        require(good, f"source.{key} is not a string of at most {SOURCE_CHARACTERS_MAX} characters")
    for key, number in members(header["grids"], set(GRIDS), "grids").items():
        integer(number, GRIDS[key], GRIDS[key], f"grids.{key}")
    architecture = read_architecture(header["architecture"])
    return ReferenceFile(
        architecture=architecture,
        profile=profile,
        fingerprint=fingerprint,
        layers=read_layers(header["layers"], architecture.layer_count),
        linears=read_linears(header["linears"], profile, architecture),
        norms=read_norms(header["norms"], architecture),
        tensors={},
    )


def plans(a: Architecture, profile: str) -> Iterator[TensorPlan]:
    """Yield every tensor of section 3.2, in no particular order."""
    for name, (outputs, inputs, biased) in linear_shapes(a).items():
        wide = profile == "int16" or name == "embedding"
        dtype, largest = ("I16", 32767) if wide else ("I8", 127)
        yield TensorPlan(f"{name}.weight", dtype, (outputs, inputs), -largest, largest)
        yield TensorPlan(f"{name}.scale", "I32", (outputs,), 1, 1 << 24)
        if biased:
            yield TensorPlan(f"{name}.bias", "I64", (outputs,), -(1 << 40), 1 << 40)
    for name, (size, biased) in norm_shapes(a).items():
        yield TensorPlan(f"{name}.gain", "I32", (size,), -(1 << 24), 1 << 24)
        if biased:
            yield TensorPlan(f"{name}.bias", "I64", (size,), -(1 << 56), 1 << 56)
    for name in ("rope.cos", "rope.sin"):
        yield TensorPlan(name, "I32", (a.context_tokens, a.rotary_size // 2), -(1 << 25), 1 << 25)
    yield TensorPlan("table.softmax", "I32", (GRIDS["softmax_entries"],), 0, 1 << 20)
    yield TensorPlan("table.activation", "I32", (GRIDS["activation_entries"],), -(1 << 16), 1 << 16)
    yield TensorPlan("table.frequency", "I32", (GRIDS["frequency_entries"],), 1, 1 << 24)


def canonical_head(header: dict[str, Any], ordered: list[TensorPlan]) -> bytes:
    """Return parts 1 and 2 of the file, as section 2 makes them of the header and the tensors."""
    entries: dict[str, object] = {"__metadata__": {"bitweir": canonical(header).decode("ascii")}}
    begin = 0
    for plan in ordered:
        end = begin + plan.size
        entries[plan.name] = {"data_offsets": [begin, end], "dtype": plan.dtype, "shape": list(plan.shape)}
        begin = end
    text = canonical(entries)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def fingerprint_of(header: dict[str, Any], ordered: list[TensorPlan], data: memoryview) -> str:
    """Return section 2's fingerprint of a header and the bytes of part 3, as 64 hexadecimal digits."""
    text = canonical({key: value for key, value in header.items() if key != "fingerprint"})
    digest = hashlib.sha256(FINGERPRINT_START + struct.pack("<Q", len(text)) + text)
    begin = 0
    for plan in ordered:
        digest.update(canonical([plan.name, plan.dtype, list(plan.shape)]))
        digest.update(data[begin : begin + plan.size])
        begin += plan.size
    return digest.hexdigest()


def checked_tensors(ordered: list[TensorPlan], data: memoryview) -> dict[str, Tensor]:
    """Return name -> tensor, each within the limits of section 3.2."""
    tensors: dict[str, Tensor] = {}
    begin = 0
    for plan in ordered:
        dtype = np.dtype(DTYPES[plan.dtype][1])
        tensor = np.frombuffer(data[begin : begin + plan.size], dtype=dtype).reshape(plan.shape)
        begin += plan.size
        low, high = int(tensor.min()), int(tensor.max())
        require(plan.low <= low and high <= plan.high, f"{plan.name} has entries outside {plan.low}..{plan.high}")
        tensors[plan.name] = tensor
    for name, first, last in (("table.softmax", 1 << 20, 0), ("table.frequency", 1 << 24, 1)):
        table = tensors[name].tolist()
        falls = all(after <= before for before, after in itertools.pairwise(table))
        require(falls and (table[0], table[-1]) == (first, last), f"{name} does not fall from {first} to {last}")
    require(int(tensors["table.activation"][-1]) == 0, "table.activation does not end with 0")
    return tensors


def read_stream(stream: BinaryIO, size: int) -> ReferenceFile:
    """Read a file of `size` bytes: its head first, and the tensors only if they are as long as the head says."""
    start = stream.read(8)
    require(len(start) == 8, "the file is shorter than 8 bytes")
    (length,) = struct.unpack("<Q", start)
    fits = 0 < length <= HEADER_BYTES_MAX and length % 8 == 0 and 8 + length <= size
    require(fits, f"a header of {length} bytes is empty, too long, or not a multiple of 8")
    text = stream.read(length)
    metadata = members(parsed(text, "part 2").get("__metadata__"), {"bitweir"}, "__metadata__")["bitweir"]
    require(type(metadata) is str, "the header is not a string")
    header = parsed(metadata, "the header")
    content = read_header(header)
    ordered = sorted(plans(content.architecture, content.profile), key=lambda p: (DTYPES[p.dtype][0], p.name))
    require(start + text == canonical_head(header, ordered), "parts 1 and 2 are not canonical")
    total = sum(plan.size for plan in ordered)
    require(size == 8 + length + total, f"the file is not {8 + length + total} bytes long")
    read = stream.read(total)
    require(len(read) == total, "the file became shorter while it was read")
    data = memoryview(read)
    require(content.fingerprint == fingerprint_of(header, ordered, data), "the fingerprint is not the file's")
    content.tensors.update(checked_tensors(ordered, data))
    return content


def read_file(path: Path) -> ReferenceFile:
    """Read and check a file; raises ReferenceFormatError."""
    try:
        with path.open("rb") as stream:
            return read_stream(stream, path.stat().st_size)
    except OSError as error:
        raise ReferenceFormatError(f"cannot read {path}: {error.strerror}", remedy="check the path") from error
