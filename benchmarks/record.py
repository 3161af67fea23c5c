"""Where a benchmark's figures go: benchmarks/results/NAME.json, with machine, versions, seed and commit.

Rules: figures that depend on the machine's speed are compared as ratios inside one run, medians of several repeats.
"""

import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitweir_compression.provenance import provenance

RESULTS = Path(__file__).parent / "results"


def write(name: str, *, seed: int, figures: dict[str, Any]) -> Path:
    """Write one result file and return its path."""
    path = RESULTS / f"{name}.json"
    where = provenance()
    if not where["commit"].isalnum() or where["commit"] == "unknown":
        print(f"the tree differs from a commit ({where['commit']}): commit first if this result is to be kept")
    document = {"name": name, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "seed": seed}
    path.write_text(json.dumps({**document, **where, "figures": figures}, indent=1, allow_nan=False) + "\n")
    return path


def median_seconds(work: Callable[[], object], *, repeats: int = 7) -> float:
    """Return the median wall time of `work` after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
