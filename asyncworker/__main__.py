"""``python -m asyncworker``, and the ``asyncworker`` program: the command line, which Ctrl-C ends at any moment."""

from __future__ import annotations

from asyncworker.exit_signals import end_at_once, ending_at_once

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    with ending_at_once():
        from asyncworker.cli import main as command
    try:
        command(prog_name="asyncworker")
    finally:
        end_at_once()  # all is done: nothing of the interpreter's own clean-up may become a traceback


if __name__ == "__main__":
    main()
