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
    """Writes into a new folder; refuses one that holds anything."""

    def __init__(self, path: Path) -> None:
        """Create the folder.

        Raises:
            RunFolderError: it cannot be made, or is not empty.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_empty = not any(path.iterdir())
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}", remedy="name another folder") from error
        if not is_empty:
            raise RunFolderError(f"{path} is not empty", remedy="name a new folder: a run never overwrites another")

    def write_json(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write one JSON document."""
        return self.write_text(name, json.dumps(document, indent=1) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write JSON lines."""
        return self.write_text(name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file in one step."""
        target = self.path / name
        partial = self.path / f"{name}.partial"
        partial.write_text(text)
        partial.replace(target)
        return target
