"""`bitweir codec text` from outside, with the tiny pair: a text comes back, and the table says what it cost."""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.pair import needs_pair, tiny_pair

pytestmark = needs_pair
ANSWER = "The sum of 12 and 30 is 42.\n"


def codec_text(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bitweir_loadgen.cli import main; main()", "codec", "text", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_kind_of_text_it_was_trained_on_is_shorter_than_with_xz(repository_root: Path, tmp_path: Path) -> None:
    tiny_pair(repository_root)
    (tmp_path / "answer.txt").write_text(ANSWER)
    words = ("answer.txt", "--models", str(repository_root / "models"))
    shown = codec_text(*words, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"answer.txt: {len(ANSWER)} bytes" in shown.stdout
    written = codec_text(*words, "--json", "out.json", cwd=tmp_path)
    assert (written.returncode, written.stdout) == (0, "")
    document = json.loads((tmp_path / "out.json").read_text())
    sizes = {row["name"]: row["bytes"] for row in document["rows"]}
    assert document["decoded_equal"] is True
    assert sizes["weak_model"] < sizes["zlib"] < sizes["xz"]
    assert sizes["weak_model"] < len(ANSWER)
