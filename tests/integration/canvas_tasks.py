"""Tasks that send others with Celery's canvas, in every way that it has."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import chain, chord, current_app, group, shared_task
from celery.result import allow_join_result
from celery.signals import celeryd_init

from asyncworker.errors import LoopError
from asyncworker.tasks.task_result import TaskResult
from asyncworker.tasks.waiting import _watch_of


@celeryd_init.connect(weak=False)
def limit_pool(conf: Any = None, **_: Any) -> None:
    conf.broker_pool_limit = int(os.environ["CANVAS_POOL_LIMIT"])


@shared_task(name="c.add")
async def add(x: int, y: int = 0) -> int:
    await asyncio.sleep(0)
    return x + y


@shared_task(name="c.add_sync")
def add_sync(x: int, y: int = 0) -> int:
    return x + y


@shared_task(name="c.total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(name="c.total_sync")
def total_sync(numbers: list[int]) -> int:
    return sum(numbers)


def _group(count: int = 3) -> Any:
    return group(current_app.signature("c.add", (number, 1)) for number in range(count))


def _chord(body: str = "c.total") -> Any:
    return chord(_group(), current_app.signature(body))


@shared_task(name="c.sends")
async def sends(way: str) -> str:
    """Send others, one of the ways of Celery's API; return the id of what comes of it."""
    app: Any = current_app
    ways: dict[str, Any] = {
        "group": lambda: _group().apply_async().results[0],
        "group of one": lambda: _group(1).apply_async().results[0],
        "chord": lambda: _chord().apply_async(),
        "chord with a sync body": lambda: _chord("c.total_sync").apply_async(),
        "chain of groups": lambda: chain(
            _group(), app.signature("c.total"), app.signature("c.add", (1,))
        ).apply_async(),
        "group of chords": lambda: group(_chord(), _chord()).apply_async().results[0],
        "group of chains": lambda: (
            group(chain(_chord(), app.signature("c.add", (1,))), _group()).apply_async().results[0]
        ),
        "by name": lambda: app.send_task("c.add", (1, 2)),
        "revoke": lambda: _revoked(app.send_task("c.add", (1,), countdown=3600)),
        "forget": lambda: _forgotten(app, app.send_task("c.add", (1, 2))),
        "raw producer": lambda: _raw(app),
        "raw connection": lambda: _raw_connection(app),
    }
    return str(ways[way]().id)


def _revoked(result: Any) -> Any:
    result.revoke()
    return current_app.send_task("c.add", (1, 2))


def _forgotten(app: Any, result: Any) -> Any:
    app.AsyncResult(result.id).forget()
    return app.send_task("c.add", (1, 2))


def _raw(app: Any) -> Any:
    with app.producer_or_acquire() as producer:
        producer.publish({}, exchange="", routing_key="c.nobody")
        return app.send_task("c.add", (1, 2), producer=producer)


def _raw_connection(app: Any) -> Any:
    with app.connection_or_acquire() as connection:
        connection.ensure_connection(max_retries=1)
        return app.send_task("c.add", (1, 2))


@shared_task(name="c.held")
async def held() -> str:
    """Hold a producer and a connection across an await."""
    app: Any = current_app
    with app.producer_or_acquire() as producer, app.connection_or_acquire():
        await asyncio.sleep(0.5)
        return str(app.send_task("c.add", (1, 2), producer=producer).id)


@shared_task(name="c.children")
async def children(way: str) -> str:
    """The same from child tasks, where there is no bridge."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(sends(way)) for _ in range(2)]
    return started[0].result()


@shared_task(name="c.replace", bind=True)
async def replace(self: Any, way: str) -> Any:
    ways = {
        "group": lambda: _group(),
        "chord": lambda: _chord(),
        "chain": lambda: chain(_group(), current_app.signature("c.total")),
    }
    raise self.replace(ways[way]())


#: How many wait for the others, and whether all are here.
_waiting = 0
_all_here = asyncio.Event()


@shared_task(name="c.sends_all_and_replaces", bind=True)
async def sends_all_and_replaces(self: Any, among: int) -> Any:
    """Wait until that many tasks run; send a group, a chord and a chain of groups, then replace the task by a group."""
    global _waiting
    _waiting += 1
    if _waiting >= among:
        _all_here.set()
    await _all_here.wait()
    sent = [await sends(way) for way in ("group", "chord", "chain of groups")]
    raise self.replace(group(current_app.signature("c.same", (each,)) for each in sent))


@shared_task(name="c.same")
async def same(value: Any) -> Any:
    return value


@shared_task(name="c.add_to_chord", bind=True)
async def add_to_chord(self: Any) -> int:
    self.add_to_chord(current_app.signature("c.add", (10, 0)))
    return 1


@shared_task(name="c.waits")
async def waits() -> list[Any]:
    """Wait for a task that was sent from here; return its result, and how it was waited for."""
    app: Any = current_app
    sent = app.send_task("c.add", (1, 2))
    looked_up = app.AsyncResult(sent.id)
    return [await TaskResult.aget(looked_up), type(_watch_of(looked_up)).__name__]


@shared_task(name="c.blocks")
async def blocks(of: str) -> str:
    """Wait for a result as only other pools may."""
    sent = {"name": lambda: current_app.send_task("c.add", (1, 2)), "task": lambda: add.delay(1), "group": _group_sent}
    result = sent[of]()
    assert result.id
    try:
        with allow_join_result():
            return str(result.get(timeout=120))
    except LoopError as exc:
        return str(exc)


def _group_sent() -> Any:
    return _group().apply_async()
