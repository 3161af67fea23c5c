"""The command line from outside: results, repeatability, and mistakes that end in one line and exit code 2."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pair import needs_pair, tiny_pair

KEY = bytes(range(32)).hex()


def bitweir(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bitweir_loadgen.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("bitweir: ")
    assert message in lines[0]
    assert "Traceback" not in result.stderr


def test_noise_is_the_frozen_vector(tmp_path: Path, repository_root: Path) -> None:
    result = json.loads(bitweir("noise", "--key", KEY, "--tokens", "4096", cwd=tmp_path).stdout)
    vectors = json.loads((repository_root / "tests" / "vectors" / "noise.json").read_text())
    assert result["gumbel"][:4] == vectors["positions"][0]["first_gumbel"]


def test_corpus_prints_the_same_items_for_the_same_seed(tmp_path: Path) -> None:
    words = ("corpus", "tutor", "--count", "3", "--seed", "9")
    first, second = (bitweir(*words, cwd=tmp_path).stdout for _ in range(2))
    items = [json.loads(line) for line in first.splitlines()]
    assert first == second
    assert len(items) == 3
    assert all(item["final"] in item["answer"] for item in items)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("noise", "--key", "zz"), "not hexadecimal"),
        (("noise", "--key", "00"), "noise key of 1 bytes"),
        (("noise", "--tokens", "0"), "vocabulary of 0 tokens"),
        (("corpus", "poems"), "no corpus 'poems'"),
        (("corpus", "tutor", "--family", "poems"), "poems"),
        (("corpus", "documentation", "--family", "dates"), "only the tutor has families"),
        (("models", "build", "--device", "tpu"), "no device 'tpu'"),
        (("models", "build", "--models", "/proc/nothing"), "cannot write"),
        (("models", "show", "--profile", "huge"), "no profile 'huge'"),
        (("models", "show"), "no model at"),
        (("models", "check"), "no model at"),
        (("models", "check", "--foreign", "missing.txt"), "missing.txt"),
        (("models", "check", "--foreign", "broken.jsonl"), "broken.jsonl:1: not JSON"),
        (("models", "quantise", "missing", "out"), "no config.json"),
        (("exact", "certify", "missing"), "missing"),
        (("exact", "freeze", "prompts.txt", "out.json"), "no sound exact file"),
        (("demo", "--profile", "huge"), "no profile 'huge'"),
        (("demo", "--temperature", "-1"), "temperature -1"),
        (("generate", "missing.txt"), "missing.txt"),
        (("generate", "prompts.txt"), "no model at"),
        (("generate", "prompts.txt", "--top-p", "0"), "top_p 0"),
        (("generate", "broken.jsonl"), "broken.jsonl"),
    ],
    ids=" ".join,
)
def test_mistakes_end_in_one_line(tmp_path: Path, words: tuple, message: str) -> None:
    (tmp_path / "prompts.txt").write_text("What is 1 + 1?\n")
    (tmp_path / "broken.jsonl").write_text("{")
    assert_refused(bitweir(*words, cwd=tmp_path), message)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_says_what_happens_next_and_exits_with_130(tmp_path: Path) -> None:
    # A shell's background job ignores SIGINT and hands that on; a terminal does not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; from bitweir_loadgen.cli import main; main()"
    command = [sys.executable, "-u", "-c", program, "models", "build"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        # The first line comes when the tokenizer is trained and the first step of the first model is done.
        lines = [process.stderr.readline(), process.stderr.readline()]
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, [*lines, rest]
    assert "goes on from the last saved step" in rest
    assert "Traceback" not in rest
    assert (tmp_path / "models" / "tiny" / "build" / "tokenizer.json").is_file()


@needs_pair
def test_an_output_that_cannot_be_written_is_refused_before_the_work(repository_root: Path, tmp_path: Path) -> None:
    tiny_pair(repository_root)
    (tmp_path / "prompts.txt").write_text("Hello\n")
    words = ("generate", "prompts.txt", "--models", str(repository_root / "models"), "--out", "missing/x.jsonl")
    assert_refused(bitweir(*words, cwd=tmp_path), "cannot write missing/x.jsonl")


def test_the_version_is_the_distribution_s(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert bitweir("--version", cwd=tmp_path).stdout == f"bitweir {version('bitweir')}\n"


def test_an_unknown_command_exits_with_2(tmp_path: Path) -> None:
    assert bitweir("nonsense", cwd=tmp_path).returncode == 2


@needs_pair
def test_generate_is_repeatable_and_shows_what_coding_costs(repository_root: Path, tmp_path: Path) -> None:
    tiny_pair(repository_root)
    (tmp_path / "prompts.txt").write_text("What is 12 + 30?\nReverse the list: owl, fig, ant.\n")
    words = ("generate", "prompts.txt", "--models", str(repository_root / "models"), "--seed")
    first, second = (bitweir(*words, "7", cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) == 2
    assert "weak_model" in first.stderr
    assert "degeneracy guard" in first.stderr
    assert bitweir(*words, "8", cwd=tmp_path).stdout != first.stdout
    document = json.loads(bitweir(*words, "7", "--json", cwd=tmp_path).stdout)
    assert [row["text"] for row in document["answers"]] == [
        json.loads(line)["text"] for line in first.stdout.splitlines()
    ]


@needs_pair
def test_a_damaged_checkpoint_is_one_clear_line(repository_root: Path, tmp_path: Path) -> None:
    tiny_pair(repository_root)
    for side in ("strong", "weak"):
        folder = tmp_path / "models" / "tiny" / side
        folder.mkdir(parents=True)
        for file in (repository_root / "models" / "tiny" / side).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "models" / "tiny" / "weak" / "config.json").write_text("{}")
    (tmp_path / "prompts.txt").write_text("Hello\n")
    assert_refused(bitweir("generate", "prompts.txt", cwd=tmp_path), "is not the model its card describes")


@needs_pair
def test_a_model_is_made_exact_and_this_machine_certified(repository_root: Path, tmp_path: Path) -> None:
    tiny_pair(repository_root)
    weak = repository_root / "models" / "tiny" / "weak"
    made = bitweir("models", "quantise", str(weak), "weak.safetensors", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["kl_nats_per_token"] < 2e-5
    assert bitweir("exact", "freeze", "weak.safetensors", "vectors.json", cwd=tmp_path).returncode == 0
    result = bitweir("exact", "certify", "weak.safetensors", "--vectors", "vectors.json", "--json", cwd=tmp_path)
    certificate = json.loads(result.stdout)
    assert result.returncode == 0
    assert certificate["ok"]
    assert {check["name"] for check in certificate["checks"]} >= {"padded left", "restart", "torch kernels: default"}
    # A wrong vector is not certified, and the exit code says so.
    vectors = json.loads((tmp_path / "vectors.json").read_text())
    vectors["cases"][0]["logits_sha256"] = "0" * 64
    (tmp_path / "wrong.json").write_text(json.dumps(vectors))
    result = bitweir("exact", "certify", "weak.safetensors", "--vectors", "wrong.json", cwd=tmp_path)
    assert result.returncode == 1
    assert "NOT certified" in result.stdout
    assert "DIFFERENT" in result.stdout
