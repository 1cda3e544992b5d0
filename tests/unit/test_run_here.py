"""A fan-out without a worker: run twice, failed in part, and eagerly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import asyncworker
from asyncworker.errors import SourceError


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("here", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.asyncworker_state_dir = str(tmp_path)
    asyncworker.install(app)
    yield app
    app.close()


@pytest.fixture
def item(app: Celery[Any]) -> Any:
    @app.task(name="item")
    async def item(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        return n

    return item


async def test_a_source_that_can_be_read_once_is_refused_the_second_time(item: Any) -> None:
    async def numbers() -> Any:
        yield 1

    for once in ((n for n in [1]), iter([1]), numbers(), map(int, "1")):
        fan_out = item.iterate(n=once)
        assert await fan_out.run() == [1]
        with pytest.raises(SourceError, match="read"):
            await fan_out.run()
    read = (n for n in [1])
    assert list(read) == [1]
    with pytest.raises(SourceError, match="was read to its end already"):
        item.iterate(n=read)
    for again in ([1], range(1, 2), {1: 1}.keys()):
        fan_out = item.iterate(n=again)
        assert [await fan_out.run(), await fan_out.run()] == [[1], [1]]


async def test_what_others_have_returned_is_not_lost_with_a_failure(item: Any) -> None:
    outcome = await item.iterate(n=[1, -1, 2]).run(collect=True)
    assert outcome.results == [(0, 1), (2, 2)]
    assert [failure.index for failure in outcome.failures] == [1]
    assert not outcome.ok
    assert isinstance(outcome.exceptions[0], ValueError)


def test_an_eager_result_has_what_that_of_a_worker_has(app: Celery[Any], item: Any) -> None:
    result = item.iterate(n=(n for n in [1, -1, 2])).apply()
    assert result.state == "FAILURE"
    assert result.results() == [1, 2]
    assert [error.index for error in result.errors()] == [1]
    assert result.progress().done == 2
    assert list(result.iter_results()) == [(0, 1), (2, 2)]
    with pytest.raises(ValueError, match="-1"):
        result.get()
    app.conf.task_always_eager = True
    eager = item.iterate(n=[3]).delay()
    assert (eager.get()["done"], eager.results(), eager.errors()) == (1, [3], [])


def test_no_store_is_imported_on_the_loop() -> None:
    script = """
import asyncio, sys, threading
from asyncworker.settings import load_settings
from asyncworker.store import shared_store
from asyncworker.loop import get_loop_thread

where = set()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sqlalchemy", "aiosqlite"):
            where.add(threading.get_ident())

sys.meta_path.insert(0, Watch())
assert "sqlalchemy" not in sys.modules
loop = get_loop_thread()
loop.run(shared_store(load_settings({"ASYNCWORKER_STATE_DIR": sys.argv[1]})))
assert where and loop.ident not in where, where
print("off the loop")
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
    assert ran.stdout == "off the loop\n", ran.stderr


async def test_an_item_that_is_an_async_generator_gives_the_list_of_what_it_yields(app: Celery[Any]) -> None:
    @app.task(name="pair")
    async def pair(n: int) -> AsyncIterator[int]:
        yield n
        if n < 0:
            raise ValueError(n)
        yield n + 1

    assert await pair.iterate(n=[1, 2]).run() == [[1, 2], [2, 3]]
    assert pair.partial().options(results="inline").iterate(n=[1, 2]).apply().get() == [[1, 2], [2, 3]]
    outcome = await pair.iterate(n=[1, -1]).run(collect=True)
    assert [failure.type for failure in outcome.failures] == ["ValueError"]
