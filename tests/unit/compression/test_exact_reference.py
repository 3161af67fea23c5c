"""The oracle of the exact weak model gives every frozen integer, and refuses what is not an exact file with its errors.

A test that has to write a file signs it with the oracle's own functions: what it asks is whether a file that is whole
and wrong is refused, not whether the fingerprint is right; the frozen files show that.
"""

import ast
import copy
import hashlib
import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.errors import CompressionError
from bitweir_compression.exact import reference, reference_file
from bitweir_compression.exact.reference import (
    ReferenceFormatError,
    ReferenceInputError,
    ReferenceModel,
    ReferenceRangeError,
    load,
    ratio_of,
    round_shift,
    shift_for,
)

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
FROZEN = json.loads((VECTORS / "exact.json").read_text())["files"]
PLAIN, GATED = "exact_plain_int16", "exact_gated_int8"
BYTES = {name: (VECTORS / f"{name}.safetensors").read_bytes() for name in FROZEN}
HEAD_BYTES = {name: 8 + struct.unpack("<Q", content[:8])[0] for name, content in BYTES.items()}
HEADERS = {
    name: json.loads(json.loads(content[8 : HEAD_BYTES[name]])["__metadata__"]["bitweir"])
    for name, content in BYTES.items()
}
# What a header or a corrupted file may hold instead of what belongs there.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-2, 20),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a test writes its file."""
    return tmp_path_factory.mktemp("exact") / "x.safetensors"


@pytest.fixture(scope="module", params=sorted(FROZEN))
def name(request) -> str:
    return request.param


def digest(values: np.ndarray) -> str:
    assert values.dtype == np.int64
    return hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()


def signed(name: str, header: dict, data: bytes | None = None) -> bytes:
    """Return a file with this header, right but for what the header says, and with the frozen or the given tensors."""
    data = BYTES[name][HEAD_BYTES[name] :] if data is None else data
    content = reference_file.read_header(HEADERS[name])
    plans = reference_file.plans(content.architecture, content.profile)
    ordered = sorted(plans, key=lambda plan: (reference_file.DTYPES[plan.dtype][0], plan.name))
    if "fingerprint" in header:
        header = {**header, "fingerprint": reference_file.fingerprint_of(header, ordered, memoryview(data))}
    return reference_file.canonical_head(header, ordered) + data


def changed(name: str, keys: tuple[str | int, ...], value: object) -> dict:
    """Return a frozen file's header with one entry replaced."""
    header = copy.deepcopy(HEADERS[name])
    entry = header
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    return header


def with_entry(name: str, tensor: str, index: int, value: int) -> bytes:
    """Return a frozen file with one entry of one tensor replaced, and signed."""
    content = BYTES[name]
    entry = json.loads(content[8 : HEAD_BYTES[name]])[tensor]
    begin, end = entry["data_offsets"]
    data = bytearray(content[HEAD_BYTES[name] :])
    values = np.frombuffer(memoryview(data)[begin:end], reference_file.DTYPES[entry["dtype"]][1])
    values[index] = value
    return signed(name, HEADERS[name], bytes(data))


def loads(place: Path, content: bytes) -> ReferenceModel | None:
    """Return the model of a file with this content, or None if it is refused; any untyped error is the test's."""
    place.write_bytes(content)
    try:
        return load(place)
    except ReferenceFormatError as error:
        assert error.remedy
        return None


def test_every_frozen_integer_is_reproduced(name: str) -> None:
    model = load(VECTORS / f"{name}.safetensors")
    assert model.fingerprint == FROZEN[name]["fingerprint"]
    assert FROZEN[name]["cases"]
    for case in FROZEN[name]["cases"]:
        logits = model.logits(case["tokens"])
        assert logits.shape == (len(case["tokens"]), model.architecture.vocabulary_size)
        assert logits[-1].tolist() == case["last_logits"]
        assert digest(logits) == case["logits_sha256"]
        assert digest(model.frequencies(logits)) == case["frequencies_sha256"]
        assert digest(model.frequencies(logits, 7, 10)) == case["frequencies_7_10_sha256"]


