"""Tasks of a worker that notes on which thread SQLAlchemy was imported first."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from celery import shared_task

from asyncworker import state

imported_on: list[str] = []


class _Noting:
    """A finder that finds nothing."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name == "sqlalchemy":
            imported_on.append(threading.current_thread().name)
        return None


sys.meta_path.insert(0, _Noting())


@shared_task(name="i.imported_on")
async def where() -> list[str]:
    """Return the names of those threads, and that of the event loop's."""
    return [threading.current_thread().name, *imported_on]


@shared_task(name="i.late", acks_late=True)
async def late(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@shared_task(name="i.state")
async def keeps_state() -> None:
    await state.set("key", 1)


@shared_task(name="i.item")
async def item(number: int) -> int:
    return number
