"""Tasks that note where they were started, for the kills of a supervisor and its workers."""

from __future__ import annotations

import asyncio
import os

from celery import shared_task


async def _work(log: str, number: int, pause_s: float) -> int:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"%d %d\n" % (number, os.getpid()))
    os.close(handle)
    await asyncio.sleep(pause_s)
    return number


@shared_task(name="orphan.late", acks_late=True)
async def late(log: str, number: int, pause_s: float) -> int:
    return await _work(log, number, pause_s)


@shared_task(name="orphan.early")
async def early(log: str, number: int, pause_s: float) -> int:
    return await _work(log, number, pause_s)
