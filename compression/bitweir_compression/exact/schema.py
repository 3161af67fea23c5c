"""What an exact file says: the architecture, the grids, the parameters, and which tensors follow from them.

Rules:
1. The header holds integers, booleans and strings only. There is exactly one way to write a given header.
2. Grids are fixed by the version: a file states them, and a reader refuses any other value.
3. Every tensor's name, dtype and shape follow from the architecture; nothing may be missing and nothing added.
4. Every number a reader allocates by is limited here.

docs/reference/exact-format.md specifies the same and changes together with this file. No torch, no numpy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from bitweir_compression.exact.errors import ExactFormatError

FORMAT: Final = "bitweir-exact"
VERSION: Final = 1
PROFILES: Final = ("int16", "int8")
FAMILIES: Final = ("gpt_neox", "llama", "mistral", "qwen2", "qwen3")
ACTIVATIONS: Final = ("gelu", "gelu_tanh", "relu", "silu")

# Steps of fixed-point values: exponent e means a step of 2**-e.
RESIDUAL_EXPONENT: Final = 20
HIDDEN_EXPONENT: Final = 16
ROPE_EXPONENT: Final = 24
NORM_BITS: Final = 24
SCORE_EXPONENT: Final = 10
SOFTMAX_BITS: Final = 20
SOFTMAX_ENTRIES: Final = 15 * 1024 + 1
ATTENTION_EXTRA_BITS: Final = 8
ACTIVATION_EXPONENT: Final = 10
ACTIVATION_ENTRIES: Final = 16 * 1024 + 1
LOGIT_EXPONENT: Final = 6
FREQUENCY_BITS: Final = 24
FREQUENCY_ENTRIES: Final = 16 * 64 + 1

# Largest magnitudes, as powers of two: what makes every later operation fit 2**62, or 2**53 in a GEMM.
RESIDUAL_BITS: Final = 40
HEAD_BITS: Final = 34
QUERY_BITS: Final = 22
VALUE_BITS: Final = 19
MLP_BITS: Final = 30
LOGIT_BITS: Final = 30
SUM_BITS: Final = 60
ROPE_BITS: Final = 25
BIAS_BITS: Final = 40
NORM_BIAS_BITS: Final = 56
SCALE_BITS: Final = 24
CARRIER_BITS: Final = 53

GRIDS: Final[Mapping[str, int]] = {
    "activation_entries": ACTIVATION_ENTRIES,
    "activation_exponent": ACTIVATION_EXPONENT,
    "attention_extra_bits": ATTENTION_EXTRA_BITS,
    "frequency_bits": FREQUENCY_BITS,
    "frequency_entries": FREQUENCY_ENTRIES,
    "hidden_exponent": HIDDEN_EXPONENT,
    "logit_exponent": LOGIT_EXPONENT,
    "norm_bits": NORM_BITS,
    "residual_exponent": RESIDUAL_EXPONENT,
    "rope_exponent": ROPE_EXPONENT,
    "score_exponent": SCORE_EXPONENT,
    "softmax_bits": SOFTMAX_BITS,
    "softmax_entries": SOFTMAX_ENTRIES,
}

# Weight magnitude by profile, and activation magnitude by profile and number of digits.
WEIGHT_MAX: Final[Mapping[str, int]] = {"int16": 32767, "int8": 127}
WEIGHT_DTYPE: Final[Mapping[str, str]] = {"int16": "I16", "int8": "I8"}
# 127 * 128 + 63: the largest integer whose two base-128 digits are both at most 127 in magnitude.
ACTIVATION_MAX: Final[Mapping[tuple[str, int], int]] = {("int16", 1): 32767, ("int8", 1): 127, ("int8", 2): 16319}
# 1040 * 127 * 127 < 2**24: the most products a float32 sum holds exactly.
CHUNK_INPUTS_MAX: Final = 1040

VOCABULARY_MAX: Final = 1 << 20
HIDDEN_MAX: Final = 8192
MLP_MAX: Final = 1 << 16
LAYERS_MAX: Final = 256
HEADS_MAX: Final = 256
HEAD_SIZE_MAX: Final = 512
# VALUE_BITS + SOFTMAX_BITS + 14 = 53: the sum over keys stays exact in float64.
CONTEXT_MAX: Final = 1 << 14
EXPONENT_MAX: Final = 62
EPSILON_BITS: Final = 60
# A norm's output has exponent 24 + this: 16, so that a head's can be rounded to 16, to 78, so that by 62 bits at most.
NORM_EXPONENT_MIN: Final = -8
NORM_EXPONENT_MAX: Final = 54

Header = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """The shape of a model; every field is in the header under the same name.

    Attributes:
        family: the Hugging Face `model_type` it came from; decides nothing here.
        vocabulary_size, hidden_size, layer_count, head_count, kv_head_count, head_size, mlp_size: as usual.
        rotary_size: how many leading dimensions of a head RoPE turns; even, at most head_size.
        context_tokens: longest sequence; the rows of the RoPE tables.
        activation: which function the activation table holds; decides nothing here.
        centred_norm: LayerNorm instead of RMSNorm.
        gated_mlp: act(gate) * up instead of act(up).
        parallel_residual: attention and MLP both read the layer's input.
        head_norm: queries and keys are normalised per head before RoPE.
        tied: the head uses the embedding's tensors.
        qkv_bias, out_bias, mlp_bias, down_bias: whether these linear layers add a bias.
        norm_bias: whether the norms (not those of heads) add a bias.
    """

    family: str
    vocabulary_size: int
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_size: int
    rotary_size: int
    mlp_size: int
    context_tokens: int
    activation: str
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

    @property
    def query_size(self) -> int:
        """Outputs of the query projection."""
        return self.head_count * self.head_size

    @property
    def kv_size(self) -> int:
        """Outputs of the key projection, and of the value projection."""
        return self.kv_head_count * self.head_size

    def linears(self) -> Iterator[tuple[str, int, int, bool]]:
        """Yield (name, outputs, inputs, has bias) of every linear layer; the embedding counts as one without inputs."""
        yield "embedding", self.vocabulary_size, self.hidden_size, False
        for index in range(self.layer_count):
            layer = f"layers.{index}."
            yield layer + "qkv", self.query_size + 2 * self.kv_size, self.hidden_size, self.qkv_bias
            yield layer + "out", self.hidden_size, self.query_size, self.out_bias
            yield layer + "mlp", self.mlp_size * (1 + self.gated_mlp), self.hidden_size, self.mlp_bias
            yield layer + "down", self.hidden_size, self.mlp_size, self.down_bias
        if not self.tied:
            yield "head", self.vocabulary_size, self.hidden_size, False

    def norms(self) -> Iterator[tuple[str, int, bool]]:
        """Yield (name, size, has bias) of every norm."""
        for index in range(self.layer_count):
            layer = f"layers.{index}."
            yield layer + "attention_norm", self.hidden_size, self.norm_bias
            if self.head_norm:
                yield layer + "query_norm", self.head_size, False
                yield layer + "key_norm", self.head_size, False
            yield layer + "mlp_norm", self.hidden_size, self.norm_bias
        yield "final_norm", self.hidden_size, self.norm_bias


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be: safetensors dtype, shape, and the inclusive range of its values."""

    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int


