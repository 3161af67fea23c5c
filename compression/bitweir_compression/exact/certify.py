"""The proof on this machine: every way of arranging the work gives the frozen bits, or the certificate says which not.

Rules:
1. Frozen vectors hold hashes of logits and frequencies, and the last logits, for given tokens. `freeze` makes them on
   one machine, `certify` checks them on another; a file of one fingerprint has one set of right answers.
2. A check passes with zero differing bits. There is no tolerance.
3. Settings of this process that a check changes are put back. What only a fresh process can change, the
   instruction set, runs in one: `python -m bitweir_compression.exact.certify FILE`, vectors on its standard input.
4. What could not be run is listed with the reason, never left out.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitweir_compression.exact import arithmetic, format, schema
from bitweir_compression.exact.allowlist import AllowList
from bitweir_compression.exact.errors import CertificateError, ExactError
from bitweir_compression.exact.format import ExactFile, canonical
from bitweir_compression.exact.model import ExactModel
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.provenance import provenance

VECTORS_FORMAT = "bitweir-exact-vectors 1"
CERTIFICATE_FORMAT = "bitweir-exact-certificate 1"
WARM = Temperature(7, 10)
# Environment of the fresh processes: restart alone, then instruction sets of torch's own kernels, MKL and oneDNN.
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "restart": {},
    "torch kernels: default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "torch kernels: avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "oneDNN: sse41, MKL: compatible": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
_CHILD_SECONDS_MAX = 600
_SEQUENCES_MAX = 1000
_VECTORS_BYTES_MAX = 64 << 20
_VECTORS_KEYS = {"format", "fingerprint", "cases"}
_CASE_KEYS = {"tokens", "last_logits", "logits_sha256", "frequencies_sha256", "frequencies_7_10_sha256"}

Vectors = Mapping[str, Any]
Rows = list[torch.Tensor]


def freeze(file: ExactFile, *, seed: int = 1, lengths: Sequence[int] = ()) -> dict[str, Any]:
    """Compute vectors: each sequence alone, whole, on the CPU.

    Args:
        file: the model.
        seed: of the token sequences.
        lengths: tokens of each sequence; by default a spread up to the context, at most 96.
    """
    context = file.architecture.context_tokens
    chosen = list(lengths) or sorted({min(context, length) for length in (1, 2, 17, 33, 64, 96)})
    sequences = [
        _tokens(seed + index, length, file.architecture.vocabulary_size) for index, length in enumerate(chosen)
    ]
    model = ExactModel(file)
    return {
        "format": VECTORS_FORMAT,
        "fingerprint": file.fingerprint,
        "cases": [_case(model, tokens, rows) for tokens, rows in zip(sequences, _whole(model, sequences), strict=True)],
    }


def read_vectors(path: Path) -> dict[str, Any]:
    """Read vectors that `freeze` made and somebody wrote as JSON; `certify` checks whether they are the file's.

    Raises:
        CertificateError: they are missing, no regular file, over 64 MiB, or not a JSON object.
    """
    try:
        path.stat()
        if not path.is_file():
            raise CertificateError(f"{path} is no regular file", remedy="make vectors with freeze")
        with path.open("rb") as stream:
            content = stream.read(_VECTORS_BYTES_MAX + 1)
        if len(content) > _VECTORS_BYTES_MAX:
            raise CertificateError(f"{path} is over {_VECTORS_BYTES_MAX} bytes", remedy="these are no vectors")
        vectors = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise CertificateError(f"{path} cannot be read: {error}", remedy="make vectors with freeze") from error
    if not isinstance(vectors, dict):
        raise CertificateError(f"{path} holds no vectors", remedy="make them with freeze")
    return vectors


def certify(path: Path, vectors: Vectors, *, fresh_processes: bool = True) -> dict[str, Any]:
    """Run every check and return the certificate; `ok` says whether all passed.

    Args:
        path: the exact file.
        vectors: from `freeze`, made here or elsewhere.
        fresh_processes: also run the checks that need one.

    Returns:
        format, fingerprint, vectors_sha256, hardware, machine, versions, commit, checks [{name, ok, detail}], not_run
        [{name, why}], ok.

    Raises:
        ExactFormatError: the file is not sound.
        CertificateError: the vectors are malformed or belong to another file.
    """
    file = format.read(path)
    cases = _cases(vectors, file)
    model = ExactModel(file)
    checks = [_run(name, partial(_differing, model, cases, work)) for name, work in _arrangements().items()]
    checks += [_run(name, partial(_under, set_up, model, cases)) for name, set_up in _settings().items()]
    checks.append(_run("largest sums", _largest_sums))
    not_run: list[dict[str, str]] = []
    if fresh_processes:
        checks += [_run(name, partial(_child, path, vectors, changes)) for name, changes in ENVIRONMENTS.items()]
    else:
        not_run += [{"name": name, "why": "fresh processes were not asked for"} for name in ENVIRONMENTS]
    if torch.cuda.is_available():
        checks += _cuda(file, cases)
    else:
        not_run.append({"name": "CUDA", "why": "torch sees no CUDA device"})
    return {
        "format": CERTIFICATE_FORMAT,
        "fingerprint": file.fingerprint,
        "vectors_sha256": hashlib.sha256(canonical(vectors)).hexdigest(),
        "hardware": _hardware(),
        **provenance(),
        "checks": checks,
        "not_run": not_run,
        "ok": all(check["ok"] for check in checks),
    }


def _tokens(seed: int, count: int, vocabulary_size: int) -> list[int]:
    """Tokens from SHA-256 of (seed, position): the same everywhere."""
    digests = (hashlib.sha256(f"bitweir exact {seed} {index}".encode()).digest() for index in range(count))
    return [int.from_bytes(digest[:8], "little") % vocabulary_size for digest in digests]


def _case(model: ExactModel, tokens: list[int], logits: torch.Tensor) -> dict[str, Any]:
    return {"tokens": tokens, "last_logits": logits[-1].tolist(), **_hashes(model, logits)}


def _hashes(model: ExactModel, logits: torch.Tensor) -> dict[str, str]:
    """Hash int64 [m, V] logits and their frequencies at temperatures 1 and 7/10, little-endian."""
    warm = model.frequencies(logits, [WARM] * len(logits))
    parts = {"logits": logits, "frequencies": model.frequencies(logits), "frequencies_7_10": warm}
    return {
        name + "_sha256": hashlib.sha256(np.ascontiguousarray(part.cpu().numpy(), "<i8").data).hexdigest()
        for name, part in parts.items()
    }


def _cases(vectors: Vectors, file: ExactFile) -> list[Mapping[str, Any]]:
    try:
        is_ours = vectors["format"] == VECTORS_FORMAT and vectors["fingerprint"] == file.fingerprint
        cases = vectors["cases"]
        are_sound = (
            set(vectors) == _VECTORS_KEYS
            and isinstance(cases, list)
            and 0 < len(cases) <= _SEQUENCES_MAX
            and all(_is_case(case, file) for case in cases)
        )
    except (KeyError, TypeError) as error:
        raise CertificateError(f"these are no vectors: {error!r}", remedy="make them with freeze") from error
    if not is_ours:
        raise CertificateError("the vectors belong to another file or version", remedy="freeze this file's vectors")
    if not are_sound:
        raise CertificateError("the vectors are malformed", remedy="freeze this file's vectors")
    return list(cases)


def _is_case(case: Any, file: ExactFile) -> bool:
    """Whether a case has what `_case` makes for this file, whatever the values."""
    if not isinstance(case, dict) or set(case) != _CASE_KEYS:
        return False
    vocabulary_size, context = file.architecture.vocabulary_size, file.architecture.context_tokens
    tokens, logits = case["tokens"], case["last_logits"]
    return (
        _are_integers(tokens, 0, vocabulary_size - 1)
        and 1 <= len(tokens) <= context
        and _are_integers(logits, -(1 << 63), (1 << 63) - 1)
        and len(logits) == vocabulary_size
        and all(isinstance(value, str) for name, value in case.items() if name.endswith("_sha256"))
    )


def _are_integers(values: Any, low: int, high: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and low <= value <= high for value in values)


def _whole(model: ExactModel, sequences: Sequence[Sequence[int]]) -> Rows:
    """Each sequence alone, in one call."""
    return [model.logits(torch.tensor([list(sequence)]))[0] for sequence in sequences]


def _padded(place: Callable[[int, int], list[int]]) -> Callable[[ExactModel, Sequence[Sequence[int]]], Rows]:
    """All sequences in one call; `place(length, width)` says where a row's tokens go among padding."""

    def work(model: ExactModel, sequences: Sequence[Sequence[int]]) -> Rows:
        width = max(map(len, sequences)) + 3
        ids = torch.zeros((len(sequences), width), dtype=torch.int64)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, sequence in enumerate(sequences):
            where = place(len(sequence), width)
            ids[row, where], mask[row, where] = torch.tensor(list(sequence)), True
        logits = model.logits(ids, mask)
        return [logits[row][mask[row]] for row in range(len(sequences))]

    return work


