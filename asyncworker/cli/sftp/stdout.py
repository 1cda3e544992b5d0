"""Lines and bytes of others on standard output: never an escape sequence, never an encoding error."""

from __future__ import annotations

import sys
from typing import Any

import click

from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.own_lines import naming_stdout
from asyncworker.printable import printable

__all__ = ["Output", "complain", "described"]


class Output:
    """Where a command prints what it found.

    Args:
        as_json: Print objects, one a line.
        null: Print paths as their bytes, each with a NUL after it, as ``xargs -0`` reads them.
    """

    def __init__(self, as_json: bool = False, null: bool = False) -> None:
        if as_json and null:
            raise click.UsageError("--json and --null exclude each other")
        self.as_json = as_json
        self.null = null
        self.failed = 0

    def line(self, text: str) -> None:
        """Print a line; what is not printable in it stands as escapes."""
        encoding = sys.stdout.encoding or "utf-8"
        self._write(printable(text).encode(encoding, "backslashreplace") + b"\n")

    def path(self, path: str) -> None:
        """Print a path with a NUL after it."""
        self._write(path.encode("utf-8", "surrogateescape") + b"\0")

    def record(self, **values: Any) -> None:
        """Print an object of JSON."""
        echo_json(values)

    def done(self, action: str, path: str) -> None:
        """Print one thing that was done, or would be."""
        if self.as_json:
            self.record(action=action, path=path)
        else:
            self.line(f"{action} {path}")

    def fail(self, path: str, error: Exception) -> None:
        """Count a path that failed, and say why on standard error; in JSON, on standard output too."""
        self.failed += 1
        if self.as_json:
            echo_json({"type": "error", "path": path, **described(error)})
        complain(str(error) or repr(error))

    def finish(self) -> None:
        """End the command: with 1 if something failed.

        Raises:
            click.exceptions.Exit: Something failed.
        """
        with naming_stdout():
            sys.stdout.buffer.flush()  # while a reader who has gone can still be taken for what it is
        if self.failed:
            raise click.exceptions.Exit(1)

    def _write(self, data: bytes) -> None:
        stream = sys.stdout.buffer
        with naming_stdout():
            stream.write(data)
            if sys.stdout.isatty():
                stream.flush()


def described(error: BaseException) -> dict[str, str]:
    """Return what an object of JSON says of an error."""
    return {"error": str(error) or repr(error), "error_type": type(error).__name__}


def complain(text: str) -> None:
    """Say on standard error that something failed."""
    click.echo(f"failed: {printable(text)}", err=True)
