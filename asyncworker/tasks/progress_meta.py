"""Show a fan-out's progress where Celery's clients look: in the task's own result, as state ``PROGRESS``."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

from asyncworker.iterate import Progress
from asyncworker.loop import off_loop_async
from asyncworker.tasks.task import AsyncTask
from asyncworker.worker.backend import stock_backend
from asyncworker.worker.progress import ProgressState

__all__ = ["ProgressMeta", "meta_of"]

logger = logging.getLogger(__name__)


class ProgressMeta:
    """Stores the progress of one run every so often, until the run ends; a run that is shorter stores none.

    Use it as an async context manager, and give `observe` to the run.
    """

    EVERY_S = 1.0

    def __init__(self, task: AsyncTask) -> None:
        ignored = task.ignore_result or task.request.ignore_result
        backend = functools.partial(stock_backend, task.backend)
        self._state = None if ignored or not task.request.id else ProgressState(backend, task.request)
        self._ended = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ProgressMeta:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._state is None:
            return
        self._state.end()
        self._ended.set()
        if self._writer is not None:
            # Waited for, not cut: the outcome must be the last that is stored.
            await asyncio.wait([self._writer])
        self._state.forget()

    def observe(self, progress: Callable[[], Progress]) -> None:
        """Begin to store what this tells."""
        if self._state is not None:
            self._writer = asyncio.create_task(self._write(self._state, progress), name="iterate-progress")

    async def _write(self, state: ProgressState, progress: Callable[[], Progress]) -> None:
        stored: dict[str, Any] | None = None
        while not await self._ended_within(self.EVERY_S):
            meta = meta_of(progress())
            if stored is not None and all(meta[name] == stored[name] for name in ("done", "failed", "skipped")):
                continue
            try:
                await off_loop_async(state.store, meta)
            except Exception as exc:
                logger.warning("the progress of a run could not be stored as its state: %s", exc)
            else:
                stored = meta

    async def _ended_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return False
        return True


def meta_of(progress: Progress) -> dict[str, Any]:
    """Return the meta that `AsyncResult.info` shows of a run in progress."""
    remaining_s = progress.remaining_s
    return {
        "done": progress.done,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "retried": progress.retried,
        "total": progress.total,
        "rate": round(progress.rate, 1),
        "remaining_s": None if remaining_s is None else round(remaining_s, 1),
    }