def test_the_tests_writer_writes_what_is_frozen(name: str) -> None:
    assert signed(name, HEADERS[name]) == BYTES[name]


@pytest.mark.parametrize(
    ("name", "tensor", "delta"),
    [
        (PLAIN, "layers.1.mlp.weight", 1000),
        (PLAIN, "layers.0.attention_norm.bias", 1 << 40),
        (GATED, "layers.1.key_norm.gain", 1 << 20),
        (GATED, "rope.sin", 1 << 20),
        (GATED, "layers.0.qkv.bias", 1 << 24),
    ],
)
def test_a_changed_tensor_changes_the_logits(place: Path, name: str, tensor: str, delta: int) -> None:
    tokens = FROZEN[name]["cases"][2]["tokens"]
    before = load(VECTORS / f"{name}.safetensors").logits(tokens)
    model = loads(place, with_entry(name, tensor, 0, delta))
    assert model is not None
    assert (model.logits(tokens) != before).any()


@given(data=st.data())
def test_a_flipped_byte_in_the_head_is_refused(place: Path, name: str, data) -> None:
    content = bytearray(BYTES[name])
    # The bytes that say how long the head is are few, and more interesting than the rest.
    index = data.draw(st.integers(0, 7) | st.integers(0, HEAD_BYTES[name] - 1))
    content[index] ^= data.draw(st.integers(1, 255))
    assert loads(place, bytes(content)) is None


@given(data=st.data())
def test_a_flipped_byte_in_a_tensor_is_refused(place: Path, name: str, data) -> None:
    content = bytearray(BYTES[name])
    content[data.draw(st.integers(HEAD_BYTES[name], len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert loads(place, bytes(content)) is None


@given(data=st.data())
def test_a_shorter_or_longer_file_is_refused(place: Path, name: str, data) -> None:
    content = BYTES[name]
    kept = data.draw(st.integers(0, HEAD_BYTES[name]) | st.integers(0, len(content)))
    tail = data.draw(st.binary(max_size=16))
    if content[:kept] + tail != content:
        assert loads(place, content[:kept] + tail) is None
    assert loads(place, content + b"\0") is None


@given(text=st.recursive(JUNK, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)))
def test_any_other_json_is_refused(place: Path, text) -> None:
    inner = json.dumps(text)
    for body in (inner, json.dumps({"__metadata__": text}), json.dumps({"__metadata__": {"bitweir": inner}})):
        padded = body.encode() + b" " * (-len(body) % 8)
        assert loads(place, struct.pack("<Q", len(padded)) + padded) is None


@given(data=st.data())
def test_a_signed_file_with_another_header_never_raises_an_untyped_error(place: Path, name: str, data) -> None:
    keys: tuple[str | int, ...] = ()
    entry = HEADERS[name]
    while isinstance(entry, dict | list) and entry:
        key = data.draw(st.sampled_from(sorted(entry) if isinstance(entry, dict) else range(len(entry))))
        keys, entry = (*keys, key), entry[key]
        if data.draw(st.integers(0, 3)) == 0:
            break
    model = loads(place, signed(name, changed(name, keys, data.draw(JUNK))))
    if model is None:
        return
    # What loads has the header's numbers and is evaluated, or refused with an error of the oracle's.
    try:
        assert model.logits([0, 1]).shape == (2, model.architecture.vocabulary_size)
    except ReferenceRangeError as error:
        assert error.remedy


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("format",), "bitweir-exact 2"),
        (("profile",), "int4"),
        (("profile",), "int8"),
        (("source", "name"), "x" * 257),
        (("source", "url"), "x"),
        (("grids", "norm_bits"), 24.0),
        (("grids", "norm_bits"), 25),
        (("more",), 1),
        (("layers",), []),
        (("layers", 0, "key_exponent"), 13),
        (("layers", 0), {"key_exponent": 4, "query_exponent": 5, "value_exponent": 5}),
        (("linears", "embedding", "digits"), 2),
        (("linears", "embedding", "digits"), True),
        (("linears", "layers.0.out", "digits"), 2),
        (("linears", "layers.0.out", "exponent"), 63),
        (("linears", "head"), {"digits": 1, "exponent": 10}),
        (("norms", "final_norm", "epsilon"), 0),
        (("norms", "final_norm", "exponent"), 55),
        (("architecture", "tied"), False),
        (("architecture", "tied"), 1),
        (("architecture", "family"), "gpt2"),
        (("architecture", "activation"), []),
        (("architecture", "rotary_size"), 3),
        (("architecture", "rotary_size"), 8),
        (("architecture", "kv_head_count"), 2),
        (("architecture", "vocabulary_size"), 68),
        (("architecture", "vocabulary_size"), 1 << 80),
        (("architecture", "layer_count"), 256),
    ],
)
def test_a_signed_file_outside_the_limits_is_refused(place: Path, keys: tuple[str | int, ...], value: object) -> None:
    assert loads(place, signed(PLAIN, changed(PLAIN, keys, value))) is None


