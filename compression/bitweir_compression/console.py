"""How commands talk: results on stdout, progress on stderr, quiet where nobody watches.

Rules:
1. On a terminal progress is a live bar; elsewhere it is a line a tenth of a stage.
2. `--json` prints exactly one JSON document on stdout.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class StageProgress:
    """Shows stages of long work one after the other; use as a context manager and call it after every step."""

    def __init__(self) -> None:
        """Decide by stderr whether somebody watches."""
        self._live = sys.stderr.isatty()
        self._stage = ""
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "StageProgress":
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int, loss: float = 0.0) -> None:
        """Report `done` of `total` steps of a stage; a loss above 0 is shown beside it."""
        note = f"loss {loss:.3f}" if loss else ""
        if stage != self._stage:
            self._stage = stage
            if self._live:
                self._task = self._bar.add_task(stage, total=total, note=note)
            elif done < total:
                typer.echo(f"{stage}: {total} steps", err=True)
        if self._live and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif not self._live and (done == total or 10 * done // total > 10 * (done - 1) // total):
            typer.echo(f"{stage}: {done} of {total} {note}".rstrip(), err=True)


@contextmanager
def resumable(advice: str) -> Iterator[None]:
    """Say after Ctrl-C what the next call will do; the interrupt goes on and ends the command with 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"bitweir: interrupted; {advice}", err=True)
        raise


def print_json(document: Any) -> None:
    """Print one JSON document, keys in the order given."""
    typer.echo(json.dumps(document, indent=1, allow_nan=False))