def _stepped(*, prompt: int, chunk: int, is_reversed: bool) -> Callable[[ExactModel, Sequence[Sequence[int]]], Rows]:
    """Feed up to `prompt` tokens in chunks, keep each chunk's last logits, then step; rows drop out as they end."""

    def work(model: ExactModel, sequences: Sequence[Sequence[int]]) -> Rows:
        cache = model.cache(len(sequences) + 1)
        order = list(range(len(sequences)))
        slots = {index: len(sequences) - index if is_reversed else index for index in order}
        reference = _whole(model, sequences)
        result = [rows.clone() for rows in reference]
        starts = {index: min(prompt, len(sequences[index])) for index in order}
        first = model.prefill(
            cache, [slots[i] for i in order], [sequences[i][: starts[i]] for i in order], chunk_tokens=chunk
        )
        for index in order:
            result[index][starts[index] - 1] = first[index]
        for position in range(max(map(len, sequences))):
            live = [index for index in order if starts[index] <= position < len(sequences[index])]
            if live:
                rows = [slots[index] for index in live]
                logits = model.step(cache, rows, [sequences[index][position] for index in live])
                for index, values in zip(live, logits, strict=True):
                    result[index][position] = values
        return result

    return work


def _allowed(model: ExactModel, sequences: Sequence[Sequence[int]]) -> Rows:
    with AllowList():
        return _padded(lambda length, width: list(range(length)))(model, sequences)


