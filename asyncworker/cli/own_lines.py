"""Lines that a command prints on standard output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["STANDARD_OUTPUT", "echo_line", "naming_stdout"]

#: Name of standard output in errors.
STANDARD_OUTPUT = "standard output"


def echo_line(text: str) -> None:
    """Print a line on standard output.

    Raises:
        OSError: It cannot be written; names standard output.
    """
    with naming_stdout():
        click.echo(text)


@contextmanager
def naming_stdout() -> Iterator[None]:
    """Make errors of the block name standard output: "No space left on device" alone could be about any file.

    Raises:
        BrokenPipeError: Nobody reads any more; as it is.
        OSError: Any other; names standard output.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None
