"""Small files that people write, read into checked tables: TOML and JSON of a policy and of its signatures.

Rules:
1. Every file has a size limit, and no more than that is read.
2. What is missing, unknown, named twice or of another type is refused, and the error names it.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitweir_metering.errors import PolicyError

_EXAMPLE = "docs/reference/policy.md has an example"


def read_content(path: Path, bytes_max: int) -> bytes:
    """Return what the file holds, of a longer one than `bytes_max` one byte more.

    Raises:
        PolicyError: not a regular file, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise PolicyError(f"{path} is not a file", remedy="name a file")
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except OSError as error:
        raise PolicyError(f"cannot read {path}: {error.strerror}", remedy="name a file that can be read") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step, or leave it as it was.

    Raises:
        PolicyError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror}", remedy="work in a folder of your own") from error
    finally:
        partial.unlink(missing_ok=True)


def toml_table(content: bytes, bytes_max: int) -> dict[str, Any]:
    """Return the table that a TOML file is.

    Raises:
        PolicyError: longer than `bytes_max`, or not TOML.
    """
    return table(_loaded(content, bytes_max, tomllib.loads, "TOML"), "the file")


def json_table(content: bytes, bytes_max: int) -> dict[str, Any]:
    """Return the object that a JSON file is.

    Raises:
        PolicyError: longer than `bytes_max`, not JSON, not an object, or an object names a key twice.
    """
    return table(_loaded(content, bytes_max, lambda text: json.loads(text, object_pairs_hook=_distinct), "JSON"), "it")


def table(value: object, name: str) -> dict[str, Any]:
    """Return the value if it is a table.

    Raises:
        PolicyError: it is not.
    """
    if not isinstance(value, dict):
        raise PolicyError(f"{name} is no table", remedy=_EXAMPLE)
    return value


def check_fields(
    found: Mapping[str, Any], required: frozenset[str], where: str, optional: frozenset[str] = frozenset()
) -> None:
    """Refuse a table that lacks a required field or has one that is neither required nor optional.

    Raises:
        PolicyError: it does.
    """
    missing, unknown = sorted(required - set(found)), sorted(set(found) - required - optional)
    if missing:
        raise PolicyError(f"{where} lacks {', '.join(missing)}", remedy=_EXAMPLE)
    if unknown:
        raise PolicyError(f"{where} has an unknown field {unknown[0]!r:.40}", remedy=_EXAMPLE)


def hexadecimal(text: object, size_bytes: int, name: str) -> bytes:
    """Return the bytes of a lower-case hexadecimal text of exactly this size.

    Raises:
        PolicyError: it is none.
    """
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size_bytes}}}", text, re.ASCII):
        raise PolicyError(f"{name} is {text!r:.40}", remedy=f"{2 * size_bytes} lower-case hexadecimal digits")
    return bytes.fromhex(text)


def _loaded(content: bytes, bytes_max: int, load: Callable[[str], Any], form: str) -> Any:
    if len(content) > bytes_max:
        raise PolicyError(f"longer than {bytes_max} bytes", remedy=_EXAMPLE)
    try:
        # Both raise ValueError on bad syntax, bad UTF-8 and numbers of too many digits.
        return load(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"not {form}: {str(error)!r:.80}", remedy=_EXAMPLE) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice: two readers could choose differently."""
    if len(dict(pairs)) != len(pairs):
        raise PolicyError("a key is named twice", remedy="keep one of them")
    return dict(pairs)
