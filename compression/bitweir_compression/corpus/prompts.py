"""Reading a user's own prompts from a file.

Two formats, told apart by the file's suffix:

    .txt             one prompt a line
    .jsonl, .json    one JSON object a line, with the prompt in the first of `prompt`, `question` that is there, or made
                     of `tool` and `task` as "tool: task"; and optionally a reference in the first of `answer`,
                     `response`, `command` that is there and not null. Other fields are ignored.

Rules:
1. A file is foreign data: it gives a list of records or a `CorpusError` with line and remedy, never anything else.
2. Everything is bounded below, and a file is not read past its bound.
3. A record's texts can be encoded as UTF-8 again; a prompt has something to read in it. Blank lines are skipped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bitweir_compression.errors import CorpusError

FILE_BYTES_MAX = 64 << 20  # bytes; the public sets this was made for (GSM8K, tldr) have 4-10 MB
LINE_BYTES_MAX = 1 << 20  # bytes a line; a quarter of a million tokens, more than a context holds
LINES_MAX = 400_000  # lines, blank ones included; twice the records
ROWS_MAX = 200_000  # records; at the shortest answers still days of generation on one machine

PROMPT_FIELDS = ("prompt", "question")
REFERENCE_FIELDS = ("answer", "response", "command")
SUFFIXES_JSONL = (".jsonl", ".json")
SUFFIX_TEXT = ".txt"

_SHOWN_CHARS_MAX = 60  # characters of foreign text quoted in an error


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of a user's file.

    Attributes:
        prompt: what to ask, as written but without surrounding white space; not empty.
        reference: the answer that came with it, likewise; None where there is none.
        line_number: where it stands in the file, from 1.
    """

    prompt: str
    reference: str | None
    line_number: int


def read_prompts(path: Path) -> list[PromptRecord]:
    """Read all prompts of a file, in order.

    Raises:
        CorpusError: the file is missing, unreadable, too large, of an unknown suffix, not UTF-8, malformed or without a
            prompt. The message names file and line, the remedy says what to change.
    """
    suffix = path.suffix.lower()
    if suffix == SUFFIX_TEXT:
        parse: Callable[[str, str], tuple[str, str | None]] = _parse_text
    elif suffix in SUFFIXES_JSONL:
        parse = _parse_json
    else:
        raise CorpusError(
            f"{path}: do not know how to read the suffix {suffix!r}",
            remedy="name it .txt (one prompt a line) or .jsonl (one JSON object a line)",
        )
    records: list[PromptRecord] = []
    for line_number, raw in enumerate(_read(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{line_number}"
        if line_number > LINES_MAX:
            raise CorpusError(f"{where}: more than {LINES_MAX:,} lines", remedy="remove blank lines or keep a sample")
        line = _decode(raw, where).strip()
        if not line:
            continue
        if len(records) == ROWS_MAX:
            raise CorpusError(f"{where}: more than {ROWS_MAX:,} prompts", remedy="keep a sample of the file")
        prompt, reference = parse(line, where)
        records.append(PromptRecord(prompt, reference, line_number))
    if not records:
        raise CorpusError(f"{path}: there is no prompt in it", remedy="write one prompt a line")
    return records


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CorpusError(
                f"{path}: there is no such file", remedy="check the path; a folder or pipe cannot be read"
            )
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise CorpusError(f"{path}: cannot be read ({error})", remedy="check the path and its permissions") from error
    if len(content) > FILE_BYTES_MAX:
        raise CorpusError(f"{path}: larger than {FILE_BYTES_MAX:,} bytes", remedy="keep a sample, or split the file")
    return content


def _decode(raw: bytes, where: str) -> str:
    if len(raw) > LINE_BYTES_MAX:
        raise CorpusError(
            f"{where}: a line of {len(raw):,} bytes, at most {LINE_BYTES_MAX:,} are read",
            remedy="shorten the prompt; in .jsonl put every object on a line of its own",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: not UTF-8 at byte {error.start} of the line", remedy="convert the file, e.g. `iconv -t UTF-8`"
        ) from error


def _parse_text(line: str, where: str) -> tuple[str, str | None]:
    del where
    return line, None


def _parse_json(line: str, where: str) -> tuple[str, str | None]:
    """Return prompt and reference of one object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of too many digits
        raise CorpusError(
            f"{where}: not JSON ({type(error).__name__}: {str(error)[:_SHOWN_CHARS_MAX]})",
            remedy="write one JSON object a line, without line breaks inside it",
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where}: a JSON {type(row).__name__}, not an object", remedy='write {"prompt": "..."} on every line'
        )
    fields = cast("Mapping[str, object]", row)
    for name in PROMPT_FIELDS:
        if name in fields:
            prompt = _text(fields, name, where)
            break
    else:
        if "tool" not in fields or "task" not in fields:
            raise CorpusError(
                f"{where}: no field says what the prompt is",
                remedy="add a field `prompt` or `question`, or both `tool` and `task`",
            )
        prompt = f"{_text(fields, 'tool', where)}: {_text(fields, 'task', where)}"
    for name in REFERENCE_FIELDS:
        if fields.get(name) is not None:
            return prompt, _text(fields, name, where, empty_allowed=True)
    return prompt, None


def _text(fields: Mapping[str, object], name: str, where: str, *, empty_allowed: bool = False) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: field `{name}` is a {type(value).__name__}, not text", remedy=f"make `{name}` a JSON string"
        )
    text = value.strip()
    if not text and not empty_allowed:
        raise CorpusError(f"{where}: field `{name}` is empty", remedy="fill it in or remove the line")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}: field `{name}` has half a surrogate pair at character {error.start}",
            remedy="write the whole pair, or the character itself, as UTF-8",
        ) from error
    return text
