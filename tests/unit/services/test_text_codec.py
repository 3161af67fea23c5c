"""`bitweir codec text`: figures that add up, or one line; and no file that is half written."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from bitweir_compression import text
from bitweir_compression.console import StageProgress
from bitweir_compression.errors import CoderError
from bitweir_compression.models.build import build
from bitweir_compression.models.checkpoint import open_pair
from bitweir_loadgen.cli import main
from bitweir_services import commands, text_codec
from bitweir_services.errors import RequestError
from tests.unit.compression.micro import MICRO

CONTENT = "The sum of 12 and 30 is 42.\r\n<|user|> naïve café </think> \U0001f600\n" * 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    build(MICRO, root, lambda *_: None)
    return root


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.md"
    path.write_bytes(CONTENT.encode())
    return path


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["codec", "text", *map(str, words)])
    return int(ended.value.code or 0)


def lines_of(error_output: str) -> Sequence[str]:
    return [line for line in error_output.splitlines() if line.strip()]


def test_the_document_adds_up(models: Path, file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.json"
    out.write_text("older")
    assert run(file, "--models", models, "--profile", "micro", "--json", out) == 0
    document = json.loads(out.read_text())
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out.json.partial").exists()
    pair = open_pair(models / "micro")
    exact = pair.weak.folder / "exact.safetensors"
    raw = CONTENT.encode()
    assert document["file"] == str(file)
    assert (document["bytes"], document["characters"]) == (len(raw), len(CONTENT))
    assert document["tokens"] == len(pair.weak.tokenizer().encode(CONTENT))
    assert document["weights_bytes"] == exact.stat().st_size
    assert document["decoded_equal"] is True
    assert document["encode_s"] > 0 and document["decode_s"] > 0
    assert {"machine", "versions", "commit"} <= set(document)
    assert [row["name"] for row in document["rows"]] == ["weak_model", "zlib", "xz", "zstd"]
    for row in document["rows"]:
        assert row["bits_per_byte"] == pytest.approx(8 * row["bytes"] / len(raw))
        assert row["bits_per_token"] == pytest.approx(8 * row["bytes"] / document["tokens"])
    weak, plain = document["rows"][:2]
    assert plain["bytes"] == len(zlib.compress(raw, 9))
    # 9 bits of vocabulary: count, lanes and the end are the rest.
    assert document["ideal_bits"] < 8 * weak["bytes"] < document["ideal_bits"] * 1.01 + 8 + 32


def test_the_table_says_what_is_not_counted(models: Path, file: Path, capsys) -> None:
    assert run(file, "--models", models, "--profile", "micro") == 0
    table = capsys.readouterr().out
    assert "decoded again, equal" in table
    assert all(name in table for name in ("weak_model", "zlib", "xz", "zstd", "not counted"))


def test_an_empty_file_has_no_ratios(models: Path, file: Path, tmp_path: Path, capsys) -> None:
    file.write_bytes(b"")
    words = (file, "--models", models, "--profile", "micro")
    assert run(*words) == 0
    assert "0 bytes, 0 tokens" in capsys.readouterr().out
    assert run(*words, "--json", tmp_path / "out.json") == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows[0] == {"name": "weak_model", "bytes": 1, "bits_per_byte": None, "bits_per_token": None}


def test_a_file_name_that_is_no_text_is_shown_as_well_as_can_be(models: Path, tmp_path: Path, capfd) -> None:
    path = tmp_path / os.fsdecode(b"\xff.md")
    path.write_text("one")
    assert run(path, "--models", models, "--profile", "micro") == 0
    assert "\ufffd.md: 3 bytes" in capfd.readouterr().out


def test_a_text_that_does_not_come_back_gives_no_figures(
    models: Path, file: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    decode = text.decode
    monkeypatch.setattr(text, "decode", lambda *given, **named: decode(*given, **named)[:-1] + "?")
    assert run(file, "--models", models, "--profile", "micro", "--json", tmp_path / "out.json") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"decoded differently from character {len(CONTENT) - 1} on" in lines_of(shown.err)[-1]
    assert "exact certify" in lines_of(shown.err)[-1]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_decoding_gets_the_bytes_and_a_predictor_of_its_own(models: Path, monkeypatch) -> None:
    given: dict[str, tuple] = {}

    def watch(name: str) -> None:
        work = getattr(text, name)

        def watched(*words: object, **named: object) -> object:
            given[name] = words
            return work(*words, **named)

        monkeypatch.setattr(text, name, watched)

    watch("encode")
    watch("decode")
    text_codec.measure(open_pair(models / "micro"), CONTENT, name="x", progress=StageProgress())
    data, predictor, _ = given["decode"]
    assert isinstance(data, bytes)
    assert predictor is not given["encode"][1]
    monkeypatch.setattr(text, "decode", lambda *_, **__: CONTENT[1:])
    with pytest.raises(CoderError, match="x: decoded differently from character 0 on"):
        text_codec.measure(open_pair(models / "micro"), CONTENT, name="x", progress=StageProgress())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.md",), "no such file"),
        (("folder",), "no such file"),
        (("latin.txt",), "not UTF-8 at byte 2"),
        (("large.txt",), "larger than 100 bytes"),
        (("text.md", "--json", "missing/out.json"), "cannot write missing/out.json"),
        (("text.md", "--json", "folder"), "cannot write folder"),
        (("text.md", "--json", "folder/../text.md"), "is the text itself"),
        (("text.md",), "no model at"),
        (("text.md", "--profile", "huge"), "no model at"),
    ],
    ids=" ".join,
)
def test_mistakes_end_in_one_line(tmp_path: Path, monkeypatch, capsys, words: tuple, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    (tmp_path / "large.txt").write_text("a" * 101)
    (tmp_path / "text.md").write_text("the text")
    monkeypatch.setattr(text, "FILE_BYTES_MAX", 100)
    monkeypatch.delenv("BITWEIR_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(lines_of(shown.err)) == 1, shown.err
    assert shown.err.startswith("bitweir: ") and message in shown.err
    assert (tmp_path / "text.md").read_text() == "the text"


def test_ctrl_c_leaves_nothing(models: Path, file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "decode", interrupt)
    assert run(file, "--models", models, "--profile", "micro", "--json", tmp_path / "out.json") == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch, error: BaseException) -> None:
    out = tmp_path / "out.json"
    out.write_text("older")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RequestError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        commands._write_whole(out, "newer")
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {out}: No space left on device"
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
