"""The result backend as a task of the async pool sees it: blocking calls leave the loop, late outcomes are ignored."""

from __future__ import annotations

import functools
import logging
from typing import Any

from celery import Celery

from asyncworker.loop import current_job, in_bridge, off_loop
from asyncworker.worker.job import Job

__all__ = ["OffLoopBackend"]

logger = logging.getLogger(__name__)

#: Writes that an abandoned job may not make: its outcome was reported already.
_OUTCOMES = frozenset({"mark_as_done", "mark_as_failure", "mark_as_retry", "store_result"})

#: What talks to the store of results. Not every method may leave the loop: a result's destructor calls some.
_BLOCKING = _OUTCOMES | {
    "mark_as_started",
    "mark_as_revoked",
    "apply_chord",
    "add_to_chord",
    "on_chord_part_return",
    "chord_error_from_stack",
    "get_state",
    "get_result",
    "get_traceback",
    "get_task_meta",
    "get_children",
    "get_group_meta",
    "save_group",
    "restore_group",
    "delete_group",
    "forget",
    "on_task_call",
}


class OffLoopBackend:
    """Any Celery result backend; inside a bridge its blocking methods run on an I/O thread, elsewhere at once.

    It is set as ``task.backend``. The backend proper is the app's, which Celery keeps a thread.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._app.backend, name)
        if name in _OUTCOMES and _is_abandoned():
            return _ignore
        if name not in _BLOCKING or not in_bridge():
            return value
        return functools.partial(off_loop, self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._app.backend, name)(*args, **kwargs)


def _is_abandoned() -> bool:
    job = current_job.get()
    return isinstance(job, Job) and job.abandoned


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    logger.warning("%s: its late outcome is ignored, another one was reported before", current_job.get())
