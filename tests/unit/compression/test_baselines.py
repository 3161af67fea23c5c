"""The yardsticks: every size is the size of something that decodes back to the text."""

import lzma
import zlib

import pytest
import zstandard

from bitweir_compression import baselines
from bitweir_compression.baselines import Baseline, measure
from bitweir_compression.errors import CorpusError

PROMPT = "How many litres of water run through a weir that is nine metres wide and two metres deep?"
TEXT = "A weir that is nine metres wide and two metres deep passes some litres of water: it depends on the speed."
RECORDS = [(PROMPT, TEXT), ("", TEXT), ("short", ""), (PROMPT, "Größe 😀"), (TEXT, TEXT)]


def rows(records: list[tuple[str, str]], counts: list[int], vocab_size: int = 512) -> dict[str, Baseline]:
    return {row.name: row for row in measure(records, counts, vocab_size)}


def zstd_decoded(payload: bytes, prompt: str) -> str:
    dictionary = baselines.zstd_dictionary(prompt.encode())
    if dictionary is None:
        return zstandard.ZstdDecompressor().decompress(payload).decode()
    return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(payload).decode()


def test_rows_are_sums_of_decodable_payloads() -> None:
    texts = [text.encode() for _, text in RECORDS]
    zlibs = [baselines.encode_zlib(text) for text in texts]
    zstds = [baselines.encode_zstd(text, prompt.encode()) for text, (prompt, _) in zip(texts, RECORDS, strict=True)]
    xz = baselines.encode_xz(texts)
    assert [zlib.decompress(payload) for payload in zlibs] == texts
    assert lzma.decompress(xz) == b"".join(texts)
    assert [zstd_decoded(each, prompt) for each, (prompt, _) in zip(zstds, RECORDS, strict=True)] == [
        text for _, text in RECORDS
    ]
    measured = measure(RECORDS, [20, 20, 0, 9, 20], 512)
    assert [(row.name, row.bits) for row in measured] == [
        ("raw", 8 * sum(map(len, texts))),
        ("token_ids", 9 * 69),
        ("zlib", 8 * sum(map(len, zlibs))),
        ("xz", 8 * len(xz)),
        ("zstd", 8 * sum(map(len, zstds))),
    ]
    assert all(row.note for row in measured)


def test_prompt_dictionary_helps_and_is_needed() -> None:
    with_prompt = baselines.encode_zstd(TEXT.encode(), PROMPT.encode())
    assert len(with_prompt) < len(baselines.encode_zstd(TEXT.encode(), b""))
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompress(with_prompt)


def test_xz_is_no_longer_than_the_plain_preset() -> None:
    texts = [f"{TEXT} {index}".encode() for index in range(500)]
    assert len(baselines.encode_xz(texts)) <= len(lzma.compress(b"".join(texts), preset=9 | lzma.PRESET_EXTREME))


def test_xz_finds_what_messages_share() -> None:
    many = rows([(PROMPT, TEXT)] * 50, [20] * 50)
    assert many["xz"].bits < many["zlib"].bits / 10


@pytest.mark.parametrize(
    ("vocab_size", "bits"), [(1, 0), (2, 1), (3, 2), (256, 8), (257, 9), (512, 9), (129_280, 17), (1 << 17, 17)]
)
def test_token_id_bits(vocab_size: int, bits: int) -> None:
    assert baselines.token_id_bits(vocab_size) == bits


@pytest.mark.parametrize(
    ("records", "counts", "vocab_size", "message"),
    [
        ([], [], 512, "no message"),
        ([("a", "b")], [], 512, "0 token counts for 1"),
        ([("a", "b")], [-1], 512, "negative"),
        ([("a", "b")], [1], 0, "vocabulary of 0"),
        ([("a", "\ud800")], [1], 512, "surrogate"),
        ([("\udfff", "b")], [1], 512, "surrogate"),
    ],
)
def test_refusals(records: list[tuple[str, str]], counts: list[int], vocab_size: int, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        measure(records, counts, vocab_size)
    assert caught.value.remedy
