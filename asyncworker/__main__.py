"""``python -m asyncworker``, and the ``asyncworker`` program: the command line, which Ctrl-C ends at any moment."""

from __future__ import annotations

import os

from asyncworker.exit_signals import end_at_once, ending_at_once

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    with ending_at_once():
        from asyncworker.closed_streams import occupy_closed_streams

        occupy_closed_streams()
        from asyncworker.cli import main as command
        from asyncworker.cli.unread import flush_output
    try:
        command(prog_name="asyncworker")
    except SystemExit as end:
        flush_output()
        if isinstance(end.code, int) and end.code > 128:  # by a signal: all is cleaned up that can be
            os._exit(end.code)
        raise
    finally:
        end_at_once()  # nothing of the interpreter's own clean-up may become a traceback


if __name__ == "__main__":
    main()