@pytest.mark.parametrize(
    ("name", "tensor", "index", "value"),
    [
        (PLAIN, "embedding.weight", 0, -32768),
        (GATED, "head.weight", 3, -128),
        (PLAIN, "layers.0.mlp.scale", 0, 0),
        (PLAIN, "layers.0.mlp.scale", 0, (1 << 24) + 1),
        (PLAIN, "layers.0.mlp.bias", 0, (1 << 40) + 1),
        (PLAIN, "final_norm.gain", 0, -(1 << 24) - 1),
        (PLAIN, "final_norm.bias", 0, (1 << 56) + 1),
        (PLAIN, "rope.cos", 0, (1 << 25) + 1),
        (PLAIN, "table.softmax", 0, (1 << 20) - 1),
        (PLAIN, "table.softmax", 5, 0),
        (PLAIN, "table.softmax", -1, 1),
        (PLAIN, "table.frequency", -1, 0),
        (PLAIN, "table.activation", 0, (1 << 16) + 1),
        (PLAIN, "table.activation", -1, 1),
    ],
)
def test_a_signed_file_with_an_entry_outside_its_limits_is_refused(
    place: Path, name: str, tensor: str, index: int, value: int
) -> None:
    assert loads(place, with_entry(name, tensor, index, value)) is None


def test_a_head_in_another_layout_is_refused(place: Path) -> None:
    head = json.loads(BYTES[PLAIN][8 : HEAD_BYTES[PLAIN]])
    data = BYTES[PLAIN][HEAD_BYTES[PLAIN] :]
    texts = [
        json.dumps(head, sort_keys=True),
        json.dumps(dict(reversed(head.items())), separators=(",", ":")),
        reference_file.canonical(head).decode().replace("{", '{"__metadata__":{},', 1),
        reference_file.canonical(head).decode() + " " * 8,
        reference_file.canonical({**head, "more": {}}).decode(),
        "[" * 100_000,
        "1" * 10_000,
        '{"__metadata__":NaN}',
    ]
    for text in texts:
        padded = text.encode() + b" " * (-len(text) % 8)
        assert loads(place, struct.pack("<Q", len(padded)) + padded + data) is None


def test_a_wrong_fingerprint_is_refused(place: Path) -> None:
    content = BYTES[PLAIN].replace(HEADERS[PLAIN]["fingerprint"].encode(), b"0" * 64)
    assert content != BYTES[PLAIN]
    assert loads(place, content) is None


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ReferenceFormatError) as caught:
            load(path)
        assert caught.value.remedy


