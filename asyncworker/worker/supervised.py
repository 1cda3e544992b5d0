"""A worker's side of ``--processes``: it tells its supervisor when it is ready, has had enough, or is to leave."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from celery.worker import state

__all__ = ["ENOUGH", "LEAVING", "READY", "Supervised", "memory_bytes"]

#: What it may say, one a line; ``ENOUGH`` goes on with the reason.
READY, ENOUGH, LEAVING = b"ready", b"enough: ", b"leaving"

_LOOK_S = 1.0


class Supervised(bootsteps.StartStopStep):
    """The bootstep of a worker that a supervisor has started; in any other worker it does nothing."""

    requires = ("celery.worker.components:Timer",)

    def __init__(
        self,
        worker: Any,
        supervised: int | None = None,
        max_tasks: int | None = None,
        max_memory_mb: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(worker, **options)
        self.enabled = supervised is not None
        if supervised is None:
            return
        self._pipe = supervised
        # What a task starts must not keep the pipe open.
        os.set_inheritable(self._pipe, False)
        self._supervisor = os.getppid()
        # Celery's own for a process, from its option or setting (in KiB), mean the same here.
        self._max_tasks = max_tasks or worker.max_tasks_per_child
        celerys_bytes = (worker.max_memory_per_child or 0) * 1024 or None
        self._max_bytes = celerys_bytes if max_memory_mb is None else max_memory_mb * 1024 * 1024
        self._timer: Any = None
        worker.pidfile = None  # the supervisor's
        # Celery's log format shows this name.
        multiprocessing.current_process().name = worker.hostname
        signals.worker_ready.connect(self._ready, weak=False)

    def start(self, parent: Any) -> None:
        """Watch over the limits."""
        self._timer = parent.timer.call_repeatedly(_LOOK_S, self._look)

    def close(self, parent: Any) -> None:
        """Tell whether this end was asked for by remote control, which no signal has announced."""
        if self._timer is not None:
            self._timer.cancel()
        if state.should_stop is None and state.should_terminate is None and not parent.exitcode:
            self._say(LEAVING)

    def _ready(self, **_: Any) -> None:
        self._say(READY)

    def _look(self) -> None:
        if os.getppid() != self._supervisor:  # where the kernel has not ended us with it
            os.kill(os.getpid(), signal.SIGTERM)
            return
        reason = self._enough()
        if reason:
            self._timer.cancel()
            self._say(ENOUGH + reason.encode())

    def _enough(self) -> str:
        tasks = state.all_total_count[0]
        if self._max_tasks is not None and tasks >= self._max_tasks:
            return f"{tasks} tasks, of at most {self._max_tasks}"
        if self._max_bytes is not None and (used := memory_bytes()) > self._max_bytes:
            return f"{used >> 20} MB of memory, of at most {self._max_bytes >> 20}"
        return ""

    def _say(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone
            os.write(self._pipe, what + b"\n")


def memory_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell it, its peak."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
