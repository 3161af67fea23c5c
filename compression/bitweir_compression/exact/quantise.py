"""From a Hugging Face model to exact.safetensors, and what that costs.

Rules:
1. Rounding happens here, once, in float64; whatever comes out of this file is integers and decides alone.
2. Exponents follow from static bounds (bounds.py), not from data: a converted model cannot leave its ranges because a
   prompt is unusual. Only the residual stream is checked while running.
3. int16: each row of a matrix has a power-of-two scale. int8: each row has a scale of 15 bits, for half
   a bit counts there.
4. The report compares with the float64 model on given tokens. It is a measurement, not a bound.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bitweir_compression.exact import bounds, format, schema, sources, tables
from bitweir_compression.exact.errors import ExactConversionError
from bitweir_compression.exact.format import ExactFile, Tensor
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.sources import Source

# Per-row scales of a matrix span at most this many bits; a row smaller than that by more loses precision nobody sees.
SCALE_SPAN_BITS = 12
# Inputs whose outliers cost most get two digits in profile int8.
TWO_DIGITS = ("qkv", "down", "head")
_REPORT_TOKENS = 256

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QuantiseReport:
    """What a conversion cost.

    Attributes:
        profile: `int16` or `int8`.
        fingerprint: of the file written.
        file_bytes: its size.
        token_count: positions the rest was measured on.
        logit_error_max: largest |logit difference| from the float64 model, nats; the 1/64 grid alone costs .0078.
        kl_nats_per_token: KL of the frequencies from the float64 model's distribution, mean.
        agreement: share of positions with the same most likely token.
    """

    profile: str
    fingerprint: str
    file_bytes: int
    token_count: int
    logit_error_max: float
    kl_nats_per_token: float
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a record."""
        return asdict(self)


def quantise(
    source: Path | Any,
    out: Path,
    *,
    profile: str = "int16",
    context_tokens: int | None = None,
    two_digits: Sequence[str] = TWO_DIGITS,
    token_ids: Sequence[Sequence[int]] | None = None,
    source_fingerprint: str = "",
) -> QuantiseReport:
    """Convert a model, write the file and measure it.

    Args:
        source: a Hugging Face folder, or a loaded causal language model.
        out: the file to write, or a folder to write exact.safetensors into.
        profile: `int16` (default, for small models) or `int8`.
        context_tokens: longest sequence to serve; the model's own maximum if None.
        two_digits: kinds of linear layers whose inputs get two 8-bit digits in int8: of qkv, out, mlp, down, head.
        token_ids: sequences to measure on; a fixed pseudo-random sequence if None, which flatters no model.
        source_fingerprint: of the checkpoint, for the header.

    Raises:
        ExactConversionError: the model has no exact form.
        ExactFormatError: its weights break a static bound.
    """
    model = sources.load(source) if isinstance(source, Path) else source
    context = int(model.config.max_position_embeddings) if context_tokens is None else context_tokens
    header, tensors = convert(sources.extract(model, context), profile, source_fingerprint, two_digits)
    path = out / format.FILE_NAME if out.is_dir() else out
    file = format.write(path, header, tensors)
    sequences = token_ids or [_tokens(file.architecture.vocabulary_size, min(context, _REPORT_TOKENS))]
    measured = compare(file, model, sequences)
    return QuantiseReport(profile, file.fingerprint, path.stat().st_size, **measured)


