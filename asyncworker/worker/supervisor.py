"""``celery worker --processes N``: a supervisor of N complete workers, each with its own consumer and its own loop.

Not prefork: nothing passes through the supervisor, and one worker's end is no other's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from asyncworker.worker.place import Environment, Place, Slot, exit_text
from asyncworker.worker.supervised import DRAIN_TIMED_OUT
from asyncworker.worker.supervised_process import WorkerProcess

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_RELOAD, _WARM, _COLD, _PASSED_ON = signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1


class Supervisor:
    """Starts the workers, replaces those that end, passes signals on. Owns the main thread while it runs.

    Args:
        places: How each worker is started.
        environment: Makes the environment of a process that is to be started.
        drain_timeout_s: How long a worker that was told to end may take; then it cancels what it runs.
        kill_after_s: How long it may take to do so; then it is killed.
        watch: Called at each turn with the slots, at least once a second where ``watch_s`` says so.
        watch_s: How often at least.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        environment: Environment,
        drain_timeout_s: float,
        kill_after_s: float,
        watch: Callable[[Sequence[Slot]], None] | None = None,
        watch_s: float | None = None,
    ) -> None:
        self.slots = [Slot(place, environment) for place in places]
        self._drain_timeout_s = drain_timeout_s
        self._kill_after_s = kill_after_s
        self._watch = watch
        self._watch_s = watch_s
        self._signals: deque[int] = deque()
        self._stopping = False
        self._late = False
        self._started_once = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until all workers have ended for good; return the exit code."""
        with self._caught_signals() as wake:
            try:
                while any(slot.start_at_s is not None or any(slot.processes) for slot in self.slots):
                    for slot in self.slots:
                        slot.start_due()
                    self._wait(wake)
                    while self._signals:
                        self._obey(self._signals.popleft())
                    for slot in self.slots:
                        for process in list(slot.processes):
                            self._look_at(slot, process)
                        slot.look()
                    self._replace_one()
                    if self._watch is not None:
                        self._watch(self.slots)
            finally:
                for process in self._processes():
                    process.child.kill()
        return self._exit_code

    def _processes(self) -> list[WorkerProcess]:
        return [process for slot in self.slots for process in slot.processes]

    # -- waiting -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[int]:
        """Queue the signals that concern us; yields a descriptor that becomes readable with each."""
        wake, write_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(write_end, False)
        wanted = (_RELOAD, _WARM, _COLD, _PASSED_ON, signal.SIGINT, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in wanted}
        fd_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(write_end)

    def _wait(self, wake: int) -> None:
        processes = self._processes()
        dates = [slot.start_at_s for slot in self.slots]
        dates += [date for process in processes for date in (process.kill_at_s, process.show_at_s)]
        due = [date for date in dates if date is not None]
        waits = [max(0.0, min(due) - time.monotonic())] if due else []
        if self._watch_s is not None:
            waits.append(self._watch_s)
        poll = select.poll()  # not select(): a supervisor's descriptors may be numbered beyond 1,024
        for fd in (wake, *(fd for process in processes for fd in process.descriptors)):
            poll.register(fd, select.POLLIN)
        # Rounded up: woken a millisecond early, it would spin for that long.
        ready = poll.poll(int(min(waits) * 1000) + 1 if waits else None)
        if any(fd == wake for fd, _ in ready):
            os.read(wake, 4096)

    # -- what happens to one worker ------------------------------------------------------------------------------

    def _look_at(self, slot: Slot, process: WorkerProcess) -> None:
        process.listen()
        self._started_once = self._started_once or process.ready_at_s is not None
        code = process.end()
        if code is not None:
            slot.take_leave(process)
            self._after_end(slot, process, code)
        elif process.kill_at_s is not None and process.kill_at_s <= time.monotonic():
            logger.error(
                "%s did not end within %g s and is killed", process.node, self._drain_timeout_s + self._kill_after_s
            )
            process.kill_at_s = None
            process.child.kill()
            self._late = True

    def _after_end(self, slot: Slot, process: WorkerProcess, code: int) -> None:
        if self._stopping:
            process.show_output()
            if code == DRAIN_TIMED_OUT:
                logger.error("%s did not end within %g s", process.node, self._drain_timeout_s)
            # One that was asked to end before it had installed its handler is no failure.
            elif code not in (0, -signal.SIGTERM, -signal.SIGQUIT) and not self._late:
                logger.error("%s ended with %s", process.node, exit_text(code))
            else:
                code = 0
            self._exit_code = DRAIN_TIMED_OUT if self._late else self._exit_code or _as_exit_code(code)
        elif process.retiring:
            if code != 0:
                logger.error("%s, which was replaced, ended with %s", process.node, exit_text(code))
        elif process.leaving and code == 0:
            logger.warning("%s was shut down by remote control and is not replaced", process.node)
            if slot.successor is None and slot.current is None:
                slot.start_at_s = None
        elif not self._started_once and code != 0:
            # As one worker alone would: what keeps all from starting is told, and is not tried for ever.
            process.show_output()
            logger.error("%s ended with %s before any worker was ready: giving up", process.node, exit_text(code))
            self._exit_code = _as_exit_code(code)
            self._stop(signal.SIGTERM)
            for other in self._processes():  # what they say is the same
                other.discard_output()
        else:
            slot.failed(process, code)

    def _replace_one(self) -> None:
        """Have the successor of one that has had enough started, of one at a time."""
        if self._stopping or any(slot.is_changing for slot in self.slots):
            return
        for slot in self.slots:
            if slot.wants_successor:
                slot.replace()
                return

    # -- signals -------------------------------------------------------------------------------------------------

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == _PASSED_ON:
            # One that has not installed its handler yet would be ended by it.
            self._send(_PASSED_ON, only_ready=True)
        elif number == _RELOAD and not _on_terminal():
            self._reload()
        elif number == _COLD or (number == signal.SIGINT and self._stopping):
            logger.warning("%s: cold shutdown", signal.Signals(number).name)
            self._stop(signal.SIGQUIT)
        else:
            logger.warning("%s: warm shutdown", signal.Signals(number).name)
            self._stop(signal.SIGTERM)

    def _reload(self) -> None:
        if self._stopping:
            return
        logger.warning("SIGHUP: all workers are replaced, one after the other")
        for slot in self.slots:
            slot.reload()

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping:
            self._stopping = True
            for slot in self.slots:
                slot.start_at_s = None
            for process in self._processes():
                process.kill_at_s = time.monotonic() + self._drain_timeout_s + self._kill_after_s
        self._send(number)

    def _send(self, number: signal.Signals, *, only_ready: bool = False) -> None:
        for process in self._processes():
            if process.ready_at_s is not None or not only_ready:
                process.child.signal(number)


def _on_terminal() -> bool:
    """Return whether SIGHUP may come from our terminal, and so not ask for a reload."""
    return any(os.isatty(fd) for fd in (0, 1, 2))


def _as_exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
