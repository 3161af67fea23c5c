"""Finished answers through a lane and out again. Synchronous, one lane, no sockets: what demos and measurements use.

Rules:
1. Encoding and decoding use predictors of their own and share nothing but a `LaneRecord`.
2. An answer is sent if it ended by itself or at its token limit. One that filled the strong model's context before is
   left out, because outer cannot know that.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bitweir_compression import noise
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.exact.predictor import ExactPredictor, check_fingerprints
from bitweir_compression.exact.temperature import UNIT, Temperature
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.session.events import Acknowledgement, CodecName, Grant
from bitweir_compression.session.lane import LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Frame, Sender
from bitweir_services.answering import Answer, master_key
from bitweir_services.errors import RecordError, RequestError
from bitweir_services.lane_record import LaneRecord

# What is done, how much of it, how much in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Transmission:
    """A record, and what the sender knows about its frames."""

    record: LaneRecord
    frames: Sequence[Frame]

    def sums(self) -> tuple[Mapping[str, float], Mapping[str, int]]:
        """Return ideal bits and symbols by part, over all frames."""
        bits: dict[str, float] = defaultdict(float)
        symbols: dict[str, int] = defaultdict(int)
        for frame in self.frames:
            for part, value in frame.ideal_bits.items():
                bits[part] += value
            for part, count in frame.symbol_counts.items():
                symbols[part] += count
        return bits, symbols


def sendable(answers: Sequence[Answer], tokenizer: ChatTokenizer, visible_tokens_max: int) -> list[int]:
    """Return the indices of the answers that can be sent; see rule 2."""
    return [
        index
        for index, answer in enumerate(answers)
        if answer.visible and (answer.visible[-1] == tokenizer.end or len(answer.visible) == visible_tokens_max)
    ]


def grants(
    answers: Sequence[Answer],
    chosen: Sequence[int],
    tokenizer: ChatTokenizer,
    *,
    seed: int,
    temperature: float,
    codec: CodecName,
    tokens_max: int,
    context_tokens: int,
) -> list[Grant]:
    """Return what outer would have granted for the chosen answers of `answering.answer` with this seed."""
    master = master_key(seed)
    result = []
    for index in chosen:
        prompt = tuple(tokenizer.weak_prompt(answers[index].prompt))
        limit = min(tokens_max, context_tokens - len(prompt))
        degree = Temperature.of(temperature) if temperature else UNIT
        result.append(Grant(prompt, codec, noise.request_key(master, index), degree, limit))
    return result


def encode(
    file: ExactFile,
    spec: LaneSpec,
    granted: Sequence[Grant],
    texts: Sequence[Sequence[int]],
    *,
    steps: int,
    progress: Progress,
) -> Transmission:
    """Code texts, one for each grant, into frames of `steps` steps."""
    sender = Sender(ExactPredictor(file, slot_count=spec.slot_count), spec)
    for number, (grant, text) in enumerate(zip(granted, texts, strict=True)):
        sender.receive(number, grant)
        sender.offer(number, text)
    frames: list[Frame] = []
    total, done = sum(map(len, texts)), 0
    while (frame := sender.frame(steps)) is not None:
        frames.append(frame)
        # The link of this module loses nothing: every frame counts as decoded.
        sender.acknowledge(Acknowledgement(0, len(frames), sender.state))
        done += frame.token_count
        progress("tokens coded", done, total)
    if done != total:
        raise RequestError(f"{done} of {total} tokens were sent", remedy="offer whole answers")
    record = LaneRecord(file.fingerprint, spec, tuple(granted), tuple(frame.bits for frame in frames))
    return Transmission(record, frames)


def decode(file: ExactFile, record: LaneRecord, *, progress: Progress) -> list[list[int]]:
    """Decode a record; returns the tokens of each stream.

    Raises:
        FingerprintError: the file is not the weak model the record was made with.
        FrameError: a frame cannot be decoded; no text of it is returned, and none of those after it.
        RecordError: the frames end before the streams do.
    """
    check_fingerprints(file.fingerprint, record.weak)
    receiver = Receiver(ExactPredictor(file, slot_count=record.spec.slot_count), record.spec)
    texts: list[list[int]] = []
    for grant in record.grants:
        receiver.grant(grant)
        texts.append([])
    for number, bits in enumerate(record.frames):
        for stream, tokens in receiver.decode(bits).texts.items():
            texts[stream] += tokens
        progress("frames decoded", number + 1, len(record.frames))
    if receiver.open_streams:
        raise RecordError(f"{len(receiver.open_streams)} streams do not end", remedy="the record lost frames")
    return texts
