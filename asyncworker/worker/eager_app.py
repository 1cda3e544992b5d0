"""The current app of an async task that runs eagerly: Celery keeps one for each thread, and the loop has its own."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import Any, TypeVar

from celery import _state

__all__ = ["with_app_of"]

T = TypeVar("T")


class _EagerApps(threading.local):
    """The apps of the eager tasks that run on a thread, and its current app without them."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.before: Any = None


_apps = _EagerApps()
_state_of_celery: Any = _state


async def with_app_of(task: Any, body: Awaitable[T]) -> T:
    """Await a task's body with its app as the current one of the thread.

    Without it a shared task that the body calls would belong to Celery's default app, which sends it elsewhere.
    """
    if task is None:
        return await body
    if not _apps.running:
        _apps.before = _state_of_celery._tls.current_app
    _apps.running.append(task.app)
    _state_of_celery._set_current_app(task.app)
    try:
        return await body
    finally:
        _apps.running.remove(task.app)
        _state_of_celery._set_current_app(_apps.running[-1] if _apps.running else _apps.before)
