"""The list of ``asyncworker runs list``, in whatever room there is: an id is never broken."""

from __future__ import annotations

import sys

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncworker import Progress

__all__ = ["ListedRun", "show_runs"]

#: Where lines have no end, as in a pipe.
_ENDLESS = 10_000

_HEADINGS = ("run", "name", "task", "state", "done", "failed", "total", "started")
_NUMBERS = frozenset(("done", "failed", "total"))
_GAP = 2


class ListedRun(msgspec.Struct, frozen=True):
    """A run, and the name that its sender gave it."""

    progress: Progress
    name: str


def show_runs(runs: list[ListedRun]) -> None:
    """Print runs, one a line; where that is too wide, an id and below it the rest."""
    rows = [_row(run) for run in runs]
    width = Console().width if sys.stdout.isatty() else _ENDLESS
    used = [number for number, heading in enumerate(_HEADINGS) if heading != "name" or any(row[number] for row in rows)]
    widths = {number: max(len(_HEADINGS[number]), *(len(row[number]) for row in rows)) for number in used}
    if sum(widths.values()) + _GAP * (len(used) - 1) <= width:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for number in used:
            heading = _HEADINGS[number]
            table.add_column(heading, justify="right" if heading in _NUMBERS else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(row[number]) for number in used))
        Console(width=width).print(table)
        return
    for row in rows:
        run_id, name, task, state, done, failed, total, started = row
        click.echo(run_id)
        numbers = f"{state}, {done} of {total}" + (f", {failed} failed" if failed != "0" else "")
        for line in (f"{name} ({task})" if name else task, f"{numbers}, {started}"):
            click.echo(f"  {line}")


def _row(run: ListedRun) -> tuple[str, ...]:
    progress = run.progress
    total = "?" if progress.total is None else f"{progress.total:,}"
    started = f"{progress.started_at:%Y-%m-%d %H:%M:%S}"
    numbers = (f"{progress.done:,}", f"{progress.failed:,}", total)
    shown = (progress.run_id, run.name, progress.task, progress.state, *numbers, started)
    # Names are anybody's text: no line feeds, no escapes of the terminal.
    return tuple("".join(each if each.isprintable() else "?" for each in text) for text in shown)
