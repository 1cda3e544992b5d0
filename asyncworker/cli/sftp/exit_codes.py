"""Exit codes of ``asyncworker sftp``: those of rsync, where it has one for what happened."""

from __future__ import annotations

from typing import Any

import click

from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.sftp.connection import AS_JSON
from asyncworker.cli.sftp.stdout import described
from asyncworker.errors import (
    AsyncWorkerError,
    SettingsError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPDeleteRefused,
    SFTPError,
    SFTPFileNotFound,
    SFTPNoSpace,
    SFTPProtocolError,
)
from asyncworker.printable import printable
from asyncworker.sftp import BulkReport

__all__ = ["SOME_FAILED", "CodedGroup", "code_of", "code_of_report", "failure"]

OK = 0
FAILED = 1
USAGE = 2
NO_CONNECTION = 10
FILE_IO = 11
CONNECTION_LOST = 12
SOME_FAILED = 23
SOME_VANISHED = 24
DELETE_REFUSED = 25


def code_of(error: BaseException) -> int:
    """Return the exit code of a command that this error has ended."""
    if isinstance(error, SettingsError):
        return USAGE
    if isinstance(error, SFTPConnectError):
        return NO_CONNECTION
    if isinstance(error, SFTPConnectionLost | SFTPProtocolError):
        return CONNECTION_LOST
    if isinstance(error, SFTPNoSpace):
        return FILE_IO
    if isinstance(error, SFTPError | FileNotFoundError):
        return SOME_FAILED
    return FILE_IO if isinstance(error, OSError) else FAILED


def code_of_report(report: BulkReport, *, download: bool) -> int:
    """Return the exit code of a transfer that went on to its end."""
    if report.ok:
        return OK
    errors = [result.error for result in report.errors]
    if any(isinstance(error, SFTPDeleteRefused) for error in errors):
        return DELETE_REFUSED
    if len(errors) == report.files_failed:
        gone = SFTPFileNotFound if download else FileNotFoundError
        # What was named and is not there, or a pattern that nothing meets, has no other side.
        if all(isinstance(one.error, gone) and one.remote and one.local for one in report.errors):
            return SOME_VANISHED
        if all(isinstance(error, SFTPConnectError) for error in errors):
            return NO_CONNECTION
        if all(isinstance(error, SFTPConnectError | SFTPConnectionLost | SFTPProtocolError) for error in errors):
            return CONNECTION_LOST
    return SOME_FAILED


class CodedGroup(click.Group):
    """Ends with an exit code that says whether the command line or the connection is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes a line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read our output has enough
        except (AsyncWorkerError, OSError) as error:
            if ctx.meta.get(AS_JSON):
                echo_json({"type": "error", **described(error)})
            code = code_of(error)
            raise failure(error, code if code in (USAGE, NO_CONNECTION, CONNECTION_LOST) else FAILED) from error


def failure(error: Exception, code: int) -> click.ClickException:
    """Return what ends a command with a line on standard error and that exit code."""
    if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or repr(error)
    made = click.ClickException("\n".join(map(printable, text.splitlines())))
    made.exit_code = code  # type: ignore[misc]  # read from the instance
    return made
