"""The slow oracle of the session format, written from docs/reference/session-format.md alone and for reading.

It shares with the package what that text names: the big-integer range coder and the noise. The weak model's frequencies
come from the caller.
"""

import copy
import functools
import hashlib
import struct
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

import numpy as np

from bitweir_compression import noise
from bitweir_compression.coder import Bits
from bitweir_compression.noise import NoiseStream
from bitweir_compression.reference_coder import ReferenceDecoder, ReferenceEncoder, boundaries, uniform_boundaries

NORMAL, ESCAPE, OPENING, OPENING_ESCAPE, RESET = range(5)
CODECS = ("arithmetic", "gumbel", "greedy")
GAPS = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SURPRISES = (1, 4, 12, 32, 64, 112, 192)
SHARPNESSES = (4, 7, 11, 16, 24)


class OracleError(Exception):
    """The format refuses this frame."""


class StaleError(OracleError):
    """A frame of another place than the next."""


class Message:
    """Reads a frame's symbols and writes them again."""

    def __init__(self, bits: Bits) -> None:
        self.bits, self.decoder, self.echo = bits, ReferenceDecoder(bits), ReferenceEncoder()

    def symbol(self, weights: list[int]) -> int:
        return self._next(boundaries(np.array(weights, dtype=np.int64)))

    def uniform(self, size: int) -> int:
        return self._next(uniform_boundaries(size))

    def _next(self, left: list[int]) -> int:
        value = self.decoder.decode(left)
        self.echo.encode(value, left)
        return value


def grow(counts: list[int], index: int, by: int, limit: int) -> None:
    counts[index] += by
    if sum(counts) > limit:
        counts[:] = [(count + 1) >> 1 for count in counts]


@dataclass
class NumberKind:
    last: int = 0
    repeats: list[int] = field(default_factory=lambda: [2, 2])
    lengths: list[int] = field(default_factory=lambda: [max(1, 8 >> i) for i in range(25)])

    def decode(self, message: Message) -> int:
        is_new = message.symbol(self.repeats)
        value = self.last
        if is_new:
            length = message.symbol(self.lengths)
            value, missing = min(length, 1), length - 1
            while missing > 0:
                group = min(missing, 16)
                value = (value << group) + message.uniform(1 << group)
                missing -= group
            if value == self.last:
                raise OracleError(f"{value} is said to differ from the last number, {self.last}")
            grow(self.lengths, length, 8, 1024)
        grow(self.repeats, is_new, 8, 1024)
        self.last = value
        return value


def log2_units(*values: int) -> list[int]:
    return noise.log2_units(np.array(values, dtype=np.int64)).tolist()


def gumbel(*words: int) -> list[int]:
    return noise.gumbel(np.array(words, dtype=np.uint64)).tolist()


def grid_score(frequency: int, word: int | None) -> int:
    n = 1 if word is None else 2 * (word >> 12) + 1
    # Python rounds the quotient of two integers correctly.
    pattern = int.from_bytes(struct.pack(">d", frequency / n), "big")
    above, one = log2_units(513 + 2 * ((pattern >> 44) & 255), 512)
    score = 64 * (pattern >> 52) + ((above - one + (1 << 17)) >> 18)
    if word is None:
        return score
    c = (2 * (n >> 45) + 1) << 44
    return score - (((53 << 24) - log2_units(c)[0] - gumbel((c >> 1) << 12)[0] + (1 << 17)) >> 18)


@functools.cache
def miss_weight(below: int, sharpness: int) -> int:
    context = Context(prec=60)
    halvings = context.divide(Decimal(16 * below), Decimal(64 * sharpness))
    value = context.power(Decimal(2), context.subtract(Decimal(24), halvings))
    return max(1, round(value))


