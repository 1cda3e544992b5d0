"""Cancelling with a reason: any exception can be raised at the await point of a bridged coroutine."""

from __future__ import annotations

import asyncio

__all__ = ["Interrupt"]


class Interrupt:
    """One pending exception for one asyncio task. Used on the loop thread only.

    ``asyncio.Task.cancel`` always arrives as a ``CancelledError`` at the outermost ``yield``; the bridge asks
    :meth:`take` there what it should become before it reaches the coroutine.
    """

    __slots__ = ("_pending", "requested")

    def __init__(self) -> None:
        self._pending: BaseException | None = None
        self.requested = False
        """True once a plain cancellation was asked for: what leaves the coroutine then is our doing, not its own."""

    def cancel(self, task: asyncio.Task[object]) -> None:
        """Cancel the task; a pending exception gives way to it."""
        self._pending = None
        self.requested = True
        task.cancel()

    def throw(self, task: asyncio.Task[object], exc: BaseException) -> None:
        """Raise ``exc`` where the task's coroutine is waiting. Ignored once a cancellation was asked for."""
        if self.requested or task.done():
            return
        self._pending = exc
        task.cancel()

    def take(self, arrived: BaseException) -> BaseException:
        """Return what should reach the coroutine in the place of ``arrived``."""
        pending = self._pending
        if pending is None or not isinstance(arrived, asyncio.CancelledError):
            return arrived
        self._pending = None
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return pending
