"""A run folder: everything a report's figures can be regenerated from. Files appear whole or not at all.

config.json      what was asked, with provenance
requests.jsonl   one row a request
summary.json     the figures
report.html      the same figures, for people; opens offline
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitweir_loadgen.errors import RunFolderError


class RunFolder:
    """Writes into a new folder; refuses one that is there already."""

    def __init__(self, path: Path) -> None:
        """Create the folder.

        Raises:
            RunFolderError: it cannot be made, or is there already.
        """
        self.path = path
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunFolderError(
                f"{path} exists", remedy="name a new folder: a run never overwrites another"
            ) from error
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}", remedy="name another folder") from error

    def write_json(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write one JSON document."""
        return self.write_text(name, json.dumps(document, indent=1, allow_nan=False) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write JSON lines."""
        return self.write_text(name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file in one step."""
        target = self.path / name
        partial = self.path / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
        return target
