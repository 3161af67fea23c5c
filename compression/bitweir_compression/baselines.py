"""The yardsticks: what the same messages cost without a weak model.

Rules:
1. A yardstick counts the bytes (of token ids: the bits) of something that decodes back to the text, given what the
   receiver has anyway: the prompt, the vocabulary, the library.
2. What tells the receiver where a message ends is counted in no row of text. A caller whose tokens end with an end
   token counts it in `token_ids`, and so gives the text rows an advantage. What a compressor's own format adds inside
   a message (zlib's 6 bytes of header and checksum, xz's container, zstd's header) is counted, as whoever used it
   would send it.
3. Per-message rows may be sent as soon as a message is done. The row over the whole corpus may not: it bounds what a
   general compressor finds, is no service, and has the advantage of rule 2 (no boundaries inside its stream).

The rows, in this order:

    raw          UTF-8
    token_ids    ceil(log2 V) bits a token
    zlib         each message alone, level 9
    xz           all messages together in order, preset 9 extreme
    zstd         each message alone, level 19, its prompt as raw-content dictionary
"""

import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from bitweir_compression.errors import CorpusError

ZLIB_LEVEL = 9
XZ_PRESET = 9 | lzma.PRESET_EXTREME
# The preset's own dictionary is 64 MiB and takes ten times that in memory; no more than the data's length is of use.
XZ_DICTIONARY_BYTES_MIN, XZ_DICTIONARY_BYTES_MAX = 1 << 12, 1 << 26
ZSTD_LEVEL = 19
# Shorter dictionaries are ignored or refused by zstd: no match can be found in them.
ZSTD_DICTIONARY_BYTES_MIN = 8

Record = tuple[str, str]  # (prompt, text)


@dataclass(frozen=True)
class Baseline:
    """One yardstick's cost.

    Attributes:
        name: `raw`, `token_ids`, `zlib`, `xz` or `zstd`.
        bits: cost of all messages together.
        note: what was coded how, for the reader of a report.
    """

    name: str
    bits: int
    note: str


def measure(records: Sequence[Record], token_counts: Sequence[int], vocab_size: int) -> tuple[Baseline, ...]:
    """Measure every yardstick on the same messages.

    Args:
        records: pairs (prompt, text); the texts are what is sent.
        token_counts: tokens of each text, in the order of `records`, each at least 0.
        vocab_size: V, number of different token ids, at least 1.

    Returns:
        One row per yardstick, in the order of the module's table.

    Raises:
        CorpusError: nothing to measure, counts that do not fit, or text that is not Unicode.
    """
    if not records:
        raise CorpusError("there is no message to measure", remedy="generate at least one")
    if len(token_counts) != len(records):
        raise CorpusError(
            f"{len(token_counts)} token counts for {len(records)} messages", remedy="give one count per message"
        )
    width_bits = token_id_bits(vocab_size)
    if any(count < 0 for count in token_counts):
        raise CorpusError("a token count is negative", remedy="count the tokens of the generated text")
    texts = [encode_raw(text) for _, text in records]
    prompts = [encode_raw(prompt) for prompt, _ in records]
    return (
        Baseline("raw", _bits(texts), "UTF-8, no compression"),
        Baseline("token_ids", width_bits * sum(token_counts), f"{width_bits} bits a token id, vocabulary {vocab_size}"),
        Baseline("zlib", _bits([encode_zlib(text) for text in texts]), f"level {ZLIB_LEVEL}, each message alone"),
        Baseline("xz", _bits([encode_xz(texts)]), "preset 9e, all messages together: a bound, not a service"),
        Baseline(
            "zstd",
            _bits([encode_zstd(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]),
            f"level {ZSTD_LEVEL}, each message alone with its prompt as dictionary",
        ),
    )


def token_id_bits(vocab_size: int) -> int:
    """Return ceil(log2 V), the width of a token id in bits; 0 where there is only one id.

    Raises:
        CorpusError: `vocab_size` is less than 1.
    """
    if vocab_size < 1:
        raise CorpusError(f"a vocabulary of {vocab_size} ids", remedy="give the number of different token ids")
    return (vocab_size - 1).bit_length()


def encode_raw(text: str) -> bytes:
    """Return the UTF-8 of a text.

    Raises:
        CorpusError: half a surrogate pair, which has no UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"text with half a surrogate pair at character {error.start}",
            remedy="decode the tokens with errors=replace",
        ) from error


def encode_zlib(text: bytes) -> bytes:
    """Return a zlib stream (RFC 1950) of one message: 2 bytes of header and 4 of checksum included."""
    return zlib.compress(text, ZLIB_LEVEL)


def encode_xz(texts: Sequence[bytes]) -> bytes:
    """Return an .xz file of all messages one after the other; about 60 bytes of container included."""
    data = b"".join(texts)
    dictionary_bytes = min(max(len(data), XZ_DICTIONARY_BYTES_MIN), XZ_DICTIONARY_BYTES_MAX)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": dictionary_bytes}]
    return lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters)


def encode_zstd(text: bytes, prompt: bytes) -> bytes:
    """Return a zstd frame (RFC 8878) of one message, decodable with the same prompt as raw-content dictionary.

    It carries its content size (a byte or two) and no checksum and no dictionary number. A prompt shorter than
    `ZSTD_DICTIONARY_BYTES_MIN` is not used.
    """
    dictionary = zstd_dictionary(prompt)
    if dictionary is None:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    else:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, dict_data=dictionary, write_dict_id=False)
    return bytes(compressor.compress(text))


def zstd_dictionary(prompt: bytes) -> zstandard.ZstdCompressionDict | None:
    """Return the dictionary both sides use with a prompt, or None where it is too short to be one."""
    if len(prompt) < ZSTD_DICTIONARY_BYTES_MIN:
        return None
    return zstandard.ZstdCompressionDict(prompt, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _bits(payloads: Sequence[bytes]) -> int:
    return 8 * sum(len(payload) for payload in payloads)
