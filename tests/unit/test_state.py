"""``asyncworker.state`` where no worker of ours runs: eagerly, outside of a task, with what cannot be stored."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import asyncworker
from asyncworker import state
from asyncworker.errors import StateError, StateTooLarge
from asyncworker.loop import get_loop_thread
from asyncworker.resources import lifetimes


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.asyncworker_state_dir = str(tmp_path)
    app.conf.asyncworker_state_max_bytes = 1000
    asyncworker.install(app)
    yield app

    async def close() -> None:
        await lifetimes().close()

    get_loop_thread().run(close())
    app.close()


def test_values_are_there_for_the_same_task_id_alone(app: Celery[Any]) -> None:
    @app.task(name="unit.count")
    async def count() -> int:
        seen: int = await state.get("seen", 0)
        await asyncio.gather(*[state.set(str(number), number) for number in range(10)])
        await state.set("seen", seen + 1)
        return seen

    ids = ["a", "b", "a", "a"]
    assert [count.apply(task_id=task_id).get() for task_id in ids] == [0, 0, 1, 2]


def test_a_task_that_is_not_async_has_the_blocking_twin(app: Celery[Any]) -> None:
    @app.task(name="unit.count_blocking")
    def count() -> int:
        seen: int = state.blocking.get("seen", 0)
        state.blocking.set("seen", seen + 1)
        state.blocking.flush()
        return seen

    assert [count.apply(task_id="a").get() for _ in range(3)] == [0, 1, 2]


def test_values_come_back_as_task_arguments_do(app: Celery[Any]) -> None:
    when = datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC)

    @app.task(name="unit.kinds")
    async def kinds() -> list[Any]:
        values = [None, True, 1.5, "ü\0", [1, {"a": []}], when]
        for number, value in enumerate(values):
            await state.set(str(number), value)
        await state.delete("1")
        await state.delete("not there")
        found = [await state.get(str(number), "nothing") for number in range(len(values) + 1)]
        found[4].append("of the caller's copy alone")
        found.append(await state.get("4"))
        await state.clear()
        return [*found, await state.get("0", "cleared")]

    found = kinds.apply().get()
    assert found == [
        None, "nothing", 1.5, "ü\0", [1, {"a": []}, "of the caller's copy alone"], when, "nothing", [1, {"a": []}],
        "cleared",
    ]  # fmt: skip


def test_a_state_that_grows_too_large_names_task_key_and_sizes(app: Celery[Any]) -> None:
    @app.task(name="unit.large")
    async def large() -> list[Any]:
        await state.set("cursor", "x" * 500)
        with pytest.raises(StateTooLarge) as caught:
            await state.set("pages", "y" * 500)
        await state.set("cursor", "z" * 900)  # in the place of the former
        return [str(caught.value), await state.get("pages"), len(await state.get("cursor"))]

    told, pages, length = large.apply(task_id="id-1").get()
    assert "unit.large[id-1]" in told
    assert "'pages' has 502 bytes" in told
    assert "would have 1,015; allowed are 1,000 (ASYNCWORKER_STATE_MAX_BYTES)" in told
    assert (pages, length) == (None, 900)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (1, 1, "the key 1 is of type int; expected a string"),
        ("key", object(), "the value of 'key' is <object"),
        ("\ud800", 1, "no text that can be stored"),
    ],
)
def test_what_cannot_be_stored_says_so(app: Celery[Any], key: Any, value: Any, reason: str) -> None:
    @app.task(name="unit.wrong")
    async def wrong() -> None:
        await state.set(key, value)

    with pytest.raises(StateError) as caught:
        wrong.apply(task_id="id-1").get()
    assert reason in str(caught.value)
    assert "unit.wrong[id-1]" in str(caught.value)


async def test_outside_of_a_task_there_is_none(app: Celery[Any]) -> None:
    @app.task(name="unit.direct")
    async def direct() -> None:
        await state.set("a", 1)

    for call in (state.get("a"), state.set("a", 1), state.delete("a"), state.clear(), state.flush(), direct()):
        with pytest.raises(StateError, match="only inside of a task"):
            await call


def test_outside_of_a_task_there_is_no_blocking_one_either() -> None:
    with pytest.raises(StateError, match="only inside of a task"):
        state.blocking.get("a")
