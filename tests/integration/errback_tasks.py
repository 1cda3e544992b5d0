"""Tasks that fail, and what is linked to their failure."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Any

from celery import Task, current_task, shared_task, signals


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


@shared_task(name="e.handle_sync")
def handle_sync(request: Any, exc: BaseException, traceback: Any) -> None:
    """An errback that is counted."""
    store.apply_async((type(exc).__name__,), task_id=f"{request.id}-{uuid.uuid4()}", queue="counted")


@shared_task(name="e.handle_badly_sync")
def handle_badly_sync(request: Any, exc: BaseException, traceback: Any) -> None:
    raise RuntimeError("the errback itself")


@shared_task(name="e.too_long_late", time_limit=0.3, acks_late=True)
async def too_long_late() -> None:
    await asyncio.sleep(60)


@shared_task(name="e.raises_base", acks_late=True)
async def raises_base() -> None:
    raise SystemExit("out of a task")


class _WithBadHook(Task):  # type: ignore[type-arg]
    def on_failure(self, *_args: Any) -> None:
        raise RuntimeError("the hook itself")


@shared_task(name="e.fail_and_hook_fails", base=_WithBadHook)
async def fail_and_hook_fails() -> None:
    raise KeyError("its own")


@shared_task(name="e.again_badly", bind=True)
async def again_badly(self: Any, thing: Any = None) -> None:
    """A retry whose message nobody could make."""
    raise self.retry(args=(object(),), countdown=0)


@signals.task_failure.connect
def note_failure(task_id: str, **_details: Any) -> None:
    print(f"failure of {task_id}", file=sys.__stderr__, flush=True)
