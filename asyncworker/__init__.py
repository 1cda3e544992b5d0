"""Celery workers that run ``async def`` tasks by the thousand on one event loop a process.

``asyncworker.app`` is the default Celery app; it is made when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncworker.default_app import get_app, install
from asyncworker.errors import AsyncWorkerError, ItemErrors, SettingsError
from asyncworker.iterate import (
    Item,
    ItemFailure,
    IterateOptions,
    Progress,
    SkipItem,
    current_item,
    previous_result,
)
from asyncworker.limits import RateLimit, Semaphore, limit
from asyncworker.resources import Resource, resource, use
from asyncworker.tasks import state
from asyncworker.tasks.publish import publish_many
from asyncworker.tasks.result import IterateResult
from asyncworker.tasks.task import AsyncTask

if TYPE_CHECKING:
    from celery import Celery

    app: Celery[AsyncTask]

__all__ = [
    "app",
    "install",
    "publish_many",
    "AsyncTask",
    "IterateOptions",
    "IterateResult",
    "Progress",
    "ItemFailure",
    "Item",
    "current_item",
    "previous_result",
    "SkipItem",
    "state",
    "Resource",
    "resource",
    "use",
    "Semaphore",
    "RateLimit",
    "limit",
    "AsyncWorkerError",
    "ItemErrors",
]


def __getattr__(name: str) -> Any:
    if name == "app":
        try:
            return get_app()
        except SettingsError as exc:
            if click.get_current_context(silent=True) is None:
                raise
            # `celery -A asyncworker` would print a traceback around it.
            raise SystemExit(f"asyncworker: {exc}") from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