class Guesser:
    def __init__(self) -> None:
        self.flags = [[[2 * (gap + 1), 2] for _ in range(len(SURPRISES) + 1)] for gap in range(len(GAPS) + 1)]
        self.mix = [[65536 // 5] * 5 for _ in range(len(GAPS) + 1)]

    def decode(self, message: Message, f: list[int], words: list[int] | None) -> int:
        drawn = [0] * len(f) if words is None else gumbel(*words)
        scores = [a + b for a, b in zip(log2_units(*f), drawn, strict=True)]
        guess = scores.index(max(scores))
        lead = (scores[guess] - max(scores[:guess] + scores[guess + 1 :])) >> 18
        total, top = log2_units(sum(f), max(f))
        gap = sum(entry < lead for entry in GAPS)
        flags = self.flags[gap][sum(entry < (total - top) >> 18 for entry in SURPRISES)]
        is_miss = message.symbol(flags)
        token = self._decode_miss(message, f, words, guess, gap) if is_miss else guess
        grow(flags, is_miss, 2, 2048)
        return token

    def _decode_miss(self, message: Message, f: list[int], words: list[int] | None, guess: int, gap: int) -> int:
        size = len(f)
        grid = [grid_score(f[t], words and words[t]) for t in range(size)]
        grid[guess] = min(grid)
        below = [min(max(grid) - score, 2304) for score in grid]
        w = [[0 if t == guess else miss_weight(below[t], k) for t in range(size)] for k in SHARPNESSES]
        s = [sum(row) for row in w]
        shares = [(part << 35) // total for part, total in zip(self.mix[gap], s, strict=True)]
        token = message.symbol([sum(share * row[t] for share, row in zip(shares, w, strict=True)) for t in range(size)])
        if token == guess:
            raise OracleError(f"a miss names the guess, {guess}")
        p = [(row[token] << 30) // total for row, total in zip(w, s, strict=True)]
        q = [part * (probability + 1) for part, probability in zip(self.mix[gap], p, strict=True)]
        self.mix[gap] = [256 + (part << 16) // sum(q) for part in q]
        return token


def digest_of(event: Any) -> bytes:
    if hasattr(event, "prompt"):
        temperature = (event.temperature.numerator, event.temperature.denominator)
        parts = (event.codec.value.lower(), *temperature, event.tokens_max, event.candidate_count, len(event.prompt))
        text = "".join(f"{part} " for part in parts)
        tokens = b"".join(token.to_bytes(4, "little") for token in event.prompt)
        ends = b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in getattr(event, "stop", ()))
        content = text.encode() + tokens + event.key + ends
        return hashlib.blake2b(content, digest_size=16, person=b"bitweir grant").digest()
    return hashlib.blake2b(event.stream.to_bytes(8, "little"), digest_size=16, person=b"bitweir cancel").digest()


@dataclass
class Stream:
    grant: Any
    slot: int | None = None
    candidate: int = 0
    answer: list[int] = field(default_factory=list)
    is_complete: bool = False


@dataclass
class LaneState:
    """All that a frame changes. Streams are those that wait or are in a slot."""

    kinds: dict[str, NumberKind]
    guessers: dict[str, Guesser]
    pending: list[tuple[int, Any]] = field(default_factory=list)
    streams: dict[int, Stream] = field(default_factory=dict)
    state: bytes = bytes(8)
    epoch: int = 0
    good_frames: int = 0

    def waiting(self) -> list[int]:
        return sorted(number for number, stream in self.streams.items() if stream.slot is None)

    def in_slots(self) -> list[int]:
        number_in = {stream.slot: number for number, stream in self.streams.items() if stream.slot is not None}
        return [number_in[slot] for slot in sorted(number_in)]


def fresh() -> tuple[dict[str, NumberKind], dict[str, Guesser]]:
    kinds = ("events", "drops", "joins", "join_index", "steps")
    return {kind: NumberKind() for kind in kinds}, {"gumbel": Guesser(), "greedy": Guesser()}


@dataclass
class Decoded:
    """What a frame said: stream -> candidate, tokens of this frame, "complete" or "cancelled" or "dropped"."""

    mode: int
    joined: dict[int, int] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    state: bytes = b""
    good_frames: int = 0


class OracleLane:
    """Decodes the frames of one lane; `finished`, given a grant and an answer, is the lane's own rule of section 3."""

    def __init__(self, vocabulary_size: int, slot_count: int, end: int, frequencies, finished=None) -> None:
        self.size, self.slot_count, self.end_token = vocabulary_size, slot_count, end
        self.frequencies, self.finished = frequencies, finished
        self.r = [int(word) | 1 for word in noise.words((0, 0), vocabulary_size)]
        self.lane = LaneState(*fresh())
        self.event_count = self.failures = self.dropped = 0
        self.is_refusing = self.may_be_old = self.is_reset = False

    def event(self, event: Any) -> int:
        """Append an event and return its number."""
        if hasattr(event, "epoch"):
            self.lane = LaneState(self.lane.kinds, self.lane.guessers, state=event.state, epoch=event.epoch)
            self.may_be_old, self.is_reset = not self.is_reset, False
            self.is_refusing, self.failures, self.dropped = False, 0, 0
        else:
            self.lane.pending.append((self.event_count, event))
        self.event_count += 1
        return self.event_count - 1

    def decode(self, bits: Bits) -> Decoded:
        """Decode a frame; of one that cannot be, nothing stays but the failure, if it is no frame to drop."""
        before = copy.deepcopy(self.lane)
        try:
            return self._decode(Message(bits))
        except OracleError as error:
            self.lane, is_stale = before, isinstance(error, StaleError)
            if is_stale and self.is_refusing:
                self.dropped += 1
            elif not (is_stale and self.may_be_old and not before.good_frames):
                self.dropped = self.dropped + 1 if self.is_refusing else 0
                self.is_refusing, self.failures = True, self.failures + 1
            raise

    def _decode(self, message: Message) -> Decoded:
        lane, mode = self.lane, message.symbol([4092, 1, 1, 1, 1])
        is_opening = mode in {OPENING, OPENING_ESCAPE}
        is_misplaced = mode != RESET and is_opening is not (lane.good_frames == 0)
        if is_misplaced or (self.is_refusing and mode in {NORMAL, OPENING}):
            raise StaleError(f"frame {lane.good_frames} of an epoch is of mode {mode}")
        self.h = hashlib.blake2b(b"" if mode == RESET else lane.state, digest_size=16, person=b"bitweir frame v1")
        self._absorb(mode, lane.epoch, 0 if mode == RESET else lane.good_frames)
        if mode != NORMAL:
            position = lane.good_frames if mode == ESCAPE else lane.epoch
            if message.uniform(1 << 16) != position % (1 << 16):
                raise StaleError("a frame of another number or epoch")
        if is_opening:
            self._absorb(starts_anew := message.uniform(2))
            lane.kinds, lane.guessers = fresh() if starts_anew else (lane.kinds, lane.guessers)
        result = Decoded(mode)
        if mode != RESET:
            self._decode_content(message, result)
        digest = self.h.digest()
        if message.uniform(1 << 12) != int.from_bytes(digest[:2], "little") >> 4:
            raise OracleError("the check differs")
        if message.echo.finish() != message.bits:
            raise OracleError("other bits say the same")
        self.is_refusing, self.is_reset = False, mode == RESET
        if mode != RESET:
            lane.state, lane.good_frames = digest[-8:], lane.good_frames + 1
        result.state, result.good_frames = lane.state, lane.good_frames
        return result

    def _decode_content(self, message: Message, result: Decoded) -> None:
        lane = self.lane
        event_count, drop_count = self._decode_events(message, result), self._number(message, "drops")
        for _ in range(drop_count):
            listed = lane.in_slots() + lane.waiting()
            if not listed:
                raise OracleError("nothing is left to drop")
            self._absorb(number := listed[message.uniform(len(listed))])
            result.ended[number] = "dropped"
            del lane.streams[number]
        join_count = self._number(message, "joins")
        for _ in range(join_count):
            self._decode_join(message, result)
        step_count = self._number(message, "steps")
        if not event_count + drop_count + join_count + step_count:
            raise OracleError("nothing changes")
        for _ in range(step_count):
            self._decode_step(message, result)
        for number in lane.in_slots():
            if lane.streams[number].is_complete:
                result.ended[number] = "complete"
                del lane.streams[number]

    def _decode_events(self, message: Message, result: Decoded) -> int:
        lane, count = self.lane, self._number(message, "events")
        if count > len(lane.pending):
            raise OracleError(f"{count} events of {len(lane.pending)}")
        for number, event in lane.pending[:count]:
            self.h.update(digest_of(event))
            if hasattr(event, "prompt"):
                lane.streams[number] = Stream(event)
            elif event.stream in lane.streams:
                result.ended[event.stream] = "cancelled"
                del lane.streams[event.stream]
        del lane.pending[:count]
        return count

    def _decode_join(self, message: Message, result: Decoded) -> None:
        lane, index = self.lane, self._number(message, "join_index")
        free = sorted(set(range(self.slot_count)) - {stream.slot for stream in lane.streams.values()})
        if index >= len(lane.waiting()) or not free:
            raise OracleError(f"waiting stream {index} of {len(lane.waiting())} joins one of {len(free)} slots")
        stream = lane.streams[number := lane.waiting()[index]]
        stream.candidate = result.joined[number] = message.uniform(stream.grant.candidate_count)
        stream.slot = free[0]
        self._absorb(number, stream.candidate)

    def _decode_step(self, message: Message, result: Decoded) -> None:
        open_streams = self.lane.streams
        streams = {n: open_streams[n] for n in self.lane.in_slots() if not open_streams[n].is_complete}
        if not streams:
            raise OracleError("a step without a token")
        tokens, f = {}, {}
        if result.mode in {ESCAPE, OPENING_ESCAPE}:
            tokens = {number: message.uniform(self.size) for number in streams}
        else:
            for number, stream in streams.items():
                f[number] = list(self.frequencies([*stream.grant.prompt, *stream.answer], stream.grant.temperature))
                self._absorb(sum(a * b for a, b in zip(f[number], self.r, strict=True)) % (1 << 64))
            for number in sorted(streams, key=lambda number: CODECS.index(streams[number].grant.codec.value)):
                tokens[number] = self._decode_token(message, streams[number], f[number])
        for number, stream in streams.items():
            self._absorb(tokens[number])
            stream.answer.append(tokens[number])
            result.texts.setdefault(number, []).append(tokens[number])
            stream.is_complete = tokens[number] == self.end_token or len(stream.answer) >= stream.grant.tokens_max
            stream.is_complete |= self.finished is not None and self.finished(stream.grant, stream.answer)

    def _decode_token(self, message: Message, stream: Stream, f: list[int]) -> int:
        codec, words = stream.grant.codec.value, None
        if codec == "arithmetic":
            return message.symbol(f)
        if codec == "gumbel":
            place = (stream.grant.key, stream.candidate, NoiseStream.VISIBLE, len(stream.answer))
            words = [int(word) for word in noise.words(noise.position_key(*place), self.size)]
        return self.lane.guessers[codec].decode(message, f, words)

    def _number(self, message: Message, kind: str) -> int:
        self._absorb(value := self.lane.kinds[kind].decode(message))
        return value

    def _absorb(self, *values: int) -> None:
        self.h.update(b"".join(value.to_bytes(8, "little") for value in values))
