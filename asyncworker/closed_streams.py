"""Standard streams that the caller has closed (``<&-``, ``>&-``): a file or a socket must not get their numbers."""

from __future__ import annotations

import os
import sys

__all__ = ["occupy_closed_streams"]


def occupy_closed_streams() -> None:
    """Open the null device under the numbers of closed standard streams.

    Lines for them are dropped. To read a closed input, and to write bytes of files to a closed output, stays an error:
    there, the device is opened the other way round.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # each gets the lowest number that is free
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
