"""What each codec costs: the strong model's answers through a lane and back, beside the yardsticks.

Rules:
1. There are no figures unless every answer came back equal, decoded with a predictor of its own.
2. The same answers are coded by every codec of a row group; P is what they were drawn from, after truncation.
3. Three totals, never mixed. *information*: what an observer can read from the frames. *frame*: their bytes. *wire*:
   with UDP, IPv4 and Ethernet headers. `coder` is the payload alone: tokens, changes, check and flush.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitweir_compression import baselines
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.models.evaluation import Measurement, measure
from bitweir_compression.models.exact_weak import open_exact_weak
from bitweir_compression.models.examples import exchange
from bitweir_compression.provenance import provenance
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import CodecName
from bitweir_compression.session.lane import LaneSpec
from bitweir_metering import sizes
from bitweir_services import transmission
from bitweir_services.answering import Answer, Limits, LoadedPair, answer, guarded
from bitweir_services.errors import RequestError
from bitweir_services.transmission import Transmission

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchSpec:
    """What to measure.

    Attributes:
        seed: of the noise keys.
        streams: slots of the lane.
        steps_per_frame: tokens of a stream in one frame.
        samplings: how answers are drawn, one row group each.
        limits: token limits, and answers generated at once.
    """

    seed: int
    streams: int
    steps_per_frame: int
    samplings: tuple[SamplingSpec, ...]
    limits: Limits


def codecs_for(sampling: SamplingSpec) -> tuple[CodecName, ...]:
    """Return the codecs that can code answers drawn like this."""
    return CodecName.ARITHMETIC, CodecName.GUMBEL if sampling.temperature else CodecName.GREEDY


def bench(
    pair: Pair, loaded: LoadedPair, prompts: Sequence[str], spec: BenchSpec, progress: Progress
) -> dict[str, Any]:
    """Measure; returns the document of `bitweir codec bench --json` (docs/reference/codec-bench.md)."""
    file = open_exact_weak(pair)
    rows: list[dict[str, Any]] = []
    yardsticks: list[dict[str, Any]] = []
    overhead: dict[str, Any] = {}
    guards: dict[str, Any] = {}
    for sampling in spec.samplings:
        name = label(sampling)
        group = _answered(loaded, prompts, sampling, spec, _named(progress, name))
        guards[name] = guarded(group.answers, loaded.tokenizer.end)
        yardsticks.append({**_sampling_fields(sampling), **_yardsticks(loaded, group.sent)})
        for codec in codecs_for(sampling):
            title = f"{name} {codec.value}"
            transmitted, mismatches = _through_the_lane(
                loaded, file, group, codec, spec=spec, progress=_named(progress, title)
            )
            rows.append(_row(group, codec, transmitted, mismatches))
            overhead[title] = _overhead(transmitted)
    return {
        "strong": pair.strong.fingerprint,
        "weak": file.fingerprint,
        "weights_bytes": pair.strong.weights_bytes,
        "requests": len(prompts),
        "streams": spec.streams,
        "steps_per_frame": spec.steps_per_frame,
        "seed": spec.seed,
        "rows": rows,
        "overhead": overhead,
        "baselines": yardsticks,
        "guard": guards,
        **provenance(),
    }


def table_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the rows as lines of text."""
    lines = [
        f"{'':<26}{'codec':<12}{'H(P)':>7}{'KL':>7}{'TV':>7}{'hits':>7}   bits/token: ideal  payload  frame   wire"
    ]
    for row in document["rows"]:
        sampling = SamplingSpec(row["temperature"], top_k=row["top_k"], top_p=row["top_p"])
        hits = "" if row["hit_rate"] is None else f"{row['hit_rate']:.3f}"
        lines.append(
            f"{label(sampling):<26}{row['codec']:<12}{row['entropy_bits']:>7.3f}{row['kl_bits']:>7.3f}{row['tv']:>7.3f}"
            f"{hits:>7}{row['ideal_bits_per_token']:>20.3f}{row['coder_bits_per_token']:>9.3f}"
            f"{row['frame_bits_per_token']:>7.3f}{row['wire_bits_per_token']:>7.3f}"
        )
    for found in document["baselines"]:
        sampling = SamplingSpec(found["temperature"], top_k=found["top_k"], top_p=found["top_p"])
        costs = (f"{name} {cost['bits_per_token']:.1f}" for name, cost in found.items() if isinstance(cost, Mapping))
        lines.append(f"{label(sampling):<26}{', '.join(costs)}")
    wrong = sum(row["mismatches"] for row in document["rows"])
    lines.append(f"{wrong} answers came back different" if wrong else "every answer came back token for token")
    for name, guard in document["guard"].items():
        lines += [f"degeneracy guard, {name}: {reason}" for reason in guard["reasons"]]
    return lines


def label(sampling: SamplingSpec) -> str:
    """Return a short name: `T=0.7 top_p=0.9`."""
    parts = [f"T={sampling.temperature:g}"]
    if sampling.top_k:
        parts.append(f"top_k={sampling.top_k}")
    if sampling.top_p < 1:
        parts.append(f"top_p={sampling.top_p:g}")
    return " ".join(parts)


