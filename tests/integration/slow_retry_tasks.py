"""Tasks whose next attempt is done before they say that there is one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import shared_task


def _until_done(task: Any) -> None:
    while task.app.backend.get_state(task.request.id) != "SUCCESS":
        time.sleep(0.02)


@shared_task(name="t.slow_to_retry", bind=True)
async def slow_to_retry(self: Any) -> int:
    """Say that it is retried when the next attempt has been done."""
    if not self.request.retries:
        retry = self.retry(countdown=0, throw=False)
        await asyncio.to_thread(_until_done, self)
        raise retry
    return int(self.request.retries)


@shared_task(name="t.slow_to_retry_on_a_thread", bind=True)
def slow_to_retry_on_a_thread(self: Any) -> int:
    if not self.request.retries:
        retry = self.retry(countdown=0, throw=False)
        _until_done(self)
        raise retry
    return int(self.request.retries)


@shared_task(name="late.again", bind=True, max_retries=1)
async def again(self: Any) -> None:
    """Fail at the second attempt for good."""
    raise self.retry(countdown=0, exc=ValueError("once more"))


@shared_task(name="late.again_sync", autoretry_for=(ValueError,), default_retry_delay=0, max_retries=1)
def again_sync() -> None:
    raise ValueError("once more")
