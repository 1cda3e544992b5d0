"""Resources in a real worker: shared by tasks and items, closed in reverse order when it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from celery import Celery

from asyncworker.errors import SettingsError
from tests.integration import resource_tasks
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = resource_tasks.__name__


@pytest.mark.promise("resource-is-made-once")
def test_tasks_and_items_share_what_a_process_has_made(
    client: Celery[Any], worker: Callable[..., Worker], tmp_path: Path
) -> None:
    log = tmp_path / "resources.log"
    running = worker(MODULE, env={resource_tasks.LOG: str(log)})
    tasks = client.tasks

    asked = [
        tasks["r.plain"].delay(1),
        tasks["r.plain"].delay(number=2),
        tasks["r.first"].delay(3),
        tasks["r.first"].delay(4, more=1),
        tasks["r.bound"].delay(5),
        tasks["r.pydantic"].delay({"number": 6}),
        tasks["r.pydantic_bound"].delay({"number": 7}),
        tasks["r.numbers"].delay(3),
        tasks["r.asks"].delay(8),
    ]
    got = [result.get(timeout=GET_S) for result in asked]
    assert got == [2, 4, 6, 9, 10, {"number": 12}, {"number": 14}, [0, 2, 4], 16]

    inline = tasks["r.plain"].partial().options(results="inline")
    assert inline.iterate(number=tasks["r.numbers"].s(4)).delay().get(timeout=GET_S) == [0, 4, 8, 12]
    assert running.stop() == 0
    assert log.read_text().splitlines() == [
        "address made",
        "client made for shop.example.com",
        "client closed",
        "address closed",
    ]


def test_a_task_and_an_item_have_their_own(client: Celery[Any], worker: Callable[..., Worker], tmp_path: Path) -> None:
    log = tmp_path / "resources.log"
    running = worker(MODULE, env={resource_tasks.LOG: str(log)})
    tasks = client.tasks
    tasks["r.in_session"].delay(1).get(timeout=GET_S)
    tasks["r.in_session"].delay(2).get(timeout=GET_S)
    task = ["session made", "body", "session closed"]
    assert log.read_text().splitlines()[2:] == task * 2

    tasks["r.with_cursor"].delay(1).get(timeout=GET_S)
    alone = ["session made", "cursor made", "cursor closed", "session closed"]
    assert log.read_text().splitlines()[8:] == alone

    result = tasks["r.with_cursor"].partial().options(concurrency=1).iterate(number=range(3)).delay()
    result.get(timeout=GET_S)
    assert result.results() == [0, 1, 2]
    lines = log.read_text().splitlines()[12:]
    assert lines == ["session made", *["cursor made", "cursor closed"] * 3, "session closed"]
    assert running.stop() == 0


def test_the_caller_is_not_asked_for_resources(client: Celery[Any]) -> None:
    with pytest.raises(TypeError):
        client.tasks["r.plain"].delay()
    with pytest.raises(TypeError):
        client.tasks["r.plain"].delay(1, 2)


async def test_a_task_that_is_called_directly_is_filled(
    client: Celery[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(resource_tasks.LOG, str(tmp_path / "resources.log"))

    class Fake:
        async def double(self, number: int) -> int:
            return -number

    with resource_tasks.client.override(Fake()):
        assert await client.tasks["r.plain"](1) == -1
        assert await client.tasks["r.asks"](2) == -2
        assert await client.tasks["r.plain"].partial().iterate(number=[3, 4]).run() == [-3, -4]


def test_a_sync_task_cannot_ask_for_one(client: Celery[Any]) -> None:
    with pytest.raises(SettingsError, match=r"task sync is not async: its parameter 'client'"):

        @client.task(name="sync", lazy=False, shared=False)
        def sync(client: Annotated[Any, resource_tasks.client]) -> None: ...
