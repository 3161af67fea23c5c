"""Seeded noise: keyed, stateless Gumbel noise in exact integer arithmetic.

The engine samples with it, the coder predicts with it and the auditor replays it, so all three must see the same bits
on every machine. This file is the definition; `noise_torch.py` is the same function on torch devices and must change
with it, and tests/vectors/noise.json holds what both must produce.

Theory of operation:
1. Outer draws a master key. `request_key` gives each request its own 32-byte key (HKDF-SHA256, RFC 5869).
2. `position_key` maps (request key, candidate, stream, position) to a 128-bit Philox key with keyed BLAKE2b (RFC 7693).
   Hidden reasoning and visible text are separate streams: the noise of visible token k does not depend on how much was
   thought before it.
3. `words` runs Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) under that key:
   token t gets word t mod 4 of the block with counter 1 + t // 4.
4. `gumbel` turns a word into noise. With n = 2*(word >> 12) + 1 and x = n / 2**53, the uniform is u = 1 - x, never 0
   or 1, and the noise is g = -log2(-log2 u), an int64 in units of 2**-24 bits. Integers and two tables only: no float
   rounding.
5. A token is `argmax(score + g)`, lowest id first on a tie, where scores are logits / (T ln 2) in the same unit. Base 2
   matters: -log2(-log2 u) is Gumbel noise divided by ln 2 (and shifted by a constant), so logits are divided by ln 2
   too.

Error bound: |gumbel(word) * 2**-24 - g| < 2**-24 (tests/unit/compression/test_noise.py holds it against 40-digit
arithmetic; the largest seen is .64 of that). The noise lies in [-5.73, 52.48] bits. A token of probability p >>
2**-53 is drawn with a relative error of about 2**-24.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bitweir_compression.errors import NoiseError

KEY_BYTES = 32
# Noise and scores are int64 in units of 2**-FRACTION_BITS bits.
FRACTION_BITS = 24
# The score of a token that must never be chosen. Far below any score + noise, far above int64 overflow.
NEVER = -(1 << 62)
# Scores are clamped here: 2**34 bits times 2**24 leaves room for the noise below 2**62.
SCORE_LIMIT = 1 << 58

# A uniform has 52 random bits: 2*r + 1 then fits the 53-bit significand of a float64, so its exponent is exact.
UNIFORM_BITS = 52
WORD_SHIFT = 64 - UNIFORM_BITS
# Tables hold values in units of 2**-40 bits at 2**12 + 1 points; between them interpolation is linear.
TABLE_FRACTION_BITS = 40
TABLE_INDEX_BITS = 12

CANDIDATE_LIMIT = 1 << 32
POSITION_LIMIT = 1 << 64
VOCABULARY_LIMIT = 1 << 24

_PERSON = b"bitweir noise v1"

Words = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.int64]
PositionKey = tuple[int, int]


class NoiseStream(IntEnum):
    """Which text of a candidate a position counts in."""

    VISIBLE = 0
    HIDDEN = 1


def request_key(master: bytes, request: int) -> bytes:
    """Derive the 32-byte noise key of a request from the master key and the request's number (0 <= request < 2**64)."""
    if not 0 <= request < POSITION_LIMIT:
        raise NoiseError(f"request number {request} is outside 0..2**64-1", remedy="number requests in arrival order")
    return _derive(master, b"request\x00" + request.to_bytes(8, "little"))


def seeded_request_key(master: bytes, tenant: str, seed: int, prompt: bytes) -> bytes:
    """Derive the key of a request with an API `seed`: equal tenant, seed and prompt give equal keys.

    Args:
        master: 32 bytes.
        tenant: who asks; two tenants with one seed get different noise.
        seed: -2**63 <= seed < 2**63.
        prompt: canonical bytes of the prompt; only their SHA-256 enters.
    """
    if not -(1 << 63) <= seed < 1 << 63:
        raise NoiseError(f"seed {seed} does not fit 64 bits", remedy="use a seed between -2**63 and 2**63-1")
    parts = (hashlib.sha256(tenant.encode()).digest(), seed.to_bytes(8, "little", signed=True))
    return _derive(master, b"seed\x00" + b"".join(parts) + hashlib.sha256(prompt).digest())


