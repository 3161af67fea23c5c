"""Text coding: what each token is predicted from, what it costs, and every guard."""

import functools
import io
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from bitweir_compression import coder, text
from bitweir_compression.coder import SymbolEncoder
from bitweir_compression.errors import CoderError, CompressionError, CorpusError
from bitweir_compression.exact.errors import PredictorError
from bitweir_compression.exact.predictor import Frequencies, NGramPredictor
from bitweir_compression.models.chat import SPECIAL_TOKENS, ChatTokenizer, train_tokenizer

# What the training text below is good for; 262 is a token a byte and the special ones.
VOCABULARY = 287


@functools.cache
def tokenizer(vocabulary_size: int = VOCABULARY) -> ChatTokenizer:
    made = train_tokenizer(iter(["the sum of 12 and 30 is 42. " * 3, "naïve café the other"]), vocabulary_size)
    assert made.vocabulary_size == vocabulary_size
    return made


def bigrams(
    vocabulary_size: int = VOCABULARY, *, slot_count: int = 16, context_tokens: int = 1 << 20
) -> NGramPredictor:
    """A predictor whose weights depend on the last two tokens."""
    counts: dict[tuple[int, ...], dict[int, int]] = {(): dict.fromkeys(range(20, 280), 3)}
    for token in range(280):
        counts[token,] = {(7 * token + 1) % 280: 5, (token + 3) % 280: 2}
        counts[token, (token + 3) % 280] = {(token + 6) % 280: 1}
    return NGramPredictor(counts, vocabulary_size, slot_count=slot_count, context_tokens=context_tokens)


class Fixed(NGramPredictor):
    """Predicts the same weights whatever came before: 1 each but for the tokens named."""

    def __init__(self, vocabulary_size: int, weights: dict[int, int]) -> None:
        super().__init__({}, vocabulary_size, slot_count=16)
        self._row = np.ones(vocabulary_size, dtype=np.int64)
        for token, weight in weights.items():
            self._row[token] = weight

    def step(self, slots: Sequence[int]) -> Frequencies:
        return np.ones_like(super().step(slots)) * self._row


class Whole(NGramPredictor):
    """Predicts from everything a slot holds."""

    def step(self, slots: Sequence[int]) -> Frequencies:
        super().step(slots)
        seeds = [self._book.taken(slot).tokens for slot in slots]
        return np.stack([np.random.default_rng(seed).integers(1, 1 << 24, self.vocabulary_size) for seed in seeds])


