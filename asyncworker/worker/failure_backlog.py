"""Back-pressure of failures: more tasks start only as those that have failed get through.

A task whose failure waits to be stored, or whose next attempt waits to be sent, keeps its frames, its exception and
what was made of them: many times what a task that succeeded keeps. Tasks that have not started yet keep nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeVar

from asyncworker.loop import off_loop
from asyncworker.worker.job import Job

__all__ = ["MOST_WAITING", "FailureBacklog", "counted_off_loop", "waits_as_failure"]

T = TypeVar("T")

#: Maximum number of failures that wait, and of tasks that start before the failures are counted again.
MOST_WAITING = 64
#: If no failure gets through in this time, a server is away, and tasks that do not need it go on.
STALLED_S = 5.0


class FailureBacklog:
    """Counts the failures that wait; on the loop's thread only."""

    def __init__(self) -> None:
        self._waiting = 0
        self._stalled = False
        self._held: tuple[asyncio.TimerHandle, contextvars.Context, Callable[[], object]] | None = None

    @property
    def room(self) -> int:
        """How many tasks may start now."""
        return MOST_WAITING if self._stalled else max(0, MOST_WAITING - self._waiting)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a failure while it waits. What it raises says that a server is away."""
        self._waiting += 1
        try:
            yield
        except Exception:
            self._stalled = True
            raise
        finally:
            self._waiting -= 1
            if self._waiting < MOST_WAITING:
                self._stalled = False
            if self._held is not None and self.room:
                self._let_go()

    def when_room(self, start: Callable[[], object]) -> None:
        """Have it called once tasks may start, in a copy of the context: after what is ready to run now, at least."""
        loop = asyncio.get_running_loop()
        if self.room:
            loop.call_soon(start)
        elif self._held is None:
            self._held = (loop.call_later(STALLED_S, self._give_up), contextvars.copy_context(), start)

    def _give_up(self) -> None:
        self._stalled = True
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            timer, context, start = self._held
            self._held = None
            timer.cancel()
            asyncio.get_running_loop().call_soon(start, context=context)


@contextlib.contextmanager
def waits_as_failure(job: Job) -> Iterator[None]:
    """Count a job's failure while it waits to be stored, where the job runs on the loop."""
    with job.backlog.waiting() if job.backlog is not None else contextlib.nullcontext():
        yield


def counted_off_loop(job: Job) -> Callable[[Callable[[], T]], T]:
    """Return an `off_loop` whose first call is counted: what has failed once waits for a server that is away."""
    was_counted = False

    def leave(call: Callable[[], T]) -> T:
        nonlocal was_counted
        if was_counted:
            return off_loop(call)
        was_counted = True
        with waits_as_failure(job):
            return off_loop(call)

    return leave