def position_key(key: bytes, candidate: int, stream: NoiseStream, position: int) -> PositionKey:
    """Return the 128-bit Philox key of one position as two 64-bit integers.

    Args:
        key: the request's 32 bytes.
        candidate: 0 <= candidate < 2**32, which of the N candidates of best-of-N.
        stream: visible or hidden text.
        position: 0 <= position < 2**64, counted within the stream.

    Raises:
        NoiseError: an argument is out of range.
    """
    _check_key(key)
    if not 0 <= candidate < CANDIDATE_LIMIT or not 0 <= position < POSITION_LIMIT:
        raise NoiseError(f"candidate {candidate}, position {position} out of range", remedy="count both from 0")
    message = candidate.to_bytes(4, "little") + int(stream).to_bytes(4, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=16, key=key, person=_PERSON).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def words(key: PositionKey, vocabulary_size: int) -> Words:
    """Return the Philox4x64-10 words of tokens 0..vocabulary_size-1: uint64 [V]."""
    return word_rows([key], vocabulary_size)[0]


def word_rows(keys: Sequence[PositionKey], vocabulary_size: int) -> list[Words]:
    """Return the words of several positions. One generator serves them all: making one costs as much as 2,000 words."""
    if not 0 < vocabulary_size <= VOCABULARY_LIMIT:
        raise NoiseError(f"vocabulary of {vocabulary_size} tokens", remedy=f"use 1 to {VOCABULARY_LIMIT} tokens")
    generator = np.random.Philox(key=0)
    start = generator.state
    result = []
    for key in keys:
        start["state"]["key"] = np.array(key, dtype=np.uint64)
        generator.state = start
        result.append(generator.random_raw(vocabulary_size))
    return result


def gumbel(word: Words) -> Scores:
    """Return the noise of each word in units of 2**-24 bits: int64, the shape of `word`. See the file's rule 4."""
    odd = numerator(word)
    small = odd < 1 << UNIFORM_BITS
    # Fold x and 1 - x onto (0, 1/2): the small side carries the relative precision.
    folded = np.where(small, odd, (1 << (UNIFORM_BITS + 1)) - odd)
    log2_folded = _log2(folded) - ((UNIFORM_BITS + 1) << TABLE_FRACTION_BITS)
    # u > 1/2: -log2 u = x * 2**q(x), so g = -log2 x - q(x).
    winners = -log2_folded - _interpolate(curvature_table(), folded, UNIFORM_BITS)
    # u < 1/2: -log2 u = -log2(folded) is at least 1, and one more logarithm is exact enough.
    length = np.where(small, 1 << TABLE_FRACTION_BITS, -log2_folded)
    losers = (TABLE_FRACTION_BITS << TABLE_FRACTION_BITS) - _log2(length)
    shift = TABLE_FRACTION_BITS - FRACTION_BITS
    result: Scores = (np.where(small, winners, losers) + (1 << (shift - 1))) >> shift
    return result


def log2_units(value: Scores) -> Scores:
    """Return log2 of integers 0 < value < 2**53 in the unit of the noise, 2**-24 bits, within one unit."""
    shift = TABLE_FRACTION_BITS - FRACTION_BITS
    result: Scores = (_log2(value) + (1 << (shift - 1))) >> shift
    return result


def choose(scores: Sequence[Scores], word: Sequence[Words]) -> list[int]:
    """Return argmax(scores + gumbel(word)) of each row, lowest id on a tie; exact noise only where it can win.

    Args:
        scores: n rows of int64 [V], NEVER where a token is excluded.
        word: n rows of uint64 [V].

    Raises:
        NoiseError: a row excludes every token.
    """
    if not scores:
        return []
    able = [_able(row, row_words) for row, row_words in zip(scores, word, strict=True)]
    # One call for all rows: the handful of tokens a row has left would not pay for its own.
    noise_of_able = gumbel(np.concatenate([row_words[ids] for row_words, ids in zip(word, able, strict=True)]))
    ends = np.cumsum([len(ids) for ids in able])
    parts = np.split(noise_of_able, ends[:-1])
    return [int(ids[int((row[ids] + part).argmax())]) for row, ids, part in zip(scores, able, parts, strict=True)]


