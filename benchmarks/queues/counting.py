"""What every competitor's task does: count itself in a small file that the benchmark maps into its memory.

A file a process, of four numbers: tasks that began, tasks that ended, the sum of the arguments of those, and the most
that were in flight at once. So a task that was lost, or ran twice, is seen, and counting costs about a microsecond.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BROKER_URL",
    "REDIS_URL",
    "RESULTS",
    "RESULT_URL",
    "Counts",
    "begin",
    "count",
    "end",
    "forget_counts",
    "nap",
    "read_counts",
    "sync_nap",
]

_LAYOUT = struct.Struct("=QQQQ")

#: What the benchmark tells its processes, all by the environment.
FOLDER = Path(os.environ.get("BENCHMARK_COUNTS", "."))
REDIS_URL = os.environ.get("BENCHMARK_REDIS_URL", "")
BROKER_URL = os.environ.get("BENCHMARK_BROKER_URL", "")
RESULT_URL = os.environ.get("BENCHMARK_RESULT_URL", "")
RESULTS = os.environ.get("BENCHMARK_RESULTS", "1") == "1"


class Tally:
    """This process's numbers; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._map: mmap.mmap
        self._began = self._ended = self._sum = self._most = 0

    def begin(self) -> None:
        """A task begins."""
        with self._lock:
            if os.getpid() != self._pid:
                self._open()
            self._began += 1
            self._most = max(self._most, self._began - self._ended)
            self._write()

    def end(self, number: int) -> None:
        """It ends; the argument that it was given."""
        with self._lock:
            self._ended += 1
            self._sum += number
            self._write()

    def _open(self) -> None:
        # Also in a forked child, which counts for itself.
        self._pid = os.getpid()
        self._began = self._ended = self._sum = self._most = 0
        path = FOLDER / f"{self._pid}.count"
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    def _write(self) -> None:
        _LAYOUT.pack_into(self._map, 0, self._began, self._ended, self._sum, self._most)


_tally = Tally()


def count(number: int) -> int:
    """Do what the task does."""
    _tally.begin()
    _tally.end(number)
    return number


def begin() -> None:
    """Do what the first half of a task does that is tried twice."""
    _tally.begin()


def end(number: int) -> int:
    """Do the second half."""
    _tally.end(number)
    return number


async def nap(number: int, seconds: float) -> int:
    """Do what the sleeping task does."""
    _tally.begin()
    await asyncio.sleep(seconds)
    _tally.end(number)
    return number


def sync_nap(number: int, seconds: float) -> int:
    """Do it on a thread, or in a greenlet."""
    _tally.begin()
    time.sleep(seconds)
    _tally.end(number)
    return number


@dataclass(frozen=True)
class Counts:
    """The numbers of all processes together; ``most`` is exact for one process."""

    began: int
    ended: int
    sum: int
    most: int


def read_counts(folder: Path) -> Counts:
    """Read what the processes with that folder have counted."""
    contents = [path.read_bytes() for path in folder.glob("*.count")]
    numbers = [_LAYOUT.unpack(content) for content in contents if len(content) == _LAYOUT.size]
    return Counts(*(sum(column) for column in zip(*numbers, strict=True))) if numbers else Counts(0, 0, 0, 0)


def forget_counts(folder: Path) -> None:
    """Begin anew; no process may be counting."""
    for path in folder.glob("*.count"):
        path.unlink()
