"""A worker's side of ``--processes``: what it says to its supervisor, and what that says to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from celery.utils.dispatch import Signal
from celery.worker import state

__all__ = [
    "DRAIN_TIMED_OUT",
    "ENOUGH",
    "LEAVING",
    "READY",
    "RENAME",
    "RETIRE",
    "Command",
    "Supervised",
    "memory_bytes",
    "worker_retiring",
]

#: Sent once a worker takes no more tasks, since its successor does.
worker_retiring = Signal(name="worker_retiring")

#: What it may say, one a line; ``ENOUGH`` goes on with the reason.
READY, ENOUGH, LEAVING = b"ready", b"enough: ", b"leaving"

#: What it may be told: to leave its node name to the successor that is being started; to take no more tasks, and to
#: end when those that it runs have ended.
RENAME, RETIRE = b"rename", b"retire"

Command = Callable[[int, str], Sequence[str]]
"""Makes a worker's command line, given the descriptor of its link to us, and those of its real output, or nothing."""

#: The exit code of a worker, and of its supervisor, that had to cancel tasks: that of timeout(1).
DRAIN_TIMED_OUT = 124

_LOOK_S = 0.5


class Supervised(bootsteps.StartStopStep):
    """The bootstep of a worker that a supervisor has started; in any other worker it does nothing."""

    requires = ("celery.worker.components:Timer",)

    def __init__(
        self,
        worker: Any,
        supervised: int | None = None,
        supervised_output: str | None = None,
        max_tasks: int | None = None,
        max_memory_mb: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(worker, **options)
        self.enabled = supervised is not None
        if supervised is None:
            return
        self._worker = worker
        # What a task starts must not keep the link open.
        os.set_inheritable(supervised, False)
        self._link = socket.socket(fileno=supervised)
        self._link.setblocking(False)
        self._told = b""
        self._output = [int(fd) for fd in (supervised_output or "").split(",") if fd]
        for each in self._output:
            os.set_inheritable(each, False)
        self._supervisor = os.getppid()
        # Celery's own for a process, from its option or setting (in KiB), mean the same here.
        self._max_tasks = max_tasks or worker.max_tasks_per_child
        celerys_bytes = (worker.max_memory_per_child or 0) * 1024 or None
        self._max_bytes = celerys_bytes if max_memory_mb is None else max_memory_mb * 1024 * 1024
        self._timer: Any = None
        self._had_enough = self._renamed = self._retiring = False
        worker.pidfile = None  # the supervisor's
        # Celery's log format shows this name.
        multiprocessing.current_process().name = worker.hostname
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_shutdown.connect(self._ended, weak=False)

    def start(self, parent: Any) -> None:
        """Look at the limits and the link, for a broker without an event loop."""
        if not parent.use_eventloop:
            # The timer has a thread of its own: the consumer is the main thread's.
            self._timer = parent.timer.call_repeatedly(_LOOK_S, lambda: parent.consumer.call_soon(self._look))

    def register_with_event_loop(self, _parent: Any, hub: Any) -> None:
        """The same on the hub; called again after every reconnect, which forgets its timers."""
        self._timer = hub.call_repeatedly(_LOOK_S, self._look)

    def close(self, parent: Any) -> None:
        """Tell whether this end was asked for by remote control, which no signal has announced."""
        if self._timer is not None:
            self._timer.cancel()
        if state.should_stop is None and state.should_terminate is None and not parent.exitcode:
            self._say(LEAVING)

    def _ready(self, **_: Any) -> None:
        if self._output:
            sys.stdout.flush()
            sys.stderr.flush()
            for real, number in zip(self._output, (1, 2), strict=True):
                os.dup2(real, number)
                os.close(real)
            self._output = []
        self._say(READY)

    def _ended(self, **_: Any) -> None:
        if self._worker.pool is not None and self._worker.pool.drain_timed_out:
            self._worker.exitcode = DRAIN_TIMED_OUT

    def _look(self) -> None:
        if os.getppid() != self._supervisor:  # where the kernel has not ended us with it
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for word in self._listen():
            if word == RENAME:
                self._rename()
            elif word == RETIRE:
                self._retiring = True
                self._worker.consumer.retire()
                worker_retiring.send(sender=self._worker.consumer)
        if self._retiring:
            if self._worker.pool.is_idle and state.should_stop is None:
                state.should_stop = 0  # type: ignore[assignment]
        elif not self._had_enough and (reason := self._enough()):
            self._had_enough = True
            self._say(ENOUGH + reason.encode())

    def _listen(self) -> list[bytes]:
        with contextlib.suppress(OSError):
            self._told += self._link.recv(4096)
        *words, self._told = self._told.split(b"\n")
        return words

    def _rename(self) -> None:
        if self._renamed:  # for a successor that did not become ready
            return
        self._renamed = True
        name, _, host = str(self._worker.hostname).partition("@")
        hostname = f"{name}-{os.getpid()}@{host}"
        multiprocessing.current_process().name = self._worker.hostname = hostname
        self._worker.consumer.rename(hostname)

    def _enough(self) -> str:
        tasks = state.all_total_count[0]
        if self._max_tasks is not None and tasks >= self._max_tasks:
            return f"{tasks} tasks, of at most {self._max_tasks}"
        if self._max_bytes is not None and (used := memory_bytes()) > self._max_bytes:
            return f"{used >> 20} MB of memory, of at most {self._max_bytes >> 20}"
        return ""

    def _say(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone
            self._link.send(what + b"\n")


def memory_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell it, its peak."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