def convert(
    source: Source, profile: str, source_fingerprint: str = "", two_digits: Sequence[str] = TWO_DIGITS
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Round a model; returns the header without its fingerprint, and the tensors.

    Raises:
        ExactConversionError: the profile is unknown, or a number does not fit.
        ExactFormatError: a bound does not hold.
    """
    if profile not in schema.PROFILES:
        raise ExactConversionError(f"profile {profile!r}", remedy=f"use one of {', '.join(schema.PROFILES)}")
    shape = source.architecture
    tensors: dict[str, Tensor] = {
        "rope.cos": source.rope[0],
        "rope.sin": source.rope[1],
        "table.softmax": tables.softmax_table(),
        "table.frequency": tables.frequency_table(),
        "table.activation": tables.activation_table(shape.activation),
    }
    linears, norms = {}, {}
    for name, _, _, has_bias in shape.linears():
        linears[name] = _add_linear(source, name, profile, tensors)
        if profile == "int8" and name != "embedding" and name.rpartition(".")[2] in two_digits:
            linears[name]["digits"] = 2
        if has_bias:
            is_residual = name.endswith((".out", ".down"))
            exponent = schema.RESIDUAL_EXPONENT if is_residual else schema.HIDDEN_EXPONENT
            tensors[name + ".bias"] = _fixed(source.biases[name], exponent, schema.BIAS_BITS, name)
    for name, size, has_bias in shape.norms():
        norms[name] = _add_norm(source, name, size, tensors)
        if has_bias:
            exponent = schema.NORM_BITS + norms[name]["exponent"]
            tensors[name + ".bias"] = _fixed(source.biases[name], exponent, schema.NORM_BIAS_BITS, name)
    header: dict[str, Any] = {
        "architecture": schema.architecture_header(shape),
        "format": f"{schema.FORMAT} {schema.VERSION}",
        "grids": dict(schema.GRIDS),
        "linears": linears,
        "norms": norms,
        "profile": profile,
        "source": {"fingerprint": source_fingerprint, "name": source.name},
    }
    header["layers"] = _layer_exponents(ExactFile(profile, shape, header, tensors, ""))
    bounds.check_file(ExactFile(profile, shape, header, tensors, ""))
    return header, tensors


def compare(file: ExactFile, model: Any, sequences: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Measure a file against the Hugging Face model it came from, in float64.

    Returns:
        token_count, logit_error_max, kl_nats_per_token and agreement of `QuantiseReport`.
    """
    exact = ExactModel(file)
    model = copy.deepcopy(model).to(torch.float64)
    count, error, divergence, agreed = 0, 0.0, 0.0, 0
    for sequence in sequences:
        ids = torch.tensor([list(sequence)])
        with torch.no_grad():
            reference = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits[0].cpu()
        logits = exact.logits(ids)[0]
        frequencies = exact.frequencies(logits).to(torch.float64)
        log_q = torch.log(frequencies / frequencies.sum(-1, keepdim=True))
        log_p = torch.log_softmax(reference, dim=-1)
        divergence += float((log_p.exp() * (log_p - log_q)).sum())
        values = logits.to(torch.float64) / (1 << schema.LOGIT_EXPONENT)
        error = max(error, float((values - reference).abs().max()))
        agreed += int((reference.argmax(-1) == logits.argmax(-1)).sum())
        count += len(sequence)
    return {
        "token_count": count,
        "logit_error_max": error,
        "kl_nats_per_token": divergence / count,
        "agreement": agreed / count,
    }


def _add_linear(source: Source, name: str, profile: str, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Round a matrix into `tensors` and return its header entry."""
    kind = "int16" if name == "embedding" else profile
    matrix, limit = source.matrices[name], schema.WEIGHT_MAX[kind]
    largest = np.abs(matrix).max(-1)
    if not np.isfinite(largest).all():
        raise ExactConversionError(f"{name} holds numbers that are not finite", remedy="check the checkpoint")
    if kind == "int16":
        scale, exponent = _powers_of_two(largest, limit, matrix.shape[1])
    else:
        scale, exponent = _fractions(largest, limit)
    steps = scale.astype(np.float64)[:, None] * 2.0**-exponent
    weights = np.clip(np.rint(matrix / steps), -limit, limit)
    tensors[name + ".weight"] = weights.astype(format.NUMPY_DTYPE[schema.WEIGHT_DTYPE[kind]])
    tensors[name + ".scale"] = scale.astype(np.int32)
    return {"digits": 1, "exponent": exponent}


def _powers_of_two(largest: Floats, limit: int, inputs: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return scales 2**k and one exponent, so that largest / (2**(k - exponent)) is just below the limit's bits.

    The scales' span is small enough for weights * scale to be carried in float64 with the sum below 2**53.
    """
    bits = limit.bit_length()
    row_exponents = bits - np.frexp(largest)[1].astype(np.int64)
    row_exponents[largest == 0] = schema.EXPONENT_MAX
    lowest = int(np.clip(row_exponents.min(), -schema.EXPONENT_MAX, schema.EXPONENT_MAX - SCALE_SPAN_BITS))
    span = max(0, min(SCALE_SPAN_BITS, schema.CARRIER_BITS - 2 * bits - inputs.bit_length()))
    exponent = min(int(row_exponents.max()), lowest + span)
    return 1 << (exponent - np.minimum(row_exponents, exponent)), exponent


def _fractions(largest: Floats, limit: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return scales below 2**15 and one exponent, so that largest / (scale * 2**-exponent) is at most the limit."""
    top = float(largest.max()) or 1.0
    exponent = int(np.clip(15 - math.frexp(top / limit)[1], -schema.EXPONENT_MAX, schema.EXPONENT_MAX))
    return np.maximum(1, np.ceil(largest / limit * 2.0**exponent)).astype(np.int64), exponent


def _add_norm(source: Source, name: str, size: int, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Round a norm's gain into `tensors` and return its header entry."""
    gain = source.gains[name]
    top = float(np.abs(gain).max()) or 1.0
    finest = schema.NORM_BITS - math.frexp(top)[1]
    exponent = int(np.clip(finest, schema.NORM_EXPONENT_MIN, schema.NORM_EXPONENT_MAX))
    if finest < exponent:
        raise ExactConversionError(f"the gain of {name} is too large", remedy="this model cannot be served exactly")
    tensors[name + ".gain"] = np.rint(gain * 2.0**exponent).astype(np.int32)
    # Units: the sum of squares of what the norm reads. A centred row comes multiplied by size / 2**floor(log2 size).
    is_head = name.endswith(("query_norm", "key_norm"))
    step = schema.HIDDEN_EXPONENT if is_head else schema.RESIDUAL_EXPONENT
    stretch = size / (1 << (size.bit_length() - 1)) if source.architecture.centred_norm and not is_head else 1.0
    epsilon = round(source.epsilons[name] * size * stretch**2 * 4.0**step)
    return {"epsilon": min(max(1, epsilon), 1 << schema.EPSILON_BITS), "exponent": exponent}


def _fixed(values: Floats, exponent: int, bits: int, name: str) -> Tensor:
    """Round to a fixed step: int64."""
    scaled = np.rint(values * 2.0**exponent)
    if not (np.abs(scaled) <= 2.0**bits).all():
        raise ExactConversionError(f"the bias of {name} is too large", remedy="this model cannot be served exactly")
    return scaled.astype(np.int64)


def _layer_exponents(file: ExactFile) -> list[dict[str, int]]:
    """Return the finest exponents of queries, keys and values that their bounds allow."""
    result = []
    for index in range(file.architecture.layer_count):
        query, key, value = bounds.query_key_bounds(file, index)
        chosen = {
            "query_exponent": _finest(query, schema.QUERY_BITS),
            "key_exponent": _finest(key, schema.QUERY_BITS),
            "value_exponent": _finest(value, schema.VALUE_BITS),
        }
        if min(chosen.values()) < 0 or chosen["query_exponent"] + chosen["key_exponent"] < schema.SCORE_EXPONENT:
            raise ExactConversionError(
                f"layer {index} is too large: queries to {query:.0f}, keys to {key:.0f}, values to {value:.0f}",
                remedy="this model cannot be served exactly",
            )
        result.append(chosen)
    return result


def _finest(bound: float, bits: int) -> int:
    return min(12, bits - math.frexp(max(bound, 2.0**-20))[1])


def _tokens(vocabulary_size: int, count: int) -> list[int]:
    """Return a fixed sequence of tokens, the same for every model of this vocabulary."""
    state, result = 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        result.append((state >> 33) % vocabulary_size)
    return result