def test_a_residual_stream_that_grows_too_large_is_an_error(place: Path) -> None:
    model = loads(place, signed(PLAIN, changed(PLAIN, ("linears", "embedding", "exponent"), -62)))
    assert model is not None
    with pytest.raises(ReferenceRangeError, match="residual stream") as caught:
        model.logits([1])
    assert caught.value.remedy


def test_what_has_no_result_is_refused() -> None:
    model = load(VECTORS / f"{PLAIN}.safetensors")
    for tokens in ([67], [-1], [0] * 49, [0.5], ["0"], 5):
        with pytest.raises(ReferenceInputError):
            model.logits(tokens)  # type: ignore[arg-type]
    assert model.logits([]).shape == (0, 67)
    assert model.frequencies(model.logits([])).shape == (0, 67)
    logits = np.zeros((1, 67), dtype=np.int64)
    for bad in (logits[0], logits[:, 1:], logits.astype(float)):
        with pytest.raises(ReferenceInputError):
            model.frequencies(bad)
    for numerator, denominator in ((0, 1), (1, 0), (10_001, 1), (1, 10_001), (True, 1), (1, 0.5)):
        with pytest.raises(ReferenceInputError):
            model.frequencies(logits, numerator, denominator)


def test_a_temperature_is_the_nearest_ratio() -> None:
    assert ratio_of(0.7) == Fraction(7, 10)
    assert ratio_of(1.0) == 1
    assert ratio_of(1 / 3) == Fraction(1, 3)
    assert ratio_of(10_000) == 10_000
    for temperature in (0.0, -1.0, 1e-9, 10_001.0, float("nan"), float("inf")):
        with pytest.raises(ReferenceInputError):
            ratio_of(temperature)


def test_a_temperature_that_rounds_ties_up() -> None:
    model = load(VECTORS / f"{PLAIN}.safetensors")
    table = reference_file.read_file(VECTORS / f"{PLAIN}.safetensors").tensors["table.frequency"]
    logits = np.zeros((1, 67), dtype=np.int64)
    logits[0, 1:6] = -1, -3, -5, -2048, -(1 << 40)
    # At temperature 2 the differences 1, 3, 5 are the ties 1/2, 3/2, 5/2, which go up to 1, 2, 3; the rest is clamped.
    assert model.frequencies(logits, 2, 1)[0, :6].tolist() == table[[0, 1, 2, 3, 1024, 1024]].tolist()
    assert (model.frequencies(logits, 4, 2) == model.frequencies(logits, 2, 1)).all()


def test_rounding_follows_the_specification() -> None:
    cases = [((-1, 1), 0), ((-3, 1), -1), ((3, 1), 2), ((5, 0), 5), ((-5, -3), -40), ((1 << 61, 62), 1)]
    assert [round_shift(*arguments) for arguments, _ in cases] == [result for _, result in cases]
    assert [shift_for(m, 127) for m in (0, 127, 128, 253, 254, 255)] == [0, 0, 1, 1, 1, 2]


@given(st.integers(-(1 << 80), 1 << 80), st.integers(0, 70))
def test_a_shift_is_the_floor_of_the_quotient_and_a_half(value: int, bits: int) -> None:
    exact = Fraction(value, 1 << bits) + Fraction(1, 2)
    assert round_shift(value, bits) == exact.numerator // exact.denominator


def test_errors_are_the_packages() -> None:
    for error in (ReferenceFormatError, ReferenceInputError, ReferenceRangeError):
        assert issubclass(error, CompressionError)


@pytest.mark.parametrize("module", [reference, reference_file], ids=lambda module: module.__name__)
def test_the_oracle_shares_nothing_with_what_it_checks(module) -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert not {name.partition(".")[0] for name in imported} & {"torch", "safetensors", "scipy", "importlib"}
    ours = {name for name in imported if name.startswith("bitweir")}
    assert ours <= {"bitweir_compression.errors", "bitweir_compression.exact.reference_file"}
