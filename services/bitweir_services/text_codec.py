"""Any text file against a pair's weak model: coded, decoded again from the bytes alone, beside zlib, xz and zstd.

Rules:
1. There are no figures unless the text came back whole, decoded with slots and cache of their own.
2. No row counts what both ends hold anyway: the weak model here, the program there.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bitweir_compression import baselines, text
from bitweir_compression.console import StageProgress
from bitweir_compression.errors import CoderError
from bitweir_compression.exact import format as exact_format
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.predictor import ExactPredictor
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.models.exact_weak import open_exact_weak
from bitweir_compression.provenance import provenance


def measure(pair: Pair, content: str, *, name: str, progress: StageProgress) -> dict[str, Any]:
    """Code a text, decode it again and compare.

    Returns:
        `file` (the name), `bytes`, `characters`, `tokens`, `lanes`, `weights_bytes` (size of the exact weak model),
        `weak` (its fingerprint), `rows` (name, bytes, bits per byte and per token, None where there are none),
        `ideal_bits`, `decoded_equal` (always true), `encode_s`, `decode_s`, and the provenance.

    Raises:
        CoderError: what was decoded differs.
        CompressionError: see `text.encode`.
    """
    model, tokenizer = ExactModel(open_exact_weak(pair)), pair.weak.tokenizer()
    start_s = time.perf_counter()
    coded = text.encode(
        content, ExactPredictor(model, slot_count=text.LANES), tokenizer, progress=partial(progress, "encode")
    )
    encoded_s = time.perf_counter()
    decoded = text.decode(
        coded.data, ExactPredictor(model, slot_count=text.LANES), tokenizer, progress=partial(progress, "decode")
    )
    decoded_s = time.perf_counter()
    if decoded != content:
        raise CoderError(
            f"{name}: decoded differently from character {text.first_difference(content, decoded)} on",
            remedy="check this machine with bitweir exact certify; if it is certified, report this as a defect",
        )
    raw = content.encode()
    sizes = {
        "weak_model": len(coded.data),
        "zlib": len(baselines.encode_zlib(raw)),
        "xz": len(baselines.encode_xz([raw])),
        "zstd": len(baselines.encode_zstd(raw, b"")),
    }
    return {
        "file": name,
        "bytes": len(raw),
        "characters": len(content),
        "tokens": coded.token_count,
        "lanes": coded.lane_count,
        "weights_bytes": (pair.weak.folder / exact_format.FILE_NAME).stat().st_size,
        "weak": model.fingerprint,
        "rows": [
            {
                "name": row,
                "bytes": size,
                "bits_per_byte": 8 * size / len(raw) if raw else None,
                "bits_per_token": 8 * size / coded.token_count if raw else None,
            }
            for row, size in sizes.items()
        ],
        "ideal_bits": coded.ideal_bits,
        "decoded_equal": True,
        "encode_s": encoded_s - start_s,
        "decode_s": decoded_s - encoded_s,
        **provenance(),
    }


def table_lines(document: Mapping[str, Any]) -> Sequence[str]:
    """Return the result of `measure` as lines of text."""
    lines = [
        f"{document['file']}: {document['bytes']:,} bytes, {document['tokens']:,} tokens; decoded again, equal",
        f"{'':<12}{'bytes':>12}{'bits/byte':>11}{'bits/token':>12}",
    ]
    for row in document["rows"]:
        ratios = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("bits_per_byte", "bits_per_token"))
        lines.append("{:<12}{:>12,}{:>11}{:>12}".format(row["name"], row["bytes"], *ratios))
    return [
        *lines,
        f"weak model: ideal {document['ideal_bits'] / 8:,.1f} bytes; encoded in {document['encode_s']:.1f} s, "
        f"decoded in {document['decode_s']:.1f} s",
        f"The weak model's own {document['weights_bytes']:,} bytes are not counted, like a compressor's program.",
        "It is trained on the project's own corpora: expect other text to cost more than with xz.",
    ]