@dataclass(frozen=True)
class _Group:
    """Answers drawn in one way: all of them, which can be sent, and what P and W are like on those."""

    sampling: SamplingSpec
    answers: Sequence[Answer]
    chosen: Sequence[int]
    measured: Measurement

    @property
    def sent(self) -> list[Answer]:
        return [self.answers[index] for index in self.chosen]


def _answered(
    loaded: LoadedPair, prompts: Sequence[str], sampling: SamplingSpec, spec: BenchSpec, progress: Progress
) -> _Group:
    answers = answer(loaded, prompts, seed=spec.seed, sampling=sampling, limits=spec.limits, progress=progress)
    chosen = transmission.sendable(answers, loaded.tokenizer, spec.limits.visible_tokens_max)
    if not chosen:
        raise RequestError(
            f"{label(sampling)}: no answer can be sent", remedy="raise the token limits or use a better model"
        )
    rows = [exchange(loaded.tokenizer, answers[i].prompt, [*answers[i].hidden, *answers[i].visible]) for i in chosen]
    measured = measure(loaded.strong, loaded.weak, loaded.tokenizer, rows, sampling)
    return _Group(sampling, answers, chosen, measured)


def _through_the_lane(
    loaded: LoadedPair, file: ExactFile, group: _Group, codec: CodecName, *, spec: BenchSpec, progress: Progress
) -> tuple[Transmission, int]:
    """Code, decode and compare; returns the transmission and how many answers came back different."""
    granted = transmission.grants(
        group.answers,
        group.chosen,
        loaded.tokenizer,
        seed=spec.seed,
        temperature=group.sampling.temperature,
        codec=codec,
        tokens_max=spec.limits.visible_tokens_max,
        context_tokens=file.architecture.context_tokens,
    )
    texts = [list(one.visible) for one in group.sent]
    lane = LaneSpec(slot_count=spec.streams, end=loaded.tokenizer.end)
    sent = transmission.encode(file, lane, granted, texts, steps=spec.steps_per_frame, progress=progress)
    received = transmission.decode(file, sent.record, progress=progress)
    return sent, sum(a != b for a, b in zip(texts, received, strict=True))


def _row(group: _Group, codec: CodecName, sent: Transmission, mismatches: int) -> dict[str, Any]:
    bits, symbols = sent.sums()
    tokens = sum(frame.token_count for frame in sent.frames)
    counts = [frame.bits.count for frame in sent.frames]
    text_bytes = sum(len(one.text.encode()) for one in group.sent)
    return {
        **_sampling_fields(group.sampling),
        "codec": codec.value,
        "tokens": tokens,
        "bytes": text_bytes,
        "frames": len(counts),
        "kl_bits": group.measured.kl_bits,
        "entropy_bits": group.measured.entropy_bits,
        "tv": group.measured.tv,
        "hit_rate": 1 - symbols["misses"] / tokens if codec is not CodecName.ARITHMETIC else None,
        "ideal_bits_per_token": sum(bits[part] for part in ("tokens", "flags", "misses", "escapes")) / tokens,
        "coder_bits_per_token": sum(counts) / tokens,
        "information_bits_per_token": sum(map(sizes.information_bits, counts)) / tokens,
        "frame_bits_per_token": 8 * sum(map(sizes.frame_bytes, counts)) / tokens,
        "wire_bits_per_token": 8 * sum(map(sizes.wire_bytes, counts)) / tokens,
        "bits_per_byte": sum(counts) / max(1, text_bytes),
        "mismatches": mismatches,
    }


def _overhead(sent: Transmission) -> dict[str, float]:
    """Return bits a token by part of the wire; they add up to `wire_bits_per_token`."""
    bits, _ = sent.sums()
    tokens = sum(frame.token_count for frame in sent.frames)
    counts = [frame.bits.count for frame in sent.frames]
    padding = sum(8 * sizes.class_bytes(count) - count for count in counts)
    parts = {
        **bits,
        "flush": sum(counts) - sum(bits.values()),
        "padding": padding,
        "frame_header": 8 * sizes.FIXED_BYTES * len(counts),
        "wire_header": 8 * sizes.WIRE_HEADER_BYTES * len(counts),
        "timing": 0.0,
    }
    return {part: value / tokens for part, value in parts.items()}


def _yardsticks(loaded: LoadedPair, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return each yardstick's bits a token and a byte."""
    texts = [(one.prompt, one.text) for one in answers]
    counts = [len(one.visible) for one in answers]
    tokens, text_bytes = sum(counts), max(1, sum(len(text.encode()) for _, text in texts))
    return {
        row.name: {"bits_per_token": row.bits / tokens, "bits_per_byte": row.bits / text_bytes}
        for row in baselines.measure(texts, counts, loaded.tokenizer.vocabulary_size)
    }


def _sampling_fields(sampling: SamplingSpec) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(sampling).items() if name in ("temperature", "top_p", "top_k")}


def _named(progress: Progress, name: str) -> Progress:
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)
