"""The demonstration run: held-out prompts, the strong model, and what its answers would cost to upload."""

from dataclasses import asdict
from itertools import islice
from typing import Any

from bitweir_compression.corpus import Split, documentation, tutor
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.provenance import provenance
from bitweir_compression.sampling import SamplingSpec
from bitweir_loadgen.report import render
from bitweir_loadgen.run_folder import RunFolder
from bitweir_services.answering import Limits, Progress, answer, load, upload_costs

# Share of documentation questions among the prompts; the rest are the tutor's.
DOCUMENTATION_SHARE = 0.3


def prompts(size: int, seed: int) -> list[str]:
    """Return held-out prompts: tutor problems first, then documentation questions."""
    documentation_count = round(size * DOCUMENTATION_SHARE)
    sources = (
        (tutor.generate(seed, Split.EVAL), size - documentation_count),
        (documentation.generate(seed, Split.EVAL), documentation_count),
    )
    return [item.prompt for source, count in sources for item in islice(source, count)]


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
    answers = answer(loaded, prompts(size, seed), seed=seed, sampling=sampling, limits=limits, progress=progress)
    rows = [asdict(a) for a in answers]
    folder.write_rows("requests.jsonl", rows)
    costs = upload_costs(pair, loaded, answers, sampling=sampling)
    summary = {"config": config, "costs": costs, "answers": rows}
    folder.write_json("summary.json", {"config": config, "costs": costs})
    folder.write_text("report.html", render(summary))
    return summary