def _able(scores: Scores, word: Words) -> npt.NDArray[np.intp]:
    """Return the ids that can win one row, ascending.

    With 2**e <= n < 2**(e+1), -log2 x lies in (52 - e, 53 - e], and the noise is that less .53 to 1 where x < 1/2, at
    least -5.73 elsewhere. So a token reaches at most its bound = score + 53 - e, and the one with the highest bound
    reaches at least that bound less 2 bits, or less 7 where its x is not below 1/2.
    """
    bound = numerator(word).astype(np.float64).view(np.int64)
    bound >>= 52
    np.subtract(UNIFORM_BITS + 1 + 1023, bound, out=bound)
    bound <<= FRACTION_BITS
    bound += scores
    highest = int(bound.argmax())
    if scores[highest] <= NEVER:
        raise NoiseError("every token is excluded", remedy="loosen the sampling specification")
    is_small = bound[highest] - scores[highest] > 1 << FRACTION_BITS
    # One unit more than the bits, for the rounding of the noise.
    reached = bound[highest] - ((2 if is_small else 7) << FRACTION_BITS) - 1
    return np.flatnonzero(bound >= reached)


def _derive(master: bytes, info: bytes) -> bytes:
    _check_key(master)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=b"bitweir noise v1", info=info).derive(master)


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise NoiseError(f"noise key of {len(key)} bytes", remedy=f"use {KEY_BYTES} random bytes")


def numerator(word: Words) -> Scores:
    """Return n = 2 * (word >> 12) + 1 of each word, int64: the uniform is 1 - n / 2**53."""
    result: Scores = ((word >> np.uint64(WORD_SHIFT - 1)) | np.uint64(1)).view(np.int64)
    return result


def _log2(value: Scores) -> Scores:
    """Return log2 of integers 0 < value < 2**53 in units of 2**-40."""
    bits = value.astype(np.float64).view(np.int64)
    fraction = bits & ((1 << 52) - 1)
    result: Scores = (((bits >> 52) - 1023) << TABLE_FRACTION_BITS) + _interpolate(log2_table(), fraction, 52)
    return result


def _interpolate(table: Scores, value: Scores, value_bits: int) -> Scores:
    """Interpolate a table over [0, 2**value_bits) linearly; differences are below 2**29, so products fit 57 bits."""
    step_bits = value_bits - TABLE_INDEX_BITS
    index = value >> step_bits
    part = (value & ((1 << step_bits) - 1)) >> (step_bits - 28)
    low = table[index]
    result: Scores = low + (((table[index + 1] - low) * part) >> 28)
    return result


@functools.cache
def log2_table() -> Scores:
    """log2(1 + i / 2**12), i = 0..2**12, in units of 2**-40."""
    return _table(lambda i, ln2: (1 + Decimal(i) / (1 << TABLE_INDEX_BITS)).ln() / ln2)


@functools.cache
def curvature_table() -> Scores:
    """q(x) = log2(-log2(1 - x) / x) at x = i / 2**13, i = 0..2**12, in units of 2**-40; q(0) = log2(1 / ln 2)."""

    def q(i: int, ln2: Decimal) -> Decimal:
        if i == 0:
            return -ln2.ln() / ln2
        x = Decimal(i) / (1 << (TABLE_INDEX_BITS + 1))
        return (-(1 - x).ln() / ln2 / x).ln() / ln2

    return _table(q)


def _table(function: Callable[[int, Decimal], Decimal]) -> Scores:
    """Tabulate function(i, ln 2) by 30-digit decimal arithmetic, whose `ln` is correctly rounded by specification."""
    with localcontext() as context:
        context.prec = 30
        ln2 = Decimal(2).ln()
        scaled = [function(i, ln2) * (1 << TABLE_FRACTION_BITS) for i in range((1 << TABLE_INDEX_BITS) + 1)]
        return np.array([int(value.to_integral_value()) for value in scaled], dtype=np.int64)
