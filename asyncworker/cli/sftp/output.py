"""Output of a transfer: a bar on a terminal, lines in a pipe, a sentence at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from asyncworker.printable import printable
from asyncworker.sftp import BulkProgress, BulkReport, FileResult

__all__ = ["bar", "lines", "print_file", "sentence", "show", "summary"]

#: Lines of progress in a pipe.
_LINE_EVERY_S = 5.0


def bar() -> Progress:
    """Return the bar of a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def show(bar: Progress, task: Any, now: BulkProgress) -> None:
    """Bring the bar up to date."""
    more = "" if now.listed else "+"
    text = f"{now.files_done:,} of {now.files_found:,}{more} files, {now.files_per_s:,.0f}/s"
    bar.update(task, description=text, completed=now.bytes_done, total=now.bytes_found or None)


def lines() -> Callable[[BulkProgress], None]:
    """Return a function that prints a line every five seconds."""
    next_at = time.monotonic() + _LINE_EVERY_S

    def show(now: BulkProgress) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + _LINE_EVERY_S
            click.echo(sentence(now, False), err=True)

    return show


def sentence(now: BulkProgress, dry_run: bool) -> str:
    """Return how far a transfer is, in a sentence."""
    if dry_run:
        return f"{now.files_found:,} files, {size(now.bytes_found)} would be moved; {now.files_skipped:,} left out"
    rate = f"{now.files_per_s:,.0f} files/s, {size(now.bytes_per_s)}/s"
    moved = f"{now.files_done:,} of {now.files_found:,} files, {size(now.bytes_done)} in {now.elapsed_s:.1f} s ({rate})"
    return f"{moved}; {now.files_skipped:,} left out, {now.files_failed:,} failed"


def size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def summary(report: BulkReport, dry_run: bool) -> dict[str, Any]:
    """Return how a transfer ended, for JSON."""
    names = [name for name in BulkProgress.__dataclass_fields__ if name != "listed"]
    return {name: getattr(report, name) for name in names} | {"dry_run": dry_run, "ok": report.ok}


def print_file(result: FileResult, as_json: bool, dry_run: bool) -> None:
    """Print how one file ended."""
    if as_json:
        size = result.transfer.size_bytes if result.transfer else None
        error = None if result.error is None else str(result.error)
        line = {"remote": result.remote, "local": result.local, "size_bytes": size, "error": error}
        click.echo(json.dumps(line))
    elif result.error is not None:
        click.echo(f"failed: {printable(str(result.error) or repr(result.error))}", err=True)
    elif dry_run:
        click.echo(f"{printable(result.remote)}  {printable(result.local)}")
