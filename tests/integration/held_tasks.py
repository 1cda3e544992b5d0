"""Tasks that note where they run, and go on until a file is there."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from celery import shared_task


def _started(log: str, what: str) -> int:
    pid = os.getpid()
    with Path(log).open("a") as file:
        file.write(f"{what} {pid}\n")
    return pid


async def _held(log: str, what: str, until: str) -> int:
    pid = _started(log, what)
    while not Path(until).exists():
        await asyncio.sleep(0.02)
    return pid


@shared_task(name="h.early")
async def early(log: str, what: str, until: str) -> int:
    return await _held(log, what, until)


@shared_task(name="h.late", acks_late=True)
async def late(log: str, what: str, until: str) -> int:
    return await _held(log, what, until)


@shared_task(name="h.sync")
def sync(log: str, what: str, until: str) -> int:
    pid = _started(log, what)
    while not Path(until).exists():
        time.sleep(0.02)
    return pid


@shared_task(name="h.item")
async def item(log: str, what: str, until: str) -> int:
    return await _held(log, what, until)


@shared_task(name="h.sync_late", acks_late=True)
def sync_late(log: str, what: str, until: str) -> int:
    return sync(log, what, until)  # type: ignore[no-any-return]