def _arrangements() -> dict[str, Callable[[ExactModel, Sequence[Sequence[int]]], Rows]]:
    return {
        "alone": _whole,
        "padded right": _padded(lambda length, width: list(range(length))),
        "padded left": _padded(lambda length, width: list(range(width - length, width))),
        "padded on both sides": _padded(lambda length, width: list(range(1, length + 1))),
        "one token at a time": _stepped(prompt=1, chunk=1, is_reversed=False),
        "one token at a time, other slots": _stepped(prompt=1, chunk=1, is_reversed=True),
        "chunks of 5, then steps": _stepped(prompt=16, chunk=5, is_reversed=False),
        "one chunk, then steps": _stepped(prompt=24, chunk=128, is_reversed=True),
        "under the allow-list": _allowed,
    }


def _differing(
    model: ExactModel, cases: Sequence[Mapping[str, Any]], work: Callable[[ExactModel, Sequence[Sequence[int]]], Rows]
) -> str:
    """Return which cases differ from the vectors; empty if none."""
    results = work(model, [case["tokens"] for case in cases])
    wrong = [
        f"case {index}: {name.removesuffix('_sha256')}"
        for index, (case, rows) in enumerate(zip(cases, results, strict=True))
        for name, value in {**_hashes(model, rows), "last_logits": rows[-1].tolist()}.items()
        if case[name] != value
    ]
    return "; ".join(wrong[:8])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@contextmanager
