"""Signals that shut a worker down. Their handler only notes what was asked for, and the main thread does it later.

Celery's own handlers cancel consumers, report failures and stop the pool inside whatever the main thread is doing.
Within a read or a write of the broker connection they would use it a second time, and wait for its locks for ever.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery import bootsteps, signals
from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import state

__all__ = ["ShutdownSignals"]

#: A cold shutdown that has cancelled what runs has so long to flush, and to close its connections.
END_AFTER_S = 30.0
#: One that is to wait for nothing any more has so long.
END_HURRIED_AFTER_S = 5.0
_LOOK_S = 0.5

_CELERYS = "celery.apps.worker"


class ShutdownSignals(bootsteps.StartStopStep):
    """Replaces Celery's handlers of SIGTERM, SIGINT and SIGQUIT in a worker process with the async pool.

    SIGTERM and the first SIGINT ask for a warm shutdown; SIGQUIT and another SIGINT for a cold one, for one that waits
    for nothing the second time, and end the process at once the third time. A cold shutdown that does not get on, since
    the main thread waits for a broker that does not answer, ends the process after a time limit.

    Attributes:
        hurried: Nothing is to be waited for any more, neither a soft shutdown nor the end of what was cancelled.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.hurried = False
        self._worker = worker
        self._pid = 0
        self._interrupted = False
        self._cold_asked = 0
        self._end_at_s: float | None = None
        self._unannounced: deque[tuple[signal.Signals, str, int]] = deque()

    def start(self, parent: Any) -> None:
        """Replace the handlers; not in an embedded worker, for which Celery installs none."""
        pool = parent.pool
        if threading.current_thread() is not threading.main_thread() or not hasattr(pool, "shutdown_signals"):
            return
        numbers = [
            number
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
            if getattr(signal.getsignal(number), "__module__", "") == _CELERYS
        ]
        if not numbers:
            return
        self._pid = os.getpid()
        pool.shutdown_signals = self
        conf = parent.app.conf
        self._limit_s = (conf.worker_soft_shutdown_timeout or 0) + pool.cancel_grace_s + END_AFTER_S
        threading.Thread(target=self._limit, name="asyncworker-shutdown", daemon=True).start()
        for number in numbers:
            signal.signal(number, self._note)

    def announce(self) -> None:
        """Send Celery's signal for each request since the last call: its receivers may use the broker."""
        while self._unannounced:
            number, how, exit_code = self._unannounced.popleft()
            signals.worker_shutting_down.send(
                sender=self._worker.hostname, sig=number.name, how=how, exitcode=exit_code
            )

    # -- in a signal handler: nothing that takes a lock, logs, or uses a connection ------------------------------

    def _note(self, number: int, _: object) -> None:
        if os.getpid() != self._pid:  # a child that a task has forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._is_warm(number):
            exit_code = EX_FAILURE if number == signal.SIGINT else EX_OK
            if number == signal.SIGINT:
                self._interrupted = True
                _say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
            _say("worker: Warm shutdown (MainProcess)")
            self._unannounced.append((signal.Signals(number), "Warm", exit_code))
            state.should_stop = exit_code  # type: ignore[assignment]
        else:
            self._note_cold(number)
        self._worker.pool.wake()

    def _is_warm(self, number: int) -> bool:
        if number == signal.SIGINT:
            return not self._interrupted and not self._cold_asked
        return number == signal.SIGTERM and REMAP_SIGTERM != "SIGQUIT"

    def _note_cold(self, number: int) -> None:
        self._cold_asked += 1
        if self._cold_asked > 2:
            os._exit(EX_FAILURE)
        now_s = time.monotonic()
        if self._cold_asked == 1:
            _say("worker: Hitting Ctrl+C again will terminate all running tasks!")
            self._end_at_s = now_s + self._limit_s
        else:
            self.hurried = True
            self._end_at_s = now_s + END_HURRIED_AFTER_S
        _say("worker: Cold shutdown (MainProcess)")
        self._unannounced.append((signal.Signals(number), "Cold", EX_FAILURE))
        state.should_terminate = EX_FAILURE  # type: ignore[assignment]

    # -- on a thread of its own ----------------------------------------------------------------------------------

    def _limit(self) -> None:
        """End the process when its time is up. It looks again and again: a handler must not touch an event's lock."""
        ended: threading.Event = self._worker.blueprint.shutdown_complete
        while not ended.wait(_LOOK_S):
            if self._end_at_s is not None and time.monotonic() >= self._end_at_s:
                _say("worker: the cold shutdown takes too long; ending at once", sys.__stderr__)
                os._exit(EX_FAILURE)


def _say(text: str, stream: Any = sys.__stdout__) -> None:
    """Write to a stream's descriptor what it takes now: nobody may read what comes out of it."""
    try:
        fd = stream.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(0):
            os.write(fd, f"\n{text}\n".encode())
    except (AttributeError, OSError, ValueError):
        return  # closed, or none
