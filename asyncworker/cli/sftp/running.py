"""Runs a transfer for the command line: with output of one kind, a summary whatever happens, and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import click

from asyncworker.cli.own_lines import STANDARD_OUTPUT
from asyncworker.cli.sftp.exit_codes import SOME_FAILED, code_of, code_of_report, failure
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.output import Lines, Objects, Printer, bar, every_few_seconds
from asyncworker.errors import AsyncWorkerError
from asyncworker.sftp.bulk import tracker_of
from asyncworker.sftp.progress import OnProgress, Tracker
from asyncworker.sftp.transfer_options import TransferOptions

__all__ = ["run_transfer"]

W = TypeVar("W", bound=TransferOptions)

INTERRUPTED = 128 + signal.SIGINT


def run_transfer(
    move: Callable[[W, Tracker], Awaitable[object]], wishes: W, given: dict[str, Any], *, download: bool
) -> None:
    """Run a transfer, print what became of it, and end the command.

    Raises:
        click.exceptions.Exit: Not all is well; with the exit code.
        Exception: What has ended it, once the summary is printed.
    """
    as_json, quiet, verbose = given["as_json"], given["quiet"], given["verbose"]
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    printer: Printer
    if as_json:
        printer = Objects(dry_run=wishes.dry_run, verbose=verbose)
    else:
        printer = Lines(download=download, dry_run=wishes.dry_run, verbose=verbose, quiet=quiet)
    error: BaseException | None = None
    with _progress(given, wishes) as on_progress:
        wishes = replace(
            wishes, on_file=printer.file, on_skipped=printer.file if verbose else None, on_progress=on_progress
        )
        tracker = tracker_of(wishes)
        try:
            run_async(_awaited(move(wishes, tracker)))
        except BaseException as raised:
            error = raised
    report = tracker.report()
    if error is None:
        code = code_of_report(report, download=download)
        printer.finish(report, code)
        if code:
            raise click.exceptions.Exit(code)
        return
    if isinstance(error, BrokenPipeError):
        raise error  # there is nobody to read more
    code = _code(error, download)
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
    with suppress(OSError):  # standard output may be what has failed
        if not interrupted:
            printer.error(error)
        printer.finish(replace(report, stopped="interrupted" if interrupted else "ended by an error"), code)
    if isinstance(error, AsyncWorkerError | OSError):
        raise failure(error, code) from error
    raise error


async def _awaited(move: Awaitable[object]) -> None:
    await move


@contextmanager
def _progress(given: dict[str, Any], wishes: TransferOptions) -> Iterator[OnProgress | None]:
    if given["quiet"] or given["verbose"] or given["as_json"] or wishes.dry_run:
        yield None
    elif sys.stderr.isatty():
        with bar() as show:
            yield show
    else:
        yield every_few_seconds()


def _code(error: BaseException, download: bool) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    if not download and isinstance(error, OSError) and error.filename != STANDARD_OUTPUT:
        return SOME_FAILED  # what cannot be read is a source
    return code_of(error)
