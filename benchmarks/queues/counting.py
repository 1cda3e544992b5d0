"""What every competitor's task does: count itself in a small file that the benchmark maps into its memory.

A file a process, two numbers each: how many tasks, and the sum of their arguments. So a task that was lost, or ran
twice, is seen, and counting costs well under a microsecond. For sleeping tasks, the most that were in flight, too.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import threading
from pathlib import Path

__all__ = ["BROKER_URL", "FOLDER", "REDIS_URL", "RESULTS", "RESULT_URL", "Tally", "count", "nap", "read_counts"]

_LAYOUT = struct.Struct("=QQQ")

#: What the benchmark tells its processes, all by the environment.
FOLDER = Path(os.environ.get("BENCHMARK_COUNTS", "."))
REDIS_URL = os.environ.get("BENCHMARK_REDIS_URL", "")
BROKER_URL = os.environ.get("BENCHMARK_BROKER_URL", "")
RESULT_URL = os.environ.get("BENCHMARK_RESULT_URL", "")
RESULTS = os.environ.get("BENCHMARK_RESULTS", "1") == "1"


class Tally:
    """This process's numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._map: mmap.mmap | None = None
        self._count = self._sum = self._most = self._now = 0

    def add(self, number: int) -> None:
        """Count one task; from any thread."""
        with self._lock:
            memory = self._open() if os.getpid() != self._pid else self._map
            assert memory is not None
            self._count += 1
            self._sum += number
            _LAYOUT.pack_into(memory, 0, self._count, self._sum, self._most)

    def enter(self) -> None:
        """A sleeping task begins."""
        self._now += 1
        self._most = max(self._most, self._now)

    def leave(self) -> None:
        """It ends."""
        self._now -= 1

    def _open(self) -> mmap.mmap:
        # Also in a forked child, which counts for itself.
        self._pid = os.getpid()
        self._count = self._sum = self._most = self._now = 0
        path = FOLDER / f"{self._pid}.count"
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        return self._map


_tally = Tally()


def count(number: int) -> int:
    """Do what the task does."""
    _tally.add(number)
    return number


async def nap(number: int, seconds: float) -> int:
    """Do what the sleeping task does."""
    _tally.enter()
    await asyncio.sleep(seconds)
    _tally.leave()
    return count(number)


def read_counts(folder: Path) -> tuple[int, int, int]:
    """Return tasks, the sum of their arguments, and the most in flight, of all processes."""
    numbers = [_LAYOUT.unpack(content) for path in folder.glob("*.count") if len(content := path.read_bytes()) == 24]
    counts, sums, most = zip(*numbers, strict=True) if numbers else ((), (), ())
    return sum(counts), sum(sums), sum(most)
