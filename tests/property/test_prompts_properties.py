"""Laws of reading prompts: any bytes parse or raise CorpusError, and what was written is what is read."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.corpus.prompts import PromptRecord, read_prompts
from bitweir_compression.errors import CorpusError

SUFFIXES = st.sampled_from([".txt", ".jsonl", ".json"])
# Fragments that get past the first check more often than random bytes do.
PIECES = st.sampled_from(
    [
        b'{"prompt": "',
        b'"}',
        b"{",
        b"}",
        b"[",
        b"\n",
        b"\r\n",
        b'"tool": "',
        b"\\ud83d",
        b"\xff",
        b"\xef\xbb\xbf",
        b"NaN",
    ]
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: bool(text.strip()))


def parsed(content: bytes, suffix: str) -> list[PromptRecord]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"prompts{suffix}"
        path.write_bytes(content)
        return read_prompts(path)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES | st.binary(max_size=4)).map(b"".join)), SUFFIXES)
def test_any_bytes_parse_or_raise_corpus_error(content: bytes, suffix: str) -> None:
    try:
        records = parsed(content, suffix)
    except CorpusError as error:
        assert error.remedy
        return
    assert records
    numbers = [record.line_number for record in records]
    assert numbers == sorted(set(numbers))
    assert all(record.prompt == record.prompt.strip() != "" and record.prompt.encode() for record in records)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["prompt", "question", "tool", "task", "answer", "response", "command", "else"])


@given(st.lists(json_values | st.dictionaries(FIELDS, json_values), max_size=4))
def test_any_json_rows_parse_or_raise_corpus_error(rows: list[object]) -> None:
    try:
        parsed("\n".join(json.dumps(row) for row in rows).encode(), ".jsonl")
    except CorpusError as error:
        assert error.remedy


@given(st.lists(st.tuples(words, st.none() | words), min_size=1, max_size=5), st.booleans())
def test_rows_come_back(rows: list[tuple[str, str | None]], ascii_only: bool) -> None:
    lines = [json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=ascii_only) for prompt, answer in rows]
    assert parsed("\n".join(lines).encode(), ".jsonl") == [
        PromptRecord(prompt.strip(), None if answer is None else answer.strip(), number)
        for number, (prompt, answer) in enumerate(rows, start=1)
    ]
