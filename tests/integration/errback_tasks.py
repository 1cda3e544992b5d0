"""Tasks that fail, and what is linked to their failure."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import current_task, shared_task


@shared_task(name="e.fail_sync")
def fail_sync() -> None:
    raise KeyError("sync")


@shared_task(name="e.fail_async", acks_late=True)
async def fail_async() -> None:
    await asyncio.sleep(0)
    raise KeyError("async")


@shared_task(name="e.too_long", time_limit=0.3)
async def too_long() -> None:
    await asyncio.sleep(60)


@shared_task(name="e.too_long_sync", time_limit=0.3)
def too_long_sync() -> None:
    time.sleep(1)


@shared_task(name="e.store", bind=True)
async def store(self: Any, text: str) -> str:
    return text


@shared_task(name="e.handle")
async def handle(request: Any, exc: BaseException, traceback: Any) -> None:
    """An errback that waits, and sends a task without holding up the loop."""
    await asyncio.sleep(0.05)
    task: Any = store
    told = f"{type(exc).__name__} in {current_task.name}"
    await task.aapply_async((told,), task_id=f"{request.id}-handled")


@shared_task(name="e.handle_badly")
async def handle_badly(request: Any, exc: BaseException, traceback: Any) -> None:
    raise RuntimeError("the errback itself")
