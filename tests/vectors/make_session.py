"""Write session.json, a lane's life frame by frame: `python -m tests.vectors.make_session`. A change of any value means
that ends of different versions no longer understand each other; docs/reference/session-format.md says what they mean.

The weak model is a table of counts, and the tokens come out of SHA-256 and the shared noise, so no generator, library
or trained model has a say. The lane sees all three codecs, a choice of candidates, a stream that waits, a cancel, a
drop, a damaged frame that is sent again as an escape, and a restart.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitweir_compression import noise
from bitweir_compression.coder import Bits
from bitweir_compression.exact.predictor import NGramPredictor
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.noise import NoiseStream
from bitweir_compression.session.errors import FrameError
from bitweir_compression.session.events import Cancel, CodecName, Event, Grant, Restart
from bitweir_compression.session.lane import LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender

VOCABULARY = 24
SPEC = LaneSpec(slot_count=3, end=0, steps_max=16)


def numbers(label: str) -> Iterator[int]:
    """Yield integers of 0 to 255."""
    for block in range(1 << 30):
        yield from hashlib.sha256(f"bitweir session vectors {label} {block}".encode()).digest()


def predictor() -> NGramPredictor:
    """Return the weak model: counts of what follows nothing and each token."""
    source = numbers("counts")
    contexts = [(), *((token,) for token in range(VOCABULARY))]
    counts = {context: {next(source) % VOCABULARY: 1 + next(source) for _ in range(5)} for context in contexts}
    return NGramPredictor(counts, VOCABULARY, slot_count=SPEC.slot_count)


def frequencies(tokens: Sequence[int]) -> noise.Scores:
    """Return what the weak model says after some tokens: int64 [V]."""
    model = _model()
    model.admit(0, tokens)
    result: noise.Scores = model.step([0])[0]
    model.release(0)
    return result


@functools.cache
def _model() -> NGramPredictor:
    return predictor()


def answer(number: int, grant: Grant, candidate: int, count: int) -> list[int]:
    """Return the first tokens of an answer: three of four as the weak model would go on, the others any but the end."""
    source, tokens = numbers(f"answer {number}"), list[int]()
    for index in range(count):
        scores = noise.log2_units(frequencies([*grant.prompt, *tokens]))
        key = noise.position_key(grant.key, candidate, NoiseStream.VISIBLE, index)
        scores[SPEC.end] = noise.NEVER
        expected = int(scores.argmax())
        if grant.codec is CodecName.GUMBEL:
            expected = noise.choose([scores], [noise.words(key, VOCABULARY)])[0]
        tokens.append(1 + next(source) % (VOCABULARY - 1) if next(source) % 4 == 0 else expected)
    return tokens


class Life:
    """A lane that writes down all that happens to it, in order.

    Attributes:
        happenings: what session.json holds.
    """

    def __init__(self) -> None:
        """Start with nothing granted."""
        self.happenings: list[dict[str, object]] = []
        self._sender, self._receiver = Sender(predictor(), SPEC), Receiver(predictor(), SPEC)

    def grant(self, codec: CodecName, prompt: tuple[int, ...], tokens_max: int, candidates: int, chosen: int) -> None:
        """Grant a stream, and offer all but the last token of an answer of that length."""
        key = bytes(itertools.islice(numbers(f"key {len(self.happenings)}"), noise.KEY_BYTES))
        grant = Grant(prompt, codec, key, tokens_max=tokens_max, candidate_count=candidates)
        number = self._receiver.grant(grant)
        described = {"prompt": list(prompt), "codec": codec.value, "key": key.hex(), "temperature": [1, 1]}
        self._event(number, {"grant": described | {"tokens_max": tokens_max, "candidate_count": candidates}})
        tokens = answer(number, grant, chosen, tokens_max - 1)
        self._sender.offer(number, tokens, chosen)
        self.happenings.append({"offer": number, "tokens": tokens, "candidate": chosen})

    def cancel(self, stream: int) -> None:
        """Cancel a stream."""
        self._event(self._receiver.cancel(stream), {"cancel": stream})

    def restart(self) -> None:
        """Begin an epoch."""
        number, restart, _ = self._receiver.restart()
        self._event(number, {"restart": restart.epoch, "state": restart.state.hex()})

    def _event(self, number: int, described: dict[str, object]) -> None:
        self._sender.receive(number, self._receiver.event(number))
        self.happenings.append({"event": number} | described)

    def drop(self, stream: int) -> None:
        """Give a stream up."""
        self._sender.drop(stream)
        self.happenings.append({"drop": stream})

    def end(self, stream: int) -> None:
        """Offer the end token."""
        candidate = next(int(str(one["candidate"])) for one in self.happenings if one.get("offer") == stream)
        self._sender.offer(stream, [SPEC.end], candidate)
        self.happenings.append({"offer": stream, "tokens": [SPEC.end], "candidate": candidate})

    def frame(self, steps: int, *, is_damaged: bool = False) -> None:
        """Send a frame; where one of its bits is changed on the way, it is refused."""
        frame = self._sender.frame(steps)
        if frame is None:
            raise ValueError(f"nothing to send after {self.happenings[-1]}")
        happening: dict[str, object] = {"frame": steps, "mode": frame.mode.name.lower(), "bits": payload(frame.bits)}
        if is_damaged:
            damaged = Bits(frame.bits.value ^ (1 << (frame.bits.count // 2)), frame.bits.count)
            happening["arrives_as"] = payload(damaged)
            try:
                self._receiver.decode(damaged)
            except FrameError as error:
                if error.refusal:
                    self._sender.refuse(error.refusal)
        else:
            decoded = self._receiver.decode(frame.bits)
            self._sender.acknowledge(decoded.acknowledgement)
            parts = {"joined": decoded.joined, "texts": decoded.texts, "ended": decoded.ended}
            # JSON names things by text.
            happening |= {name: {str(stream): part[stream] for stream in sorted(part)} for name, part in parts.items()}
            happening["state"] = decoded.acknowledgement.state.hex()
        self.happenings.append(happening)


def payload(bits: Bits) -> dict[str, object]:
    """Return a bit string as JSON holds it."""
    return {"hex": f"{bits.value:x}", "count": bits.count}


def bits_of(payload: dict[str, object]) -> Bits:
    """Return the bit string again."""
    return Bits(int(str(payload["hex"]), 16), int(str(payload["count"])))


def event_of(happening: dict) -> Event:
    """Return the event of a happening that is one."""
    if "cancel" in happening:
        return Cancel(happening["cancel"])
    if "restart" in happening:
        return Restart(happening["restart"], bytes.fromhex(happening["state"]))
    described = happening["grant"]
    return Grant(
        tuple(described["prompt"]),
        CodecName(described["codec"]),
        bytes.fromhex(described["key"]),
        Temperature(*described["temperature"]),
        tokens_max=described["tokens_max"],
        candidate_count=described["candidate_count"],
    )


def life() -> list[dict[str, object]]:
    """Return a whole one."""
    lane = Life()
    lane.grant(CodecName.GUMBEL, (1, 2), 32, 4, 2)
    lane.grant(CodecName.ARITHMETIC, (3,), 8, 1, 0)
    lane.grant(CodecName.GREEDY, (5, 6, 7), 32, 1, 0)
    lane.grant(CodecName.GUMBEL, (9, 1), 32, 1, 0)
    lane.frame(5)
    lane.cancel(2)
    lane.grant(CodecName.GREEDY, (4,), 6, 3, 1)
    lane.end(1)
    lane.frame(4)
    lane.drop(0)
    lane.frame(5, is_damaged=True)
    lane.frame(3)
    lane.end(5)
    lane.frame(6)
    lane.grant(CodecName.ARITHMETIC, (2, 2), 6, 1, 0)
    lane.restart()
    lane.grant(CodecName.GUMBEL, (8, 8), 12, 1, 0)
    lane.grant(CodecName.GREEDY, (1,), 12, 1, 0)
    lane.frame(5)
    lane.end(8)
    lane.end(9)
    lane.frame(7)
    return lane.happenings


def main() -> None:
    """Write the file."""
    document = {
        "made_by": "tests/vectors/make_session.py",
        "units": "bits: a number in hexadecimal, its leading zeros given by the count; state and key: bytes",
        "vocabulary_size": VOCABULARY,
        "slot_count": SPEC.slot_count,
        "end": SPEC.end,
        "happenings": life(),
    }
    Path(__file__).with_name("session.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
