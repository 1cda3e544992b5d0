"""The list of ``asyncworker runs list``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asyncworker import Progress
from asyncworker.cli.listing import show_listing

__all__ = ["ListedRun", "show_runs"]

_HEADINGS = ("run", "name", "task", "state", "done", "failed", "total", "started")
_NUMBERS = frozenset(("done", "failed", "total"))


class ListedRun(msgspec.Struct, frozen=True):
    """A run, and the name that its sender gave it."""

    progress: Progress
    name: str


def show_runs(runs: list[ListedRun]) -> None:
    """Print runs, one a line; where that is too wide, an id and below it the rest."""
    show_listing(_HEADINGS, [_row(run) for run in runs], numbers=_NUMBERS, stacked=_stacked)


def _stacked(row: Sequence[str]) -> Sequence[str]:
    run_id, name, task, state, done, failed, total, started = row
    numbers = f"{state}, {done} of {total}" + (f", {failed} failed" if failed != "0" else "")
    return run_id, f"{name} ({task})" if name else task, f"{numbers}, {started}"


def _row(run: ListedRun) -> tuple[str, ...]:
    progress = run.progress
    total = "?" if progress.total is None else f"{progress.total:,}"
    started = f"{progress.started_at:%Y-%m-%d %H:%M:%S}"
    numbers = (f"{progress.done:,}", f"{progress.failed:,}", total)
    return (progress.run_id, run.name, progress.task, progress.state, *numbers, started)
