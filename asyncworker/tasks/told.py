"""Detection of runs whose outcome another delivery of the message has already reported to Celery."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from celery import states
from celery.backends.base import BaseKeyValueStoreBackend

from asyncworker.iterate import Drain
from asyncworker.loop import off_loop_async
from asyncworker.worker.backend import stock_backend

__all__ = ["was_told"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


async def was_told(task: Any, *, ok: bool, within_s: float, drain: Drain) -> bool:
    """Wait until the result of a task's id is stored by another delivery, for so long at most.

    Celery sends what is linked to a task before it stores the result: where that is there, a second delivery would send
    all of it once more. A chord counts its tasks after that, and each once: it is told again.

    Args:
        task: The task that runs; its result must be kept, in a backend that can be asked.
        ok: Which result it would be.
        within_s: The process that ran it may be about to tell, or dead.
        drain: Asks to wait no more.
    """
    kept = not (task.ignore_result or task.request.ignore_result)
    asked = stock_backend(task.app.backend)
    if not kept or task.request.chord or not isinstance(asked, BaseKeyValueStoreBackend):
        return False
    wanted = states.SUCCESS if ok else states.FAILURE
    looks = max(1, round(within_s / _LOOK_S))
    for _ in range(looks):
        try:
            if await off_loop_async(_status, task.app, task.request.id) == wanted:
                return True
        except Exception as exc:
            logger.warning("the result of %s cannot be looked at, and is stored once more: %r", task.request.id, exc)
            return False
        if drain.requested:
            return False
        await asyncio.sleep(_LOOK_S)
    return False


def _status(app: Any, task_id: str) -> str:
    return str(app.backend.get_task_meta(task_id, cache=False)["status"])
