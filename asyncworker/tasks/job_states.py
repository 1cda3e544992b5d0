"""The states of tasks that run in jobs of this process: written when the job ends."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from typing import Any

from asyncworker.errors import StateTakenOver, StoreError
from asyncworker.iterate.item import Item
from asyncworker.loop import LiveJob
from asyncworker.store import TaskState, TaskStates
from asyncworker.tasks.item_states import note_item_state
from asyncworker.worker.job import Job

__all__ = ["JobStates"]

logger = logging.getLogger(__name__)


class JobStates(TaskStates):
    """The states of this process's tasks, by the job that holds them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of_jobs: weakref.WeakKeyDictionary[LiveJob, dict[str, asyncio.Task[TaskState]]] = (
            weakref.WeakKeyDictionary()
        )
        #: Of items that are over: written soon, and at the end of the job at the latest.
        self._left: weakref.WeakKeyDictionary[LiveJob, weakref.WeakSet[TaskState]] = weakref.WeakKeyDictionary()
        self._one_at_a_time = asyncio.Lock()

    async def of_job(self, job: LiveJob, task_id: str, item: Item | None = None) -> TaskState:
        """Return a state that belongs to a job, or to an item of it.

        It is opened by the first who asks, and written at the job's end; an item's is let go at the end of its attempt.
        """
        if item is not None:
            note_item_state(item, task_id, lambda: self._leave(job, task_id))
        opened = self._of_jobs.setdefault(job, {})
        opening = opened.get(task_id)
        if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None:
            return opening.result()
        if opening is None or opening.done():
            opening = opened[task_id] = asyncio.create_task(self._open_held(job, task_id))
            job.before_outcome = lambda: self._write_job(job, opened)
        return await asyncio.shield(opening)

    async def _open_held(self, job: LiveJob, task_id: str) -> TaskState:
        # Opening takes the state from whoever holds it: a job that was overtaken must not take it from its successor.
        if isinstance(job, Job) and not await job.is_held():
            raise StateTakenOver(f"state of task {job}: another process has taken the task over")
        return await self.open(task_id)

    def _leave(self, job: LiveJob, task_id: str) -> None:
        opened = self._of_jobs.get(job, {})
        opening = opened.get(task_id)
        if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None:
            del opened[task_id]
            self._left.setdefault(job, weakref.WeakSet()).add(opening.result())

    async def delete_items(self, job: LiveJob | None, run_id: str) -> None:
        """Delete the states of a run's items.

        Raises:
            StoreError: The database could not be used.
        """
        prefix = f"{run_id}#"
        if job is not None:
            self._left.pop(job, None)
            opened = self._of_jobs.get(job, {})
            for task_id in [each for each in opened if each.startswith(prefix)]:
                del opened[task_id]
        await self.delete(prefix)

    async def act_once(self, task_id: str, action: Callable[[TaskState], tuple[Any, bool]] | None) -> Any:
        """Act for a task that runs elsewhere than in our pool: nobody says when it ends, so all is written at once."""
        async with self._one_at_a_time:
            state = await self.open(task_id)
            value, changed = (None, False) if action is None else action(state)
            if changed:
                self.change(state)
                await self.flush(state)
            return value

    async def _write_job(self, job: LiveJob, opened: dict[str, asyncio.Task[TaskState]]) -> None:
        done = [each for each in opened.values() if each.done() and not each.cancelled() and each.exception() is None]
        for state in [*self._left.get(job, ()), *(opening.result() for opening in done)]:
            try:
                await self.flush(state)
            except (StateTakenOver, StoreError) as exc:
                logger.error("%s has ended, and not all of its state could be written: %s", job, exc)