def _flushed() -> Iterator[None]:
    # torch does not tell its setting; this thread's arithmetic does.
    before = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _settings() -> dict[str, Callable[[], Any]]:
    result: dict[str, Callable[[], Any]] = {
        f"{count} threads": partial(_threads, count) for count in sorted({1, 2, 3, os.cpu_count() or 1})
    }
    for name in ("highest", "high", "medium"):
        result[f"float32 precision: {name}"] = partial(_precision, name)
    result["denormals flushed"] = _flushed
    result["oneDNN off"] = _without_onednn
    return result


def _under(set_up: Callable[[], Any], model: ExactModel, cases: Sequence[Mapping[str, Any]]) -> str:
    with set_up():
        first = _differing(model, cases, _padded(lambda length, width: list(range(length))))
        return first or _differing(model, cases, _stepped(prompt=9, chunk=4, is_reversed=False))


def _largest_sums(device: str = "cpu") -> str:
    """Multiply operands at their limits, where a rounding would show, and compare with whole numbers."""
    wrong = []
    for count in (schema.CHUNK_INPUTS_MAX, schema.CHUNK_INPUTS_MAX + 1):
        for limit, dtype, product in (
            (127, torch.float32, arithmetic.product32),
            (32767, torch.float64, arithmetic.product64),
        ):
            left = torch.full((3, count), limit, dtype=dtype, device=device)
            right = torch.full((count, 2), limit, dtype=dtype, device=device)
            left[1], left[2, ::2] = -limit, -limit
            expected = [count, -count, count % 2 * -1]
            if product(left, right)[:, 0].tolist() != [value * limit * limit for value in expected]:
                wrong.append(f"{dtype}, {count} products")
    return "; ".join(wrong)


def _cuda(file: ExactFile, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same arrangements on the first CUDA device, with TF32 off and on."""
    model = ExactModel(file, "cuda")
    checks = [_run("CUDA: largest sums", partial(_largest_sums, "cuda"))]
    for precision in ("highest", "medium"):
        with _precision(precision):
            for name in ("alone", "padded left", "chunks of 5, then steps"):
                work = _arrangements()[name]
                label = f"CUDA, float32 precision {precision}: {name}"
                checks.append(_run(label, partial(_differing, model, cases, work)))
    return checks


def _run(name: str, check: Callable[[], str]) -> dict[str, Any]:
    """Run one check; an error of ours is a failure with its message."""
    try:
        detail = check()
    except ExactError as error:
        detail = f"{type(error).__name__}: {error}"
    return {"name": name, "ok": not detail, "detail": detail}


def _child(path: Path, vectors: Vectors, environment: Mapping[str, str]) -> str:
    """Run the check of a fresh process under an environment; return what it found wrong."""
    command = [sys.executable, "-m", "bitweir_compression.exact.certify", str(path)]
    try:
        result = subprocess.run(  # noqa: S603 - our own module, our own interpreter, a list of arguments
            command,
            input=json.dumps(vectors).encode(),
            env={**os.environ, **environment},
            capture_output=True,
            timeout=_CHILD_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the process could not be run: {error}"
    if result.returncode != 0:
        return f"the process failed: {result.stderr.decode(errors='replace')[-300:]}"
    return result.stdout.decode()


def _serve_child(path: Path) -> str:
    """Check the vectors on standard input, in one arrangement with a cache and one without."""
    file = format.read(path)
    cases = _cases(json.loads(sys.stdin.buffer.read()), file)
    model = ExactModel(file)
    torch.set_num_threads(1)
    works = (_padded(lambda length, width: list(range(length))), _stepped(prompt=9, chunk=4, is_reversed=True))
    found = [_differing(model, cases, work) for work in works] + [_largest_sums()]
    return "; ".join(filter(None, found))


def _hardware() -> dict[str, Any]:
    return {
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


if __name__ == "__main__":
    sys.stdout.write(_serve_child(Path(sys.argv[1])))