def packed(digits: str) -> bytes:
    byte_count = -(-len(digits) // 8)
    return int(digits.ljust(8 * byte_count, "0"), 2).to_bytes(byte_count, "big")


def contexts(tokens: Sequence[int], user: int, context_tokens: int) -> Iterator[list[int]]:
    """What each token of a lane is predicted from, by the words of the module's head."""
    held = [user]
    for token in tokens:
        if len(held) == context_tokens:
            held = held[len(held) - context_tokens // 2 :]
        yield held
        held = [*held, token]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("context_tokens", [2, 7, 1000])
def test_each_token_is_predicted_from_its_lane(lanes: int, context_tokens: int, monkeypatch) -> None:
    monkeypatch.setattr(text, "LANE_TOKENS_MIN", 1)
    content = "the sum of 12 and 30 is 42, the other naïve. " * 2
    weak = Whole({}, VOCABULARY, context_tokens=context_tokens)
    coded = text.encode(content, weak, tokenizer(), lanes=lanes)
    assert coded.lane_count == lanes
    assert text.decode(coded.data, weak, tokenizer()) == content
    tokens = tokenizer().encode(content)
    size, longer = divmod(len(tokens), lanes)
    ideal_bits, start = 0.0, 0
    for lane in range(lanes):
        part = tokens[start : start + size + (lane < longer)]
        start += len(part)
        for token, held in zip(part, contexts(part, tokenizer().user, context_tokens), strict=True):
            weak.admit(0, held)
            weights = weak.step([0])[0]
            weak.release(0)
            weights[sorted(tokenizer().special_ids)] = 0
            ideal_bits -= math.log2(weights[token] / weights.sum())
    assert coded.ideal_bits == pytest.approx(ideal_bits)


def test_the_cost_is_the_ideal_one_and_what_the_module_says_it_wastes() -> None:
    content = "the sum of 12 and 30 is 42, the other naïve café. " * 60
    coded = text.encode(content, bigrams(4096), tokenizer())
    count = coded.token_count
    header_bits = 2 * (count + 1).bit_length() - 1 + text.LANE_BITS
    coded_bits = coded.bit_count - header_bits
    assert coded.ideal_bits * 0.99 - 8 < coded_bits < coded.ideal_bits * 1.01 + 8
    assert coded_bits < coded.ideal_bits + 0.001 * count + 1
    assert text.decode(coded.data, bigrams(4096), tokenizer()) == content


def test_one_percent_is_not_what_nearly_certain_tokens_are_coded_to_but_the_stated_waste_is() -> None:
    tokens = tokenizer(262)
    content = "a" * 2000
    certain = Fixed(4096, {tokens.encode("a")[0]: 1 << 50})
    coded = text.encode(content, certain, tokens)
    assert coded.ideal_bits < 1e-3
    header_bits = 2 * (2001).bit_length() - 1 + text.LANE_BITS
    assert 0.1 < coded.bit_count - header_bits < 2000 * (0.0057 - math.log2(1 - 4096 / 2**24)) + 1


def test_special_tokens_cost_text_nothing() -> None:
    tokens = tokenizer()
    content = "the other " * 50
    plain = text.encode(content, Fixed(VOCABULARY, {}), tokens)
    ending = text.encode(content, Fixed(VOCABULARY, {tokens.end: 1 << 50, tokens.user: 1 << 50}), tokens)
    assert ending == plain


def test_ids_beyond_the_tokenizer_cost_text_nothing() -> None:
    content = "the other " * 50
    plain = text.encode(content, Fixed(330, {}), tokenizer())
    assert text.encode(content, Fixed(330, {325: 1 << 50}), tokenizer()) == plain
    assert plain.ideal_bits == pytest.approx(plain.token_count * math.log2(VOCABULARY - len(SPECIAL_TOKENS)))


def test_short_texts_use_few_lanes() -> None:
    for count, lanes in ((1, 1), (128, 1), (129, 2), (5000, 16)):
        assert text.encode("a" * count, Fixed(262, {}), tokenizer(262)).lane_count == lanes
    weak = NGramPredictor({}, 262, slot_count=3)
    assert text.encode("a" * 5000, weak, tokenizer(262)).lane_count == 3


def test_a_block_of_the_dearest_tokens_fits_its_length_and_the_coder() -> None:
    tokens = tokenizer(262)
    content = "b" * (text.BLOCK_TOKENS + 5)
    unlikely = Fixed(262, {tokens.encode("a")[0]: 1 << 50})
    coded = text.encode(content, unlikely, tokens)
    assert coded.bit_count > 23.9 * text.BLOCK_TOKENS
    assert text.decode(coded.data, unlikely, tokens) == content
    assert text.BLOCK_TOKENS * 24.01 < 1 << text.LENGTH_BITS <= coder.MESSAGE_BITS_MAX


def test_the_documented_bytes() -> None:
    # Nothing: 1 in Elias gamma. One token: 010, six zeros for one lane, then the message.
    assert text.encode("", bigrams(), tokenizer()).data == b"\x80"
    weak = Fixed(262, {})
    encoder = SymbolEncoder()
    weights = np.ones(262, dtype=np.int64)
    weights[sorted(tokenizer(262).special_ids)] = 0
    encoder.encode(tokenizer(262).encode("z")[0], weights)
    message = encoder.finish()
    digits = "010" + "000000" + f"{message.value:0{message.count}b}"
    coded = text.encode("z", weak, tokenizer(262))
    assert coded.bit_count == len(digits)
    assert coded.data == packed(digits)


def test_progress_counts_steps() -> None:
    seen: list[tuple[int, int]] = []
    coded = text.encode("a" * 300, Fixed(262, {}), tokenizer(262), progress=lambda *step: seen.append(step))
    assert seen == [(step, 100) for step in range(1, 101)]
    seen.clear()
    text.decode(coded.data, Fixed(262, {}), tokenizer(262), progress=lambda *step: seen.append(step))
    assert seen == [(step, 100) for step in range(1, 101)]


def test_a_tokenizer_that_tidies_text_is_refused() -> None:
    raw = Tokenizer.from_str(tokenizer().to_json())
    raw.normalizer = normalizers.Lowercase()
    with pytest.raises(CoderError, match="from character 4 on") as caught:
        text.encode("the Other", bigrams(), ChatTokenizer(raw))
    assert "normalisation" in caught.value.remedy


def test_misuse_is_a_typed_error(monkeypatch) -> None:
    for lanes in (0, -1, 65):
        with pytest.raises(CoderError, match="lanes"):
            text.encode("the", bigrams(), tokenizer(), lanes=lanes)
    with pytest.raises(CoderError, match="287 ids, the model 286"):
        text.encode("the", bigrams(286), tokenizer())
    with pytest.raises(CorpusError):
        text.encode("\ud800", bigrams(), tokenizer())
    with pytest.raises(PredictorError):
        text.encode("the", bigrams(context_tokens=1), tokenizer())
    monkeypatch.setattr(text, "TOKENS_MAX", 3)
    with pytest.raises(CoderError, match="4 tokens"):
        text.encode("1111", bigrams(), tokenizer())
    assert text.encode("111", bigrams(), tokenizer()).token_count == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "end early"),
        (b"\x00" * 9, "end early"),
        (packed("0001"), "end early"),
        (packed("0000000" + "11111111" + "000000"), "more than 200 tokens"),
        (packed("010" + "000001"), "2 lanes for 1 tokens"),
        (packed("000010010" + "010000"), "17 lanes for 16 slots"),
        (packed("00100" + "000000" + "1" * 20), "end early"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, message: str, monkeypatch) -> None:
    monkeypatch.setattr(text, "BLOCK_TOKENS", 2)
    with pytest.raises(CoderError, match=message) as caught:
        text.decode(data, bigrams(), tokenizer(), tokens_max=200)
    assert caught.value.remedy


def test_a_message_of_special_tokens_is_refused_and_frees_the_slots() -> None:
    tokens, weak = tokenizer(), Fixed(VOCABULARY, {})
    weights = np.ones(VOCABULARY, dtype=np.int64)
    weights[sorted(tokens.special_ids)] = 0
    encoder = SymbolEncoder()
    encoder.encode(tokens.end, weights)
    message = encoder.finish()
    data = packed("010" + "000000" + f"{message.value:0{message.count}b}")
    with pytest.raises(CoderError, match=f"token {tokens.end} is no text"):
        text.decode(data, weak, tokens)
    weak.admit(0, [1])


def test_an_interrupt_frees_the_slots() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    weak = bigrams()
    with pytest.raises(KeyboardInterrupt):
        text.encode("the other " * 100, weak, tokenizer(), progress=interrupt)
    for slot in range(weak.slot_count):
        weak.admit(slot, [1])


def test_another_model_does_not_decode_it() -> None:
    content = "the sum of 12 and 30 is 42. " * 9
    data = text.encode(content, bigrams(), tokenizer()).data
    try:
        assert text.decode(data, Fixed(VOCABULARY, {}), tokenizer()) != content
    except CompressionError as error:
        assert error.remedy


def test_a_file_is_read_as_it_stands(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\x00")
    assert text.read_text(path) == "\ufeffone\r\ntwo\n\0"
    path.write_bytes(b"")
    assert text.read_text(path) == ""
    monkeypatch.setattr(text, "FILE_BYTES_MAX", 4)
    path.write_bytes(b"four")
    assert text.read_text(path) == "four"
    path.write_bytes(b"fives")
    with pytest.raises(CorpusError, match="larger than 4 bytes"):
        text.read_text(path)


def test_a_file_is_not_read_past_its_bound(tmp_path: Path, monkeypatch) -> None:
    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size == 5
            return super().read(size)

    monkeypatch.setattr(text, "FILE_BYTES_MAX", 4)
    (tmp_path / "text").write_text("one")
    monkeypatch.setattr(Path, "open", lambda *_: Watched(b"more than four"))
    with pytest.raises(CorpusError, match="larger than 4 bytes"):
        text.read_text(tmp_path / "text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "no such file"),
        (".", None, "no such file"),
        ("nul\0", None, "no such file|cannot be read"),
        ("latin", b"na\xefve", "not UTF-8 at byte 2"),
        ("cut", "é".encode()[:1], "not UTF-8 at byte 0"),
    ],
)
def test_what_is_no_text_file_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        text.read_text(tmp_path / name)
    assert caught.value.remedy


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), ValueError("embedded null")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "text").write_text("one")
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(CorpusError, match="cannot be read"):
        text.read_text(tmp_path / "text")


def test_a_mistake_is_found_without_torch() -> None:
    code = "import sys, bitweir_compression.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_difference() -> None:
    for one, other, index in (("abc", "abd", 2), ("ab", "abc", 2), ("abc", "", 0), ("x", "y", 0)):
        assert text.first_difference(one, other) == index
