"""Text coding: every text comes back at the stated cost; damaged bytes end in another text or a typed error."""

import functools
import math
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from bitweir_compression import text as text_coding
from bitweir_compression.errors import CompressionError
from bitweir_compression.exact.predictor import NGramPredictor
from bitweir_compression.models.chat import SPECIAL_TOKENS, ChatTokenizer, train_tokenizer

# All planes of Unicode, and what a tokenizer might take for structure or tidy up.
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*SPECIAL_TOKENS, "\r\n", "\ufeff", "\0", " ", "1", "the ", "e\u0301", "\u1f600"])).map(
        "".join
    ),
)


# What the training text below is good for; 262 is a token a byte and the special ones.
VOCABULARY = 287


@functools.cache
def tokenizer(vocabulary_size: int = VOCABULARY) -> ChatTokenizer:
    return train_tokenizer(iter(["the sum of 12 and 30 is 42. " * 3, "naïve café the other"]), vocabulary_size)


def predictor(vocabulary_size: int = VOCABULARY, *, context_tokens: int = 1 << 20) -> NGramPredictor:
    spell = tokenizer(vocabulary_size).encode
    the, one, space = spell("t"), spell("1"), spell(" ")
    end = tokenizer(vocabulary_size).end
    counts = {(): {end: 9, space[0]: 3, the[0]: 1}, (space[0],): {the[0]: 5}, (one[0], one[0]): {one[0]: 99}}
    return NGramPredictor(counts, vocabulary_size, slot_count=8, context_tokens=context_tokens)


@given(
    text=TEXTS,
    lanes=st.integers(1, 8),
    lane_tokens_min=st.integers(1, 9),
    block_tokens=st.integers(1, 40),
    context_tokens=st.integers(2, 12),
)
@example(text="", lanes=1, lane_tokens_min=1, block_tokens=1, context_tokens=2)
def test_every_text_comes_back(
    text: str, lanes: int, lane_tokens_min: int, block_tokens: int, context_tokens: int
) -> None:
    weak = predictor(context_tokens=context_tokens)
    with (
        patch.object(text_coding, "LANE_TOKENS_MIN", lane_tokens_min),
        patch.object(text_coding, "BLOCK_TOKENS", block_tokens),
    ):
        coded = text_coding.encode(text, weak, tokenizer(), lanes=lanes)
        assert text_coding.decode(coded.data, weak, tokenizer()) == text
    count = coded.token_count
    assert count == len(tokenizer().encode(text))
    assert coded.lane_count == min(lanes, -(-count // lane_tokens_min))
    assert len(coded.data) == -(-coded.bit_count // 8)
    block_count = -(-count // block_tokens)
    header_bits = 2 * (count + 1).bit_length() - 1 + 6 * (count > 0) + 20 * max(0, block_count - 1)
    waste_bits = count * (0.0057 - math.log2(1 - VOCABULARY / 2**24)) + block_count
    assert header_bits <= coded.bit_count <= header_bits + coded.ideal_bits + waste_bits


@given(
    text=TEXTS,
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 7)), max_size=4),
    kept=st.integers(0, 200),
    block_tokens=st.integers(1, 40),
)
def test_damage_gives_another_text_or_a_typed_error(text: str, changes: list, kept: int, block_tokens: int) -> None:
    weak = predictor(context_tokens=9)
    with patch.object(text_coding, "BLOCK_TOKENS", block_tokens), patch.object(text_coding, "LANE_TOKENS_MIN", 4):
        data = bytearray(text_coding.encode(text, weak, tokenizer(), lanes=8).data)
        for index, bit in changes:
            data[index % len(data)] ^= 1 << bit
        try:
            got = text_coding.decode(bytes(data[:kept]), weak, tokenizer(), tokens_max=300)
        except CompressionError as error:
            assert error.remedy
        else:
            assert isinstance(got, str)
        # The slots are free again, whatever happened.
        assert text_coding.encode("the", weak, tokenizer()).token_count


@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_text_or_a_typed_error(data: bytes) -> None:
    try:
        assert isinstance(text_coding.decode(data, predictor(), tokenizer(), tokens_max=100), str)
    except CompressionError as error:
        assert error.remedy


# One token a byte: other tokens are another text, unless broken UTF-8 happens to read like the original.
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60), cut=st.data())
def test_a_byte_less_is_never_the_same_text(text: str, cut: st.DataObject) -> None:
    weak = predictor(262, context_tokens=9)
    coded = text_coding.encode(text, weak, tokenizer(262), lanes=2)
    kept = cut.draw(st.integers(0, len(coded.data) - 1))
    try:
        assert text_coding.decode(coded.data[:kept], weak, tokenizer(262)) != text
    except CompressionError as error:
        assert error.remedy
