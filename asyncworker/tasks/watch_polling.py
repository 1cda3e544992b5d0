"""Outcomes in any result backend: asked for at growing intervals, all that are due by one call on one thread."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import states

from asyncworker.loop import off_loop_async

__all__ = ["PollingWatch"]

#: Is given a task's outcome, or why there will be none.
Told = Callable[[Mapping[str, Any] | Exception], None]

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
GROWTH = 1.5


@dataclass(order=True)
class _Watched:
    due_at_s: float
    number: int
    task_id: str = field(compare=False)
    told: Told | None = field(compare=False)
    wait_s: float = field(default=FIRST_WAIT_S, compare=False)

    def forget(self) -> None:
        self.told = None


class PollingWatch:
    """Waits for outcomes on the running loop.

    Args:
        backend: Returns the backend; called on the thread that asks it.
    """

    def __init__(self, backend: Callable[[], Any]) -> None:
        self._backend = backend
        self._watched: list[_Watched] = []
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def add(self, task_id: str, told: Told) -> Callable[[], None]:
        """Have an outcome told, once, when it is there; it may be there already.

        Returns:
            What ends that; to be called after it was told, too.
        """
        loop = asyncio.get_running_loop()
        watched = _Watched(loop.time(), next(self._numbers), task_id, told)
        heapq.heappush(self._watched, watched)
        self._wake.set()
        if self._task is None:
            # Nothing of the caller's context is its own.
            self._task = loop.create_task(self._run(), name="asyncworker-outcomes", context=contextvars.Context())
        return watched.forget

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._watched:
                self._wake.clear()
                wait_s = self._watched[0].due_at_s - loop.time()
                if wait_s > 0:
                    timer = loop.call_later(wait_s, self._wake.set)
                    await self._wake.wait()
                    timer.cancel()
                await self._ask(loop.time())
        finally:
            self._task = None

    async def _ask(self, now_s: float) -> None:
        """Ask for those that are due; what has no outcome yet is asked for again, later and later."""
        due: list[_Watched] = []
        while self._watched and self._watched[0].due_at_s <= now_s:
            due.append(heapq.heappop(self._watched))
        wanted = {each.task_id for each in due if each.told is not None}
        outcomes = await off_loop_async(_look, self._backend, wanted) if wanted else {}
        for each in due:
            if each.told is None:
                continue
            outcome = outcomes.get(each.task_id)
            if isinstance(outcome, Exception) or (outcome and outcome["status"] in states.READY_STATES):
                each.told(outcome)
            else:
                each.wait_s = min(each.wait_s * GROWTH, LONGEST_WAIT_S)
                each.due_at_s = now_s + each.wait_s
                heapq.heappush(self._watched, each)


def _look(backend: Callable[[], Any], task_ids: Iterable[str]) -> dict[str, Mapping[str, Any] | Exception]:
    outcomes: dict[str, Mapping[str, Any] | Exception] = {}
    asked = backend()
    for task_id in task_ids:
        try:
            outcomes[task_id] = asked.get_task_meta(task_id)
        except Exception as exc:
            outcomes[task_id] = exc
    return outcomes
