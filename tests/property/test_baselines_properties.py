"""Laws of the yardsticks: each decodes back, each is a sum over messages, and token ids fit their width."""

import lzma
import zlib

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitweir_compression import baselines
from bitweir_compression.baselines import measure

words = st.lists(st.sampled_from(["the ", "weir ", "counts ", "bits ", "ß😀 ", "\n"]), max_size=40).map("".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | words
records = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)


@given(texts, texts)
def test_zstd_decodes_with_the_prompt(prompt: str, text: str) -> None:
    payload = baselines.encode_zstd(text.encode(), prompt.encode())
    dictionary = baselines.zstd_dictionary(prompt.encode())
    options = {} if dictionary is None else {"dict_data": dictionary}
    decoder = zstandard.ZstdDecompressor(**options)
    assert decoder.decompress(payload) == text.encode()


@given(st.lists(texts, max_size=5))
def test_zlib_and_xz_decode(messages: list[str]) -> None:
    raw = [baselines.encode_raw(message) for message in messages]
    assert [zlib.decompress(baselines.encode_zlib(each)) for each in raw] == raw
    assert lzma.decompress(baselines.encode_xz(raw)) == b"".join(raw)


@settings(max_examples=40)
@given(records, st.integers(1, 1 << 20), st.data())
def test_rows_add_up_over_messages(pairs: list[tuple[str, str]], vocab_size: int, data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 100), min_size=len(pairs), max_size=len(pairs)))
    whole = {row.name: row.bits for row in measure(pairs, counts, vocab_size)}
    parts = [measure([pair], [count], vocab_size) for pair, count in zip(pairs, counts, strict=True)]
    for name in ("raw", "token_ids", "zlib", "zstd"):
        assert whole[name] == sum(row.bits for part in parts for row in part if row.name == name)
    assert all(bits >= 0 for bits in whole.values())
    assert whole["xz"] <= whole["raw"] + 8 * 100, "xz stores what it cannot compress"


@given(st.integers(1, 1 << 20), st.data())
def test_token_ids_fit_their_width_and_no_less(vocab_size: int, data: st.DataObject) -> None:
    bits = baselines.token_id_bits(vocab_size)
    assert vocab_size <= 1 << bits
    assert bits == 0 or vocab_size > 1 << (bits - 1)
    ids = data.draw(st.lists(st.integers(0, vocab_size - 1), max_size=20))
    packed = sum(token << (bits * index) for index, token in enumerate(ids))
    assert packed.bit_length() <= bits * len(ids)
    assert [(packed >> (bits * index)) & ((1 << bits) - 1) for index in range(len(ids))] == ids
