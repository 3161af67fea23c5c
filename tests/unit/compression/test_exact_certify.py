"""The frozen vectors hold on this machine, a fresh process included, and a certificate can fail."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitweir_compression.exact import certify, format
from bitweir_compression.exact.errors import CertificateError, ExactFormatError
from tests.vectors import make_exact

FOLDER = Path(make_exact.__file__).parent
FILES: dict[str, Any] = json.loads((FOLDER / "exact.json").read_text())["files"]
LARGEST_BYTES = 200_000


@pytest.mark.parametrize("name", FILES)
def test_this_machine_gives_the_frozen_bits(name: str) -> None:
    certificate = certify.certify(FOLDER / f"{name}.safetensors", FILES[name], fresh_processes=False)
    assert [check for check in certificate["checks"] if not check["ok"]] == []
    assert certificate["ok"]
    assert len(certificate["checks"]) > 15
    assert {item["name"] for item in certificate["not_run"]} >= set(certify.ENVIRONMENTS)
    json.dumps(certificate)


def test_a_fresh_process_with_other_kernels_gives_the_frozen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "exact_gated_int8"
    monkeypatch.setattr(certify, "_arrangements", dict)
    monkeypatch.setattr(certify, "_settings", dict)
    certificate = certify.certify(FOLDER / f"{name}.safetensors", FILES[name])
    assert {check["name"]: check["detail"] for check in certificate["checks"]} == dict.fromkeys(
        ["largest sums", *certify.ENVIRONMENTS], ""
    )


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_script_makes(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < LARGEST_BYTES
    stored, made = format.read(path), format.decode(make_exact.content(name))
    assert stored.fingerprint == FILES[name]["fingerprint"]
    assert {**stored.header, "fingerprint": ""} == {**made.header, "fingerprint": ""}
    for label, tensor in stored.tensors.items():
        # Another machine's exp or cos may round an entry the other way; whole-number weights may not.
        off = 1 if label.startswith(("table.", "rope.")) else 0
        assert np.abs(tensor.astype(np.int64) - made.tensors[label]).max() <= off


def test_freezing_again_gives_the_same_vectors() -> None:
    name = "exact_plain_int16"
    assert certify.freeze(format.read(FOLDER / f"{name}.safetensors")) == FILES[name]


def test_one_wrong_digit_fails_the_certificate() -> None:
    name = "exact_plain_int16"
    vectors = json.loads(json.dumps(FILES[name]))
    digest = vectors["cases"][1]["frequencies_sha256"]
    vectors["cases"][1]["frequencies_sha256"] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    certificate = certify.certify(FOLDER / f"{name}.safetensors", vectors, fresh_processes=False)
    assert not certificate["ok"]
    assert {check["detail"] for check in certificate["checks"] if check["name"] != "largest sums"} == {
        "case 1: frequencies"
    }


def test_vectors_are_read_back_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(FILES["exact_plain_int16"]))
    assert certify.read_vectors(path) == FILES["exact_plain_int16"]
    for content in (b"[]", b"{", b"[" * 100_000, bytes([255])):
        path.write_bytes(content)
        with pytest.raises(CertificateError):
            certify.read_vectors(path)
    with pytest.raises(CertificateError):
        certify.read_vectors(tmp_path)


@pytest.mark.parametrize(
    "vectors",
    [
        {},
        {"format": certify.VECTORS_FORMAT, "fingerprint": "0" * 64, "cases": [{"tokens": [1]}]},
        {**FILES["exact_plain_int16"], "cases": []},
        {**FILES["exact_plain_int16"], "cases": [{"tokens": ["a"]}]},
        {**FILES["exact_plain_int16"], "cases": 5},
    ],
)
def test_other_vectors_are_refused(vectors: dict[str, Any]) -> None:
    with pytest.raises(CertificateError):
        certify.certify(FOLDER / "exact_plain_int16.safetensors", vectors)


PLAIN = FILES["exact_plain_int16"]
CASE = PLAIN["cases"][0]
VOCABULARY = len(CASE["last_logits"])


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [10**30]},
        {"tokens": [VOCABULARY]},
        {"tokens": [-1]},
        {"tokens": [True]},
        {"tokens": []},
        {"tokens": [0] * 1_000_000},
        {"tokens": "1"},
        {"last_logits": CASE["last_logits"][1:]},
        {"last_logits": [1 << 63, *CASE["last_logits"][1:]]},
        {"last_logits": [0.5, *CASE["last_logits"][1:]]},
        {"last_logits": None},
        {"logits_sha256": 5},
        {"unknown": 1},
    ],
    ids="-".join,
)
def test_a_malformed_case_is_refused(change: dict[str, Any]) -> None:
    vectors = {**PLAIN, "cases": [{**CASE, **change}]}
    with pytest.raises(CertificateError):
        certify.certify(FOLDER / "exact_plain_int16.safetensors", vectors, fresh_processes=False)


@pytest.mark.parametrize("name", CASE)
def test_a_case_that_lacks_a_key_is_refused(name: str) -> None:
    vectors = {**PLAIN, "cases": [{key: value for key, value in CASE.items() if key != name}]}
    with pytest.raises(CertificateError):
        certify.certify(FOLDER / "exact_plain_int16.safetensors", vectors, fresh_processes=False)


def test_one_wrong_last_logit_fails_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "_settings", dict)
    logits = [CASE["last_logits"][0] + 1, *CASE["last_logits"][1:]]
    vectors = {**PLAIN, "cases": [{**CASE, "last_logits": logits}]}
    certificate = certify.certify(FOLDER / "exact_plain_int16.safetensors", vectors, fresh_processes=False)
    assert not certificate["ok"]
    assert "case 0: last_logits" in {check["detail"] for check in certificate["checks"]}


@pytest.mark.parametrize("before", [False, True])
def test_flushing_denormals_is_put_back(before: bool) -> None:
    try:
        if not torch.set_flush_denormal(before):
            pytest.skip("this processor cannot flush denormals")
        with certify._flushed():
            assert sys.float_info.min / 2 == 0
        assert (sys.float_info.min / 2 == 0) is before
    finally:
        torch.set_flush_denormal(False)


def test_a_device_without_end_is_refused() -> None:
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(CertificateError, match="regular file"):
        certify.read_vectors(endless)
    with pytest.raises(ExactFormatError, match="regular file"):
        format.read(endless)


def test_vectors_over_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "_VECTORS_BYTES_MAX", 8)
    path = tmp_path / "vectors.json"
    path.write_text('{"a": 1} ')
    with pytest.raises(CertificateError, match="over 8 bytes"):
        certify.read_vectors(path)
