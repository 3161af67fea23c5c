"""Reading a user's prompts: both formats, every refusal with line and remedy, the public sets where present."""

import json
from pathlib import Path

import pytest

from bitweir_compression.corpus import prompts
from bitweir_compression.corpus.prompts import PromptRecord, read_prompts
from bitweir_compression.errors import CorpusError

PUBLIC_TEXT = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "text"


def written(tmp_path: Path, content: str | bytes, name: str = "prompts.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        read_prompts(path)
    assert caught.value.remedy
    assert str(path) in str(caught.value) or "\0" in str(path)
    return caught.value


@pytest.mark.parametrize(
    ("row", "prompt", "reference"),
    [
        ({"prompt": " Why? "}, "Why?", None),
        ({"question": "Why?", "answer": "Because."}, "Why?", "Because."),
        ({"prompt": "a", "question": "b", "response": "c"}, "a", "c"),
        ({"tool": "tar", "task": "Unpack it", "command": "tar -x"}, "tar: Unpack it", "tar -x"),
        ({"prompt": "a", "answer": None, "command": "c", "other": [1]}, "a", "c"),
        ({"prompt": "a", "answer": ""}, "a", ""),
        ({"prompt": "line\u2028separator", "answer": "\U0001f600"}, "line\u2028separator", "\U0001f600"),
    ],
)
def test_jsonl_fields(tmp_path: Path, row: dict[str, object], prompt: str, reference: str | None) -> None:
    for ascii_only in (True, False):
        path = written(tmp_path, json.dumps(row, ensure_ascii=ascii_only) + "\n")
        assert read_prompts(path) == [PromptRecord(prompt, reference, 1)]


def test_blank_lines_windows_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \n{"prompt": "b"}', "PROMPTS.JSONL")
    assert read_prompts(path) == [PromptRecord("a", None, 1), PromptRecord("b", None, 4)]


def test_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'First?\n\n {"prompt": "not parsed"} \n', "prompts.txt")
    assert read_prompts(path) == [PromptRecord("First?", None, 1), PromptRecord('{"prompt": "not parsed"}', None, 3)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: not JSON"),
        ("[" * 50_000, ":2: not JSON"),
        ('{"prompt": ' + "9" * 5_000 + "}", ":2: not JSON"),
        ('"prompt"', ":2: a JSON str, not an object"),
        ("{}", ":2: no field says"),
        ('{"tool": "tar"}', ":2: no field says"),
        ('{"prompt": null, "question": "b"}', ":2: field `prompt` is a NoneType"),
        ('{"tool": 1, "task": "b"}', ":2: field `tool` is a int"),
        ('{"prompt": " "}', ":2: field `prompt` is empty"),
        ('{"prompt": "a", "answer": 1}', ":2: field `answer` is a int"),
        ('{"prompt": "\\ud800"}', ":2: field `prompt` has half a surrogate pair"),
    ],
)
def test_malformed_rows_are_refused_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    assert message in str(refused(written(tmp_path, '{"prompt": "fine"}\n' + line)))


def test_not_utf8(tmp_path: Path) -> None:
    assert ":2: not UTF-8 at byte 1" in str(refused(written(tmp_path, b"fine\nx\xff", "prompts.txt")))


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "nowhere.txt"))
    (tmp_path / "folder.txt").mkdir()
    assert "no such file" in str(refused(tmp_path / "folder.txt"))
    assert "suffix" in str(refused(written(tmp_path, "a", "prompts.csv")))
    assert "no prompt" in str(refused(written(tmp_path, " \n\n", "prompts.txt")))
    refused(tmp_path / "a\0b.txt")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "FILE_BYTES_MAX", 40)
    monkeypatch.setattr(prompts, "LINE_BYTES_MAX", 10)
    monkeypatch.setattr(prompts, "ROWS_MAX", 3)
    assert len(read_prompts(written(tmp_path, "0123456789\nb\n\nc\n", "a.txt"))) == 3
    assert ":2: a line of 11 bytes" in str(refused(written(tmp_path, "a\n0123456789x", "a.txt")))
    assert ":4: more than 3 prompts" in str(refused(written(tmp_path, "a\nb\nc\nd\n", "a.txt")))
    assert "larger than 40 bytes" in str(refused(written(tmp_path, "a\n" * 21, "a.txt")))


@pytest.mark.skipif(not PUBLIC_TEXT.is_dir(), reason=f"public text is not present at {PUBLIC_TEXT}")
def test_public_sets_are_readable() -> None:
    questions = read_prompts(PUBLIC_TEXT / "gsm8k" / "test.jsonl")
    assert len(questions) == 1_319
    assert all(record.reference and "####" in record.reference for record in questions)
    tasks = read_prompts(PUBLIC_TEXT / "tldr" / "tldr.jsonl")
    assert len(tasks) > 30_000
    assert all(": " in record.prompt and record.reference for record in tasks)
