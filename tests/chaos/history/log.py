"""The independent log: every process appends what it does, a line at a time, to one file that nobody ever rewrites."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Line", "append", "read"]


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One line."""

    event: str
    """``begin``, ``end`` (it returned), ``cut`` (it was cancelled); ``pulse``: the process lives; ``sent``, ``refused``
    by the publisher; a fault's name by whoever does the harm."""
    at_s: float
    """``CLOCK_MONOTONIC``, the same for all processes of the machine."""
    wall_s: float
    pid: int
    task_id: str = ""
    kind: str = ""
    token: str = ""
    """Names one execution, and no other ever."""
    index: int = -1
    """Of an item of a fan-out."""


def append(path: str | Path, event: str, *, pid: int = 0, **fields: Any) -> None:
    """Append one line, whole: a write of so few bytes with ``O_APPEND`` is not torn by another, nor by a kill."""
    line = msgspec.json.encode(Line(event, time.monotonic(), time.time(), pid or os.getpid(), **fields))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line + b"\n")
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Line]:
    """Read all lines, in the order in which they were written."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Line)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]
