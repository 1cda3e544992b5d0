"""Tasks that do nothing, and tasks that do nothing until they are told to end."""

from __future__ import annotations

import asyncio

from celery import shared_task

_released: asyncio.Event | None = None


def _event() -> asyncio.Event:
    global _released
    if _released is None:
        _released = asyncio.Event()
    return _released


@shared_task(name="light.nothing")
async def nothing() -> None:
    pass


@shared_task(name="light.held")
async def held() -> None:
    """Wait for ``light.release``, in the same process."""
    await _event().wait()


@shared_task(name="light.release")
async def release() -> None:
    _event().set()
