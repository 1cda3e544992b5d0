"""A user's own Celery app, made async by one line; every kind of task."""

from __future__ import annotations

import asyncio
from typing import Any

from celery import Celery

import asyncworker

app = asyncworker.install(Celery("own_app"))
app.conf.task_default_queue = "own"


@app.task(name="own.async")
async def an_async_task(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@app.task(name="own.sync")
def a_sync_task(x: int) -> int:
    return x + 2


class Base(app.Task):  # type: ignore[name-defined,misc]
    """A base of the user's own."""

    def greeting(self) -> str:
        return "hello"


class ClassBased(Base):
    name = "own.class"

    async def run(self, x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [self.greeting(), self.request.id, x]


class Derived(ClassBased):
    name = "own.derived"

    async def run(self, x: int) -> list[Any]:
        greeting, request_id, _ = await super().run(x)
        return [greeting, request_id, x * 2]


class Calling(Base):
    """Has a ``__call__`` of its own, as prefork users do for set-up around the body."""

    name = "own.calling"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return {"called": super().__call__(*args, **kwargs)}

    async def run(self, x: int) -> int:
        await asyncio.sleep(0)
        return x


for cls in (ClassBased, Derived, Calling):
    app.register_task(cls())


@app.task(name="own.bound", bind=True, base=Base)
async def bound(self: Any, x: int) -> list[Any]:
    await asyncio.sleep(0)
    return [self.greeting(), self.request.id, x]
