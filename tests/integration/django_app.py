"""A Django project's Celery app, whose tasks ask the database on every kind of thread."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from celery import Celery, Task

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.django_settings")

import asyncworker

app: Any = asyncworker.install(Celery("shop"))


def ask() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return int(cursor.fetchone()[0])


class Asking(Task):  # type: ignore[type-arg, unused-ignore]
    """Its hooks ask, too."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        ask()

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        ask()


@app.task(name="d.orm")
async def orm() -> int:
    """Ask as Django's async ORM does."""
    return int(await sync_to_async(ask)())


@app.task(name="d.to_thread")
async def to_thread() -> int:
    return await asyncio.to_thread(ask)


@app.task(name="d.hooks", base=Asking)
async def hooks() -> int:
    return 1


@app.task(name="d.sync")
def sync() -> int:
    return ask()


@app.task(name="d.item")
async def item(number: int, began: str, go: str) -> int:
    """The second one waits until its connection was cut."""
    if number == 1:
        Path(began).touch()
    while number == 1 and not Path(go).exists():
        await asyncio.sleep(0.02)
    return int(await sync_to_async(ask)())
