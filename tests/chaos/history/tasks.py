"""Tasks that write down each of their executions, and return its name: the result tells which one was accepted."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from typing import Any

from celery import shared_task, signals

from asyncworker import current_item
from tests.chaos.history.log import append

#: The log's path, in the environment of every worker.
LOG_VARIABLE = "CHAOS_HISTORY_LOG"
#: How often a worker says that it lives.
PULSE_S = 0.2


async def _work(kind: str, task_id: str, seconds: float, index: int = -1) -> str:
    log, token = os.environ[LOG_VARIABLE], uuid.uuid4().hex
    of = {"kind": kind, "task_id": task_id, "token": token, "index": index}
    append(log, "begin", **of)
    try:
        await asyncio.sleep(seconds)
    except BaseException:
        append(log, "cut", **of)
        raise
    append(log, "end", **of)
    return token


@shared_task(name="history.early", bind=True)
async def early(self: Any, seconds: float) -> str:
    return await _work("early", self.request.id, seconds)


@shared_task(name="history.late", bind=True, acks_late=True)
async def late(self: Any, seconds: float) -> str:
    return await _work("late", self.request.id, seconds)


@shared_task(name="history.late_sync", bind=True, acks_late=True)
def late_sync(self: Any, seconds: float) -> str:
    log, token = os.environ[LOG_VARIABLE], uuid.uuid4().hex
    of = {"kind": "late_sync", "task_id": self.request.id, "token": token}
    append(log, "begin", **of)
    time.sleep(seconds)
    append(log, "end", **of)
    return token


@shared_task(name="history.long", bind=True, acks_late=True)
async def long(self: Any, seconds: float) -> str:
    return await _work("long", self.request.id, seconds)


@shared_task(name="history.item")
async def item(number: int, seconds: float) -> str:
    running = current_item()
    return await _work("fan_out", running.run_id, seconds, running.index)


@signals.worker_init.connect(weak=False)
def start_pulse(**_: Any) -> None:
    """From a thread that does nothing else: only a process that is frozen or starved falls silent."""

    def beat() -> None:
        while True:
            append(os.environ[LOG_VARIABLE], "pulse")
            time.sleep(PULSE_S)

    threading.Thread(target=beat, name="pulse", daemon=True).start()
