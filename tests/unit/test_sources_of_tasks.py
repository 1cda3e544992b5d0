"""Tasks as the sources of fan-outs: which can be, and that none holds up the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group

import asyncworker
from asyncworker.errors import SourceError
from asyncworker.iterate import TaskSource

WAIT_S = 60.0


@pytest.fixture
def app() -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("sources", broker="memory://", set_as_current=False)
    asyncworker.install(app)
    yield app
    app.close()


@pytest.fixture
def item(app: Celery[Any]) -> Any:
    @app.task(name="item")
    async def item(n: Any) -> Any:
        return n

    return item


async def test_a_generator_task_that_blocks_between_its_values_blocks_nobody_else(app: Celery[Any], item: Any) -> None:
    went_on = threading.Event()

    @app.task
    def numbers() -> Any:
        for _ in range(3):
            went_on.clear()
            # Set by the loop, which must be free meanwhile.
            yield went_on.wait(WAIT_S)

    async def tick() -> None:
        while True:
            went_on.set()
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    try:
        assert await item.iterate(n=numbers.s()).run() == [True, True, True]
    finally:
        ticking.cancel()


@pytest.mark.parametrize("mode", ["product", "zip"])
async def test_it_is_read_and_closed_on_one_thread(app: Celery[Any], item: Any, mode: Any) -> None:
    threads: set[int] = set()
    closed = threading.Event()

    @app.task
    def numbers(count: int) -> Any:
        try:
            for n in range(count):
                threads.add(threading.get_ident())
                yield n
        finally:
            threads.add(threading.get_ident())
            closed.set()

    assert await item.iterate(mode=mode, n=numbers.s(3000)).run() == list(range(3000))
    assert await asyncio.to_thread(closed.wait, WAIT_S)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_it_is_closed_where_the_run_stops_early(app: Celery[Any]) -> None:
    closed = threading.Event()

    @app.task
    def numbers() -> Any:
        try:
            n = 0
            while True:
                yield (n := n + 1)
        finally:
            closed.set()

    @app.task
    async def picky(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(ValueError, match="1"):
        await picky.partial().options(on_error="fail_fast", concurrency=1).iterate(n=numbers.s()).run()
    assert await asyncio.to_thread(closed.wait, WAIT_S)


async def test_what_it_raises_in_the_middle_comes_after_the_values_before(app: Celery[Any]) -> None:
    seen = []

    @app.task
    def numbers() -> Any:
        yield from range(5)
        raise OSError("gone")

    @app.task
    async def see(n: int) -> None:
        seen.append(n)

    with pytest.raises(SourceError, match="raised after 5 items: OSError: gone"):
        await see.iterate(n=numbers.s()).run()
    assert seen == list(range(5))


@pytest.mark.promise("source-may-be-a-task")
async def test_kinds_of_tasks_that_are_sources(app: Celery[Any], item: Any) -> None:
    @app.task
    def listed() -> Any:
        return [1, 2]

    @app.task
    def mapped() -> Any:
        return map(int, "12")

    @app.task(bind=True)
    def bound(self: Any, upto: int) -> Any:
        assert self.name.endswith("bound")
        yield from range(1, upto)

    @app.task(name="itself")
    async def itself(n: int = 0) -> Any:
        return n if n else [1, 2]

    @app.task
    def rows() -> Any:
        yield {"n": 1}
        yield {"n": 2}

    for source in (listed.s(), mapped.s(), bound.s(3), itself.s()):
        assert await item.iterate(n=source).run() == [1, 2]
    assert await itself.iterate(n=itself.s()).run() == [1, 2]
    assert await item.iterate_kwargs(rows.s()).run() == [1, 2]


@pytest.mark.parametrize(
    "of", ["chain", "group", "chord", "fan-out", "map", "chunks", "name", "task", "function", "options"]
)
async def test_what_cannot_be_a_source_is_refused_where_it_is_said(app: Celery[Any], item: Any, of: str) -> None:
    async def coroutine_function() -> list[int]:
        return [1]

    source, reason = {
        "chain": (chain(item.s(1), item.s()), "celery.chain cannot be a source"),
        "group": (group(item.s(1), item.s(2)), "celery.group cannot be a source"),
        "chord": (chord([item.s(1), item.s(2)], item.s()), "celery.chord cannot be a source"),
        "fan-out": (item.iterate(n=[1]), "a fan-out cannot be the source of another"),
        "map": (item.map([1]), "celery.map cannot be a source"),
        "chunks": (item.chunks([(1,)], 1), "celery.chunks cannot be a source"),
        "name": (TaskSource("asyncworker.iterate"), "a fan-out cannot be the source of another"),
        "task": (item, r"n is the task item itself: give its signature"),
        "function": (coroutine_function, "coroutine function .*: await it"),
        "options": (item.s(1).set(queue="special"), r"source task item has options \(queue\)"),
    }[of]
    with pytest.raises(SourceError, match=reason):
        item.iterate(n=source)
    # Also where a message says so that was not built here.
    if of == "fan-out":
        wire = {"kind": "product", "columns": [{"name": "n", "task": {"task": "asyncworker.iterate"}}]}
        from asyncworker.iterate import execute_run, make_options, source_from_wire
        from asyncworker.tasks.calling import opener

        with pytest.raises(SourceError, match=reason):
            await execute_run(item.run, source_from_wire(wire, opener(app)), make_options())


async def test_the_source_that_nobody_knows_is_named(app: Celery[Any], item: Any) -> None:
    with pytest.raises(SourceError, match="'nobody' is not registered"):
        await item.iterate(n=app.signature("nobody")).run()
