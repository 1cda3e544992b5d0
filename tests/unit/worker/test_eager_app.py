"""The app that an async task sees where it runs eagerly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state, current_app, shared_task

import asyncworker
from asyncworker.loop import get_loop_thread

state: Any = _state


@shared_task(name="eager.app")
async def app_of_body() -> str:
    await asyncio.sleep(0)
    return str(current_app.main)


@shared_task(name="eager.outer")
async def outer() -> str:
    """Call a shared task, as ``delay`` does in any code."""
    return str(app_of_body.delay().get(disable_sync_subtasks=False))


@pytest.fixture
def eager_app() -> Iterator[Celery]:
    before = state._tls.current_app
    app = Celery("own", broker="memory://", backend="cache+memory://")
    asyncworker.install(app)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    try:
        yield app
    finally:
        state._set_current_app(before)
        app.close()


async def app_of_loop() -> Any:
    return state._tls.current_app


@pytest.mark.parametrize("task", ["eager.app", "eager.outer"])
def test_an_eager_async_task_and_what_it_calls_see_its_app(eager_app: Celery, task: str) -> None:
    before = get_loop_thread().run(app_of_loop())
    assert eager_app.tasks[task].delay().get() == "own"
    assert get_loop_thread().run(app_of_loop()) is before


def test_so_they_do_on_a_running_loop(eager_app: Celery) -> None:
    async def main() -> Any:
        return eager_app.tasks["eager.outer"].delay().get()

    assert asyncio.run(main()) == "own"
