"""The demonstration run: held-out prompts, the strong model, its answers coded here and decoded in another process.

The other process gets the weak model, the grants and the frames, and computes with another number of threads. What it
decodes must be what was coded, token for token, or there is no report.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from bitweir_compression.corpus.held_out import held_out_prompts
from bitweir_compression.exact import format as exact_format
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.models.exact_weak import open_exact_weak
from bitweir_compression.provenance import provenance
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import CodecName
from bitweir_compression.session.lane import LaneSpec
from bitweir_loadgen.errors import DemoError
from bitweir_loadgen.report import render
from bitweir_loadgen.run_folder import RunFolder
from bitweir_metering import sizes
from bitweir_services import lane_record, transmission
from bitweir_services.answering import Answer, Limits, LoadedPair, Progress, answer, cost_row, load, upload_costs
from bitweir_services.transmission import Transmission

# Answers on their way at once, and tokens of each in a frame.
STREAMS = 128
STEPS_PER_FRAME = 10


def run_demo(
    pair: Pair, folder: RunFolder, *, profile: str, size: int, seed: int, sampling: SamplingSpec, progress: Progress
) -> dict[str, Any]:
    """Answer the prompts, measure, write the run folder and return the summary."""
    limits = Limits()
    config = {
        "command": "demo",
        "profile": profile,
        "size": size,
        "seed": seed,
        "temperature": sampling.temperature,
        "sampling": asdict(sampling),
        "limits": asdict(limits),
        "strong": pair.strong.fingerprint,
        "weak": pair.weak.fingerprint,
        **provenance(),
    }
    folder.write_json("config.json", config)
    loaded = load(pair)
    answers = answer(
        loaded, held_out_prompts(size, seed), seed=seed, sampling=sampling, limits=limits, progress=progress
    )
    rows = [asdict(a) for a in answers]
    folder.write_rows("requests.jsonl", rows)
    chosen = transmission.sendable(answers, loaded.tokenizer, limits.visible_tokens_max)
    if not chosen:
        raise DemoError("no answer can be sent", remedy="use another seed, or a better model")
    sent = _send(pair, loaded, answers, chosen, seed=seed, sampling=sampling, limits=limits, progress=progress)
    folder.write_text(lane_record.FILE_NAME, sent.record.to_json())
    channel = _receive(pair, folder, [list(answers[index].visible) for index in chosen])
    costs = upload_costs(pair, loaded, [answers[index] for index in chosen], sampling=sampling)
    costs["rows"] += _lane_rows(costs, sent)
    figures = {"config": config, "costs": costs, "channel": {**channel, "left_out": len(answers) - len(chosen)}}
    folder.write_json("summary.json", figures)
    summary = {**figures, "answers": rows}
    folder.write_text("report.html", render(summary))
    return summary


def _send(
    pair: Pair,
    loaded: LoadedPair,
    answers: Sequence[Answer],
    chosen: Sequence[int],
    *,
    seed: int,
    sampling: SamplingSpec,
    limits: Limits,
    progress: Progress,
) -> Transmission:
    file = open_exact_weak(pair)
    granted = transmission.grants(
        answers,
        chosen,
        loaded.tokenizer,
        seed=seed,
        temperature=sampling.temperature,
        codec=CodecName.GUMBEL if sampling.temperature else CodecName.GREEDY,
        tokens_max=limits.visible_tokens_max,
        context_tokens=file.architecture.context_tokens,
    )
    lane = LaneSpec(slot_count=min(STREAMS, len(chosen)), end=loaded.tokenizer.end)
    texts = [list(answers[index].visible) for index in chosen]
    return transmission.encode(file, lane, granted, texts, steps=STEPS_PER_FRAME, progress=progress)


def _receive(pair: Pair, folder: RunFolder, texts: list[list[int]]) -> dict[str, Any]:
    """Decode in another process with another number of threads, and compare.

    Raises:
        DemoError: it failed, or decoded something else.
    """
    threads = {"encoder": torch.get_num_threads(), "decoder": 1 if torch.get_num_threads() > 1 else 2}
    out = folder.path / "decoded.jsonl"
    command = [sys.executable, "-m", "bitweir_loadgen", "codec", "decode", str(folder.path), "--out", str(out)]
    command += ["--weak", str(pair.weak.folder / exact_format.FILE_NAME), "--threads", str(threads["decoder"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        raise DemoError(f"the decoding process failed: {done.stderr.strip()[-300:]}", remedy="run it again by hand")
    decoded = [json.loads(line)["tokens"] for line in out.read_text(encoding="utf-8").splitlines()]
    if decoded != texts:
        raise DemoError("the decoding process decoded other tokens", remedy="bitweir exact certify tests this machine")
    return {"decoded_equal": True, "streams": len(texts), "threads": threads}


def _lane_rows(costs: Mapping[str, Any], sent: Transmission) -> list[dict[str, Any]]:
    counts = [frame.bits.count for frame in sent.frames]
    codec = sent.record.grants[0].codec.value
    streams = sent.record.spec.slot_count
    what = f"codec {codec}, {len(counts)} frames of up to {STEPS_PER_FRAME} tokens of {streams} streams"
    frame_bits, wire_bits = (8 * sum(map(size, counts)) for size in (sizes.frame_bytes, sizes.wire_bytes))
    return [
        cost_row(costs, "payload", sum(counts), f"{what}: tokens, stream changes, a 12-bit check each; decoded again"),
        cost_row(costs, "frames", frame_bits, "the same padded to a size class, with sequence number and tag"),
        cost_row(costs, "wire", wire_bits, "the same with UDP, IPv4 and Ethernet headers"),
    ]
