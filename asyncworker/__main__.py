"""``python -m asyncworker``, and the ``asyncworker`` program: the command line, which Ctrl-C ends at any moment."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported ends it as one later would."""
    try:
        from asyncworker.cli import main as command

        command(prog_name="asyncworker")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
