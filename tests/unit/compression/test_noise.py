"""The noise is the one defined in noise.py: vectors, error bound, published generator, and the right refusals."""

import hashlib
import json
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from bitweir_compression import noise
from bitweir_compression.errors import NoiseError
from bitweir_compression.noise import NoiseStream

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise.json").read_text())
KEY = bytes(range(32))


def exact_gumbel(word: int) -> Decimal:
    """-log2(-log2 u) by 40-digit arithmetic, written without the code under test."""
    with localcontext() as context:
        context.prec = 40
        ln2 = Decimal(2).ln()
        u = 1 - Decimal(2 * (word >> 12) + 1) / (1 << 53)
        return -((-u.ln() / ln2).ln() / ln2)


def edge_words() -> list[int]:
    powers = [1 << k for k in range(64)]
    around = [w + d for w in powers for d in (-1, 0, 1)] + [(1 << 64) - w for w in powers]
    return sorted({w for w in [0, (1 << 64) - 1, *around] if 0 <= w < 1 << 64})


def test_generator_is_the_published_philox4x64_10() -> None:
    # Known answer of the Random123 distribution for key 0 and counter 0; numpy's generator counts before it draws.
    generator = np.random.Philox(key=np.zeros(2, np.uint64), counter=[(1 << 64) - 1] * 4)
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert [int(w) for w in generator.random_raw(4)] == expected
    assert noise.words((0, 0), 4).tolist() == np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(4).tolist()


@pytest.mark.parametrize("case", VECTORS["positions"], ids=lambda c: f"{c['candidate']}-{c['stream']}-{c['position']}")
def test_frozen_vectors(case: dict) -> None:
    key = noise.position_key(
        bytes.fromhex(case["key"]), case["candidate"], NoiseStream(case["stream"]), case["position"]
    )
    assert [f"{k:016x}" for k in key] == case["philox_key"]
    word = noise.words(key, case["vocabulary_size"])
    values = noise.gumbel(word)
    assert [f"{int(w):016x}" for w in word[:4]] == case["first_words"]
    assert values[:4].tolist() == case["first_gumbel"]
    assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() == case["gumbel_sha256"]


def test_frozen_keys() -> None:
    for case in VECTORS["request_keys"]:
        assert noise.request_key(KEY, case["request"]).hex() == case["key"]
    for case in VECTORS["seeded_keys"]:
        prompt = case["prompt"].encode()
        assert noise.seeded_request_key(KEY, case["tenant"], case["seed"], prompt).hex() == case["key"]


def test_tables_are_frozen() -> None:
    tables = np.concatenate([noise.log2_table(), noise.curvature_table()])
    assert hashlib.sha256(tables.astype("<i8").tobytes()).hexdigest() == VECTORS["tables_sha256"]


def test_error_stays_below_one_unit() -> None:
    random = np.random.default_rng(0).integers(0, 1 << 64, 2000, dtype=np.uint64)
    shrunk = random >> np.arange(2000, dtype=np.uint64) % np.uint64(52)
    all_words = [*edge_words(), *random.tolist(), *shrunk.tolist()]
    got = noise.gumbel(np.array(all_words, dtype=np.uint64))
    worst = max(abs(int(g) - exact_gumbel(w) * (1 << 24)) for g, w in zip(got, all_words, strict=True))
    assert worst < 1


def test_noise_is_monotone_in_the_word_and_spans_the_stated_range() -> None:
    values = noise.gumbel(np.array(edge_words(), dtype=np.uint64))
    assert (np.diff(values) <= 0).all()
    assert values[0] / 2**24 == pytest.approx(52.4712, abs=1e-4)
    assert values[-1] / 2**24 == pytest.approx(-5.7279, abs=1e-4)


def test_distinct_inputs_give_distinct_keys() -> None:
    seen = {
        noise.position_key(key, candidate, stream, position)
        for key in (KEY, bytes(32))
        for candidate in (0, 1, 256)
        for stream in NoiseStream
        for position in (0, 1, 1 << 32)
    }
    assert len(seen) == 2 * 3 * 2 * 3
    assert noise.request_key(KEY, 1) != noise.request_key(KEY, 256)
    assert noise.seeded_request_key(KEY, "a", 1, b"p") != noise.seeded_request_key(KEY, "b", 1, b"p")


@pytest.mark.parametrize(
    "call",
    [
        lambda: noise.position_key(b"short", 0, NoiseStream.VISIBLE, 0),
        lambda: noise.position_key(KEY, -1, NoiseStream.VISIBLE, 0),
        lambda: noise.position_key(KEY, 1 << 32, NoiseStream.VISIBLE, 0),
        lambda: noise.position_key(KEY, 0, NoiseStream.VISIBLE, -1),
        lambda: noise.request_key(KEY, -1),
        lambda: noise.request_key(KEY, 1 << 64),
        lambda: noise.request_key(bytes(31), 0),
        lambda: noise.seeded_request_key(KEY, "t", 1 << 63, b""),
        lambda: noise.words((0, 0), 0),
        lambda: noise.words((0, 0), (1 << 24) + 1),
        lambda: noise.choose([np.full(5, noise.NEVER)], [noise.words((0, 0), 5)]),
    ],
)
def test_out_of_range_is_a_typed_error_with_a_remedy(call) -> None:
    with pytest.raises(NoiseError) as caught:
        call()
    assert caught.value.remedy
