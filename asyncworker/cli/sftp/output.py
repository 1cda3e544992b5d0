"""Output of a transfer: a bar on a terminal, lines in a pipe, objects for a program, a sentence at the end."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.own_lines import echo_line
from asyncworker.cli.sftp.stdout import described
from asyncworker.printable import printable
from asyncworker.sftp import BulkProgress, BulkReport, FileResult

__all__ = ["Lines", "Objects", "Printer", "bar", "every_few_seconds"]

#: Lines of progress in a pipe.
_LINE_EVERY_S = 5.0

_WORDS = {"would_move": "would move", "would_delete": "would delete"}


class Lines:
    """Lines for people.

    Args:
        download: Which way files go.
        dry_run: Whether nothing is moved.
        verbose: Whether each file has a line.
        quiet: Whether errors alone have.
    """

    def __init__(self, *, download: bool, dry_run: bool, verbose: bool, quiet: bool) -> None:
        self._download = download
        self._dry_run = dry_run
        self._verbose = verbose
        self._quiet = quiet

    def file(self, result: FileResult) -> None:
        """Print how one file ended."""
        if result.error is not None:
            click.echo(f"failed: {printable(str(result.error) or repr(result.error))}", err=True)
            return
        if not (self._verbose or (self._dry_run and result.planned)):
            return
        here, there = printable(result.remote), printable(result.local)
        if not self._download:
            here, there = there, here
        size = "" if result.size_bytes is None else _size(result.size_bytes)
        about = ", ".join(text for text in (size, result.reason) if text)
        what = _WORDS.get(result.outcome, result.outcome)
        path = here or there if result.deletes else here if result.outcome == "skipped" else f"{here} -> {there}"
        echo_line(f"{what} {path}" + (f" ({about})" if about else ""))

    def error(self, error: BaseException) -> None:
        """Leave it to whoever ends the command with it."""

    def finish(self, report: BulkReport, code: int) -> None:
        """Print a sentence, and what is worth knowing."""
        if report.stopped is not None and not report.files_found:
            return  # the error says all
        for warning in report.warnings:
            click.echo(f"warning: {printable(warning)}", err=True)
        if report.stopped is not None:
            click.echo(printable(report.stopped), err=True)
        if not self._quiet:
            if self._dry_run:
                echo_line(_planned(report))
            else:
                click.echo(_sentence(report), err=True)


class Objects:
    """Objects of JSON on standard output, one a line, each with a ``type``; the last one is always the summary.

    Args:
        dry_run: Whether nothing is moved.
        verbose: Whether files that are left out have an object, too.
    """

    def __init__(self, *, dry_run: bool, verbose: bool) -> None:
        self._dry_run = dry_run
        self._verbose = verbose

    def file(self, result: FileResult) -> None:
        """Print how one file ended."""
        error = result.error
        echo_json(
            {
                "type": "file",
                "outcome": result.outcome,
                **_path("remote", result.remote),
                **_path("local", result.local),
                "size_bytes": result.size_bytes,
                "reason": result.reason,
                "error": None if error is None else str(error) or repr(error),
                "error_type": None if error is None else type(error).__name__,
            }
        )

    def error(self, error: BaseException) -> None:
        """Print what has ended the command."""
        echo_json({"type": "error", **described(error)})

    def finish(self, report: BulkReport, code: int) -> None:
        """Print the summary."""
        counts = {name: getattr(report, name) for name in BulkProgress.__dataclass_fields__}
        echo_json(
            {
                "type": "summary",
                "ok": code == 0,
                "exit_code": code,
                "dry_run": self._dry_run,
                **counts,
                "warnings": report.warnings,
                "stopped": report.stopped,
            }
        )


Printer = Lines | Objects


def _path(name: str, path: str) -> dict[str, str]:
    """A path, and its bytes where they are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return {name: path, f"{name}_base64": b64encode(path.encode("utf-8", "surrogateescape")).decode()}
    return {name: path}


@contextmanager
def bar() -> Iterator[Callable[[BulkProgress], None]]:
    """Show a bar on a terminal while the block runs; gives what brings it up to date."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("", total=None)

    def show(now: BulkProgress) -> None:
        progress.start()  # not before there is something to show: a password may be asked for until then
        more = "" if now.listed else "+"
        text = f"{now.files_done:,} of {now.files_found:,}{more} files, {now.files_per_s:,.0f}/s"
        progress.update(task, description=text, completed=now.bytes_done, total=now.bytes_found or None)

    try:
        yield show
    finally:
        progress.stop()


def every_few_seconds() -> Callable[[BulkProgress], None]:
    """Return what prints how far it is, every five seconds at most."""
    next_at = time.monotonic() + _LINE_EVERY_S

    def show(now: BulkProgress) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + _LINE_EVERY_S
            click.echo(_sentence(now), err=True)

    return show


def _planned(now: BulkProgress) -> str:
    return f"{now.files_found:,} files, {_size(now.bytes_found)} would be moved{_left_out(now, 'would be deleted')}"


def _sentence(now: BulkProgress) -> str:
    rate = f"{now.files_per_s:,.0f} files/s, {_size(now.bytes_per_s)}/s"
    moved = (
        f"{now.files_done:,} of {now.files_found:,} files, {_size(now.bytes_done)} in {now.elapsed_s:.1f} s ({rate})"
    )
    return f"{moved}{_left_out(now)}, {now.files_failed:,} failed"


def _left_out(now: BulkProgress, deleted: str = "deleted") -> str:
    filtered = f" and {now.files_filtered:,} by filters" if now.files_filtered else ""
    unfinished = f" and {now.files_unfinished:,} that are not finished" if now.files_unfinished else ""
    surplus = f", {now.files_deleted:,} {deleted}" if now.files_deleted else ""
    return f"; {now.files_skipped:,} left out{filtered}{unfinished}{surplus}"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
