"""The report as a person sees it: a real browser renders it, offline, with the figure on the first screen."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bitweir_loadgen.report import render

pytestmark = pytest.mark.system

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--window-size=1000,1400",
)  # fmt: skip


def summary() -> dict:
    row = {"bits_per_token": 1.0, "bits_per_byte": 0.25, "note": "a note"}
    rows = [
        {**row, "name": "raw", "bits": 80_000, "upload_over_weights": 0.01},
        {**row, "name": "weak_model", "bits": 8_000, "upload_over_weights": 0.001},
    ]
    distinct = {"distinct_1": 0.5, "distinct_2": 0.9, "distinct_3": 1.0, "xz_bits_per_byte": 3.0}
    return {
        "config": {"profile": "tiny", "temperature": 1.0, "seed": 1},
        "costs": {
            "tokens": 1000, "hidden_tokens": 300, "bytes": 10_000, "weights_bytes": 1_000_000, "rows": rows,
            "measured": {"entropy_bits": 0.9, "kl_bits": 0.1},
            "guard": {"verdict": "warn", "reasons": ["It loops & <b>loops</b>."], **distinct},
        },
        "channel": {"streams": 1, "left_out": 0, "threads": {"encoder": 2, "decoder": 1}},
        "answers": [{"prompt": "p", "text": "line one\nline two", "visible": [1], "hidden": [], "finish": "end"}],
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(summary()))
    return path


def chromium(page: Path, *words: str) -> str:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's chromium is not installed")
    command = [program, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_browser_shows_the_figure_and_escapes_the_rest(page: Path) -> None:
    dom = chromium(page, "--dump-dom")
    assert '<p class="figure">0.1 %</p>' in dom
    assert "It loops &amp; &lt;b&gt;loops&lt;/b&gt;." in dom


def test_the_first_screen_is_not_blank(page: Path) -> None:
    picture = page.parent / "page.png"
    chromium(page, f"--screenshot={picture}")
    import matplotlib.image

    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (1400, 1000)
    # The large figure stands in the upper fifth of the page: dark pixels on white.
    assert (pixels[:280, :, :3].min(axis=2) < 0.3).mean() > 0.002
