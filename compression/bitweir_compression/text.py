"""Any text as the bits that a weak model leaves of it, and back: `bitweir codec text`. No torch.

Rules:
1. `decode` sees the bytes, the predictor and the tokenizer, nothing else. Both directions run one loop, `_walk`: what a
   token is predicted from cannot differ.
2. Everything the receiver needs is in the bytes: the number of tokens, the lanes, where a block ends. What both hold is
   not, like a compressor's program: predictor and tokenizer.
3. Damage is not detected: altered bytes give another text or a CompressionError. The caller compares.

The tokens are cut into lanes, contiguous parts as equal as can be, longer ones first. Each starts from the user token
alone, and all advance together, so that the predictor runs batched. A lane that has filled the context starts again
from the last half of it. The bytes are one bit string, first bit most significant, zeros to the end of its last byte:

    count     tokens + 1 in Elias gamma: a number of k bits after k - 1 zeros
    lanes     LANE_BITS bits: lanes - 1. This and what follows only where there are tokens
    blocks    of BLOCK_TOKENS tokens, the last of fewer: its length in LENGTH_BITS bits, except for the last, which goes
              to the end; then a message of coder.py, step by step and within a step lane by lane

Waste: n tokens take at most n * (.0057 - log2(1 - V/2**24)) + 1 bits a block above their ideal code length, V the size
of the vocabulary: the range coder's own rounding (.0001 on average) and its floor (.0004 at V = 4096).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitweir_compression.coder import Bits, SymbolDecoder, SymbolEncoder, Weights
from bitweir_compression.errors import CoderError, CorpusError
from bitweir_compression.models.chat import ChatTokenizer

if TYPE_CHECKING:
    from bitweir_compression.exact.predictor import Predictor

# The tokenizer takes 1 to 2 GB for this much, and the tiny weak model half an hour or more of one core.
FILE_BYTES_MAX = 8 << 20
# A token stands for at least one byte.
TOKENS_MAX = FILE_BYTES_MAX
# More lanes are hardly faster. A shorter lane pays for its lack of context: up to 3 % at 40 tokens, .5 % at 200.
LANES, LANE_BITS, LANE_TOKENS_MIN = 16, 6, 128
# At 24.01 bits a token or less, a block is shorter than 2**20 bits: the coder's own limit.
BLOCK_TOKENS, LENGTH_BITS = 1 << 15, 20

# (lane, position in the lane, weights) -> the token there, which it codes or decodes.
Choose = Callable[[int, int, Weights], int]
# (steps done, steps in all)
Progress = Callable[[int, int], None]

_DAMAGED = "give all the bytes as they were written, and the same models"


@dataclass(frozen=True)
class CodedText:
    """A text's bytes and what they cost.

    Attributes:
        data: what `decode` takes.
        bit_count: bits of it, without the zeros at the end.
        token_count: tokens of the text.
        lane_count: lanes they were cut into.
        ideal_bits: sum of -log2 of the probabilities that the weights give the tokens.
    """

    data: bytes
    bit_count: int
    token_count: int
    lane_count: int
    ideal_bits: float


def read_text(path: Path) -> str:
    """Return a file's text as it stands there: line ends and byte order mark are kept.

    Raises:
        CorpusError: the file is missing, a folder, unreadable, over FILE_BYTES_MAX, or not UTF-8.
    """
    try:
        if not path.is_file():
            raise CorpusError(f"{path}: there is no such file", remedy="check the path; a folder cannot be read")
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise CorpusError(f"{path}: cannot be read ({error})", remedy="check the path and its permissions") from error
    if len(raw) > FILE_BYTES_MAX:
        raise CorpusError(f"{path}: larger than {FILE_BYTES_MAX:,} bytes", remedy="split the file, or take a part")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        remedy = "name a text file, or convert this one, e.g. `iconv -t UTF-8`"
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}", remedy=remedy) from error


def encode(
    text: str,
    predictor: "Predictor",
    tokenizer: ChatTokenizer,
    *,
    lanes: int = LANES,
    progress: Progress = lambda done, total: None,
) -> CodedText:
    """Code a text against a weak model at temperature 1.

    Args:
        text: at most TOKENS_MAX tokens. Special tokens spelled out in it are plain characters.
        predictor: with all slots free; they are free again afterwards, whatever happens.
        tokenizer: the predictor's.
        lanes: how many at most, 1 to 2**LANE_BITS; fewer for a short text, or where the predictor has fewer slots.
        progress: called after every step.

    Raises:
        CorpusError: the text holds a lone surrogate.
        CoderError: an argument is out of range, or the tokenizer does not give the text back.
        PredictorError, ExactRangeError: see `Predictor`.
    """
    tokens = tokenizer.encode(text)
    back = tokenizer.decode(tokens)
    if back != text:
        raise CoderError(
            f"the tokenizer does not give the text back from character {first_difference(text, back)} on",
            remedy="use a byte-level tokenizer without normalisation",
        )
    if len(tokens) > TOKENS_MAX:
        raise CoderError(f"{len(tokens):,} tokens", remedy=f"code at most {TOKENS_MAX:,} at once")
    if not 1 <= lanes <= 1 << LANE_BITS:
        raise CoderError(f"{lanes} lanes", remedy=f"use 1 to {1 << LANE_BITS}")
    lanes = min(lanes, predictor.slot_count, -(-len(tokens) // LANE_TOKENS_MIN))
    number = len(tokens) + 1
    written = [_digits(number, 2 * number.bit_length() - 1)]
    if tokens:
        written.append(_digits(lanes - 1, LANE_BITS))
    sizes = _lane_sizes(len(tokens), lanes)
    starts = [sum(sizes[:lane]) for lane in range(lanes)]
    block, done, ideal_bits = SymbolEncoder(), 0, 0.0

    def choose(lane: int, position: int, weights: Weights) -> int:
        nonlocal block, done, ideal_bits
        token = tokens[starts[lane] + position]
        if done and done % BLOCK_TOKENS == 0:
            message, block = block.finish(), SymbolEncoder()
            written.extend((_digits(message.count, LENGTH_BITS), _digits(message.value, message.count)))
        block.encode(token, weights)
        ideal_bits -= math.log2(int(weights[token]) / int(weights.sum()))
        done += 1
        return token

    _walk(predictor, tokenizer, sizes, choose, progress)
    last = block.finish()
    digits = "".join([*written, _digits(last.value, last.count)])
    byte_count = -(-len(digits) // 8)
    data = int(digits.ljust(8 * byte_count, "0"), 2).to_bytes(byte_count, "big")
    return CodedText(data, len(digits), len(tokens), lanes, ideal_bits)


def decode(
    data: bytes,
    predictor: "Predictor",
    tokenizer: ChatTokenizer,
    *,
    tokens_max: int = TOKENS_MAX,
    progress: Progress = lambda done, total: None,
) -> str:
    """Return the text of `CodedText.data`; predictor and tokenizer equal those it was coded with.

    Raises:
        CoderError: no text has these bytes, or it has more than `tokens_max` tokens or more lanes than slots.
        PredictorError, ExactRangeError: see `Predictor`.
    """
    bits = _BitReader(data)
    token_count = bits.gamma(tokens_max + 1) - 1
    lanes = bits.number(LANE_BITS) + 1 if token_count else 0
    if lanes > token_count:
        raise CoderError(f"{lanes} lanes for {token_count} tokens", remedy=_DAMAGED)
    if lanes > predictor.slot_count:
        raise CoderError(f"{lanes} lanes for {predictor.slot_count} slots", remedy="use a predictor with more slots")
    sizes = _lane_sizes(token_count, lanes)
    found: list[list[int]] = [[] for _ in sizes]
    done, block = 0, SymbolDecoder(Bits(0, 0))

    def choose(lane: int, position: int, weights: Weights) -> int:
        nonlocal done, block
        del position
        if done % BLOCK_TOKENS == 0:
            is_last = token_count - done <= BLOCK_TOKENS
            length_bits = bits.left if is_last else bits.number(LENGTH_BITS)
            block = SymbolDecoder(Bits(bits.number(length_bits), length_bits))
        token = block.decode(weights)
        if weights[token] == 0:
            raise CoderError(f"token {token} is no text", remedy=_DAMAGED)
        done += 1
        found[lane].append(token)
        return token

    _walk(predictor, tokenizer, sizes, choose, progress)
    return tokenizer.decode(token for lane in found for token in lane)


def first_difference(one: str, other: str) -> int:
    """Return the index of the first character that differs; the shorter length where one begins the other."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _walk(
    predictor: "Predictor", tokenizer: ChatTokenizer, sizes: list[int], choose: Choose, progress: Progress
) -> None:
    """Run all lanes to their ends, asking `choose` for every token."""
    if predictor.vocabulary_size < tokenizer.vocabulary_size:
        raise CoderError(
            f"the tokenizer has {tokenizer.vocabulary_size} ids, the model {predictor.vocabulary_size}",
            remedy="use the tokenizer of the model's folder",
        )
    # Text never holds the other ids, so they get nothing but the coder's floor.
    is_text = np.zeros(predictor.vocabulary_size, dtype=np.int64)
    is_text[: tokenizer.vocabulary_size] = 1
    is_text[sorted(tokenizer.special_ids)] = 0
    held = [[tokenizer.user] for _ in sizes]
    admitted: set[int] = set()
    try:
        for position in range(max(sizes, default=0)):
            slots = [lane for lane, size in enumerate(sizes) if position < size]
            for slot in slots:
                if slot in admitted and len(held[slot]) == predictor.context_tokens:
                    predictor.release(slot)
                    admitted.remove(slot)
                    held[slot] = held[slot][-(predictor.context_tokens // 2) :]
                if slot not in admitted:
                    predictor.admit(slot, held[slot])
                    admitted.add(slot)
            rows = predictor.step(slots) * is_text
            chosen = {slot: choose(slot, position, row) for slot, row in zip(slots, rows, strict=True)}
            predictor.commit(chosen)
            for slot, token in chosen.items():
                held[slot].append(token)
            progress(position + 1, sizes[0])
    finally:
        for slot in admitted:
            predictor.release(slot)


def _lane_sizes(token_count: int, lanes: int) -> list[int]:
    return [token_count // lanes + (lane < token_count % lanes) for lane in range(lanes)]


def _digits(value: int, count: int) -> str:
    return f"{value:0{count}b}" if count else ""


class _BitReader:
    """Takes numbers off a bit string from the front; its end is a CoderError."""

    def __init__(self, data: bytes) -> None:
        self._digits = _digits(int.from_bytes(data, "big"), 8 * len(data))
        self._at = 0

    @property
    def left(self) -> int:
        """Bits not taken yet."""
        return len(self._digits) - self._at

    def number(self, count: int) -> int:
        """Take a number of `count` bits."""
        if count > self.left:
            raise CoderError("the bytes end early", remedy=_DAMAGED)
        self._at += count
        return int(self._digits[self._at - count : self._at] or "0", 2)

    def gamma(self, value_max: int) -> int:
        """Take a number from 1 to `value_max` in Elias gamma."""
        first = self._digits.find("1", self._at)
        zeros = (first if first >= 0 else len(self._digits)) - self._at
        self._at += zeros
        value = self.number(zeros + 1)
        if value > value_max:
            raise CoderError(f"more than {value_max - 1:,} tokens", remedy=_DAMAGED)
        return value