def tensor_specs(profile: str, shape: Architecture) -> dict[str, TensorSpec]:
    """Return name -> what it must be, for every tensor of a file. The embedding is always int16."""
    specs: dict[str, TensorSpec] = {}
    for name, outputs, inputs, has_bias in shape.linears():
        kind = "int16" if name == "embedding" else profile
        limit = WEIGHT_MAX[kind]
        specs[name + ".weight"] = TensorSpec(WEIGHT_DTYPE[kind], (outputs, inputs), -limit, limit)
        specs[name + ".scale"] = TensorSpec("I32", (outputs,), 1, 1 << SCALE_BITS)
        if has_bias:
            specs[name + ".bias"] = TensorSpec("I64", (outputs,), -(1 << BIAS_BITS), 1 << BIAS_BITS)
    for name, size, has_bias in shape.norms():
        specs[name + ".gain"] = TensorSpec("I32", (size,), -(1 << NORM_BITS), 1 << NORM_BITS)
        if has_bias:
            specs[name + ".bias"] = TensorSpec("I64", (size,), -(1 << NORM_BIAS_BITS), 1 << NORM_BIAS_BITS)
    turns = (shape.context_tokens, shape.rotary_size // 2)
    for name in ("rope.cos", "rope.sin"):
        specs[name] = TensorSpec("I32", turns, -(1 << ROPE_BITS), 1 << ROPE_BITS)
    specs["table.softmax"] = TensorSpec("I32", (SOFTMAX_ENTRIES,), 0, 1 << SOFTMAX_BITS)
    limit = 1 << HIDDEN_EXPONENT
    specs["table.activation"] = TensorSpec("I32", (ACTIVATION_ENTRIES,), -limit, limit)
    specs["table.frequency"] = TensorSpec("I32", (FREQUENCY_ENTRIES,), 1, 1 << FREQUENCY_BITS)
    return specs


def architecture_header(shape: Architecture) -> dict[str, Any]:
    """Return the header's `architecture` object."""
    return asdict(shape)


def checked_header(header: object) -> tuple[str, Architecture]:
    """Check everything a header says and return (profile, architecture).

    Raises:
        ExactFormatError: a key is missing or unknown, or a value is of the wrong type or out of its range.
    """
    top = _object(header, "header")
    _keys(top, {"architecture", "fingerprint", "format", "grids", "layers", "linears", "norms", "profile", "source"})
    if top["format"] != f"{FORMAT} {VERSION}":
        raise ExactFormatError(
            f"format {top['format']!r} is not {FORMAT} {VERSION}", remedy="quantise the model again with this version"
        )
    profile = top["profile"]
    if profile not in PROFILES:
        raise _wrong(f"profile {profile!r}")
    if _object(top["grids"], "grids") != GRIDS or not all(type(value) is int for value in top["grids"].values()):
        raise _wrong("other grids than this version's")
    source = _object(top["source"], "source")
    _keys(source, {"fingerprint", "name"})
    if not all(isinstance(value, str) and len(value) <= 256 for value in source.values()):
        raise _wrong("the source is not described by two short strings")
    shape = _architecture(_object(top["architecture"], "architecture"))
    _layers(top["layers"], shape)
    _linears(_object(top["linears"], "linears"), profile, shape)
    _norms(_object(top["norms"], "norms"), shape)
    return profile, shape


def _architecture(raw: Mapping[str, Any]) -> Architecture:
    _keys(raw, {field.name for field in fields(Architecture)})
    for field in fields(Architecture):
        if type(raw[field.name]) is not field.type:
            raise _wrong(f"{field.name} is {raw[field.name]!r}")
    shape = Architecture(**raw)
    limits = {
        "vocabulary_size": VOCABULARY_MAX,
        "hidden_size": HIDDEN_MAX,
        "layer_count": LAYERS_MAX,
        "head_count": HEADS_MAX,
        "kv_head_count": HEADS_MAX,
        "head_size": HEAD_SIZE_MAX,
        "rotary_size": shape.head_size,
        "mlp_size": MLP_MAX,
        "context_tokens": CONTEXT_MAX,
    }
    for name, limit in limits.items():
        least = 2 if name == "rotary_size" else 1
        if not least <= raw[name] <= limit:
            raise _wrong(f"{name} is {raw[name]}; {least} to {limit} can be served")
    if shape.rotary_size % 2 or shape.head_count % shape.kv_head_count:
        raise _wrong("an odd rotary size, or heads that do not share keys evenly")
    if shape.family not in FAMILIES or shape.activation not in ACTIVATIONS:
        raise _wrong(f"family {shape.family!r} with activation {shape.activation!r}")
    return shape


def _layers(raw: object, shape: Architecture) -> None:
    if not isinstance(raw, list) or len(raw) != shape.layer_count:
        raise _wrong("`layers` does not list the layers")
    for item in raw:
        layer = _object(item, "layer")
        _keys(layer, {"key_exponent", "query_exponent", "value_exponent"})
        for name, value in layer.items():
            _integer(value, name, 0, 12)
        if layer["key_exponent"] + layer["query_exponent"] < SCORE_EXPONENT:
            raise _wrong("query and key exponents add up to less than the score's")


def _linears(raw: Mapping[str, Any], profile: str, shape: Architecture) -> None:
    _keys(raw, {name for name, _, _, _ in shape.linears()})
    for name, value in raw.items():
        linear = _object(value, name)
        _keys(linear, {"digits", "exponent"})
        _integer(linear["digits"], name, 1, 2)
        _integer(linear["exponent"], name, -EXPONENT_MAX, EXPONENT_MAX)
        if (profile, linear["digits"]) not in ACTIVATION_MAX or (name == "embedding" and linear["digits"] != 1):
            raise _wrong(f"{name} has {linear['digits']} digits in profile {profile}")


def _norms(raw: Mapping[str, Any], shape: Architecture) -> None:
    _keys(raw, {name for name, _, _ in shape.norms()})
    for name, value in raw.items():
        norm = _object(value, name)
        _keys(norm, {"epsilon", "exponent"})
        _integer(norm["epsilon"], name, 1, 1 << EPSILON_BITS)
        _integer(norm["exponent"], name, NORM_EXPONENT_MIN, NORM_EXPONENT_MAX)


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} is not an object")
    return value


def _keys(value: Mapping[str, Any], expected: set[str]) -> None:
    if set(value) != expected:
        raise _wrong(f"keys {sorted(set(value) ^ expected)[:4]} are missing or unknown")


def _integer(value: object, what: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _wrong(f"{what} is {value!r}, outside {low} to {high}")


def _wrong(what: str) -> ExactFormatError:
    return ExactFormatError(f"the header is not sound: {what}", remedy="the file is damaged: quantise the model again")
