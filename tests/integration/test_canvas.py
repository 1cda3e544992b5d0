"""More tasks at once than the broker's pool has connections send others with Celery's canvas: no one waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from tests.integration import canvas_tasks
from tests.servers.client import wait_until_listening
from tests.servers.worker import Worker

#: Several times the largest pool of connections here.
AT_ONCE = 40
TIMEOUT_S = 150

#: What a task sends, and what it comes to.
WAYS = {
    "group": 1,
    "group of one": 1,
    "chord": 6,
    "chord with a sync body": 6,
    "chain of groups": 7,
    "group of chords": 6,
    "group of chains": 7,
    "by name": 3,
    "revoke": 3,
    "forget": 3,
    "raw producer": 3,
    "raw connection": 3,
}

POOL_LIMITS = ["1", "2", "10", "0"]


@pytest.fixture
def node(worker: Callable[..., Worker], client: Celery[Any]) -> Callable[..., Worker]:
    def start(limit: str, **env: str) -> Worker:
        arguments = ("--without-mingle", "--without-gossip", "-c", "500")
        started = worker(canvas_tasks.__name__, *arguments, env={"CANVAS_POOL_LIMIT": limit, **env})
        wait_until_listening(client, started.name)
        return started

    return start


def outcomes(client: Celery[Any], sent: list[Any]) -> list[Any]:
    """The outcomes of what tasks have sent, whose ids they return; a worker that hangs is seen by its silence."""
    ids = [result.get(timeout=TIMEOUT_S) for result in sent]
    answers(client)
    return [client.AsyncResult(task_id).get(timeout=TIMEOUT_S) for task_id in ids]


def answers(client: Celery[Any]) -> None:
    assert client.control.inspect(timeout=60, limit=1).ping()


def check_that_many_send_everything_at_once(client: Celery[Any], many: int) -> None:
    """Run that many tasks at once, each of which sends all of the canvas; ping the worker until the last has ended."""
    sent = [client.send_task("c.sends_all_and_replaces", (many,)) for _ in range(many)]
    answers(client)
    for result in sent:
        while not result.ready():
            answers(client)
    ids = [result.get(timeout=TIMEOUT_S) for result in sent]
    came_to = [[client.AsyncResult(task_id).get(timeout=TIMEOUT_S) for task_id in of_one] for of_one in ids]
    assert came_to == [[WAYS[way] for way in ("group", "chord", "chain of groups")]] * many


@pytest.mark.parametrize(
    ("limit", "io_threads"), [("1", "1"), ("1", "8"), ("2", "8"), ("10", "1"), ("10", "8"), ("0", "8")]
)
def test_many_tasks_that_send_at_once_all_end(
    node: Callable[..., Worker], client: Celery[Any], limit: str, io_threads: str
) -> None:
    started = node(limit, ASYNCWORKER_IO_THREADS=io_threads)
    many = 5 if io_threads == "1" else AT_ONCE // 4
    sent = [client.send_task("c.sends", (way,)) for _ in range(many) for way in WAYS]
    answers(client)
    assert outcomes(client, sent) == [*WAYS.values()] * many
    assert started.stop() == 0


@pytest.mark.parametrize("limit", POOL_LIMITS)
def test_many_chains_whose_next_step_is_a_group(node: Callable[..., Worker], client: Celery[Any], limit: str) -> None:
    started = node(limit)
    step = client.signature("c.add", (1,))
    sent = [chain(client.signature("c.add", (1, 1)), group(step, step, step)).apply_async() for _ in range(AT_ONCE)]
    linked = [client.send_task("c.add", (1, 1), link=[group(step, step), step]) for _ in range(AT_ONCE)]
    answers(client)
    assert [result.get(timeout=TIMEOUT_S) for result in sent] == [[3, 3, 3]] * AT_ONCE
    assert [result.get(timeout=TIMEOUT_S) for result in linked] == [2] * AT_ONCE
    assert started.stop() == 0


@pytest.mark.parametrize("limit", POOL_LIMITS)
def test_many_tasks_that_replace_themselves(node: Callable[..., Worker], client: Celery[Any], limit: str) -> None:
    started = node(limit)
    expected = {"group": [1, 2, 3], "chord": 6, "chain": 6}
    sent = [client.send_task("c.replace", (way,)) for _ in range(AT_ONCE // 2) for way in expected]
    answers(client)
    assert [result.get(timeout=TIMEOUT_S) for result in sent] == [*expected.values()] * (AT_ONCE // 2)
    grown = [
        chord([client.signature("c.add_to_chord")] * 2, client.signature("c.total")).apply_async()
        for _ in range(AT_ONCE // 2)
    ]
    assert [result.get(timeout=TIMEOUT_S) for result in grown] == [22] * (AT_ONCE // 2)
    assert started.stop() == 0


@pytest.mark.parametrize("limit", ["1", "2", "10"])
def test_two_hundred_tasks_send_everything_at_once_and_the_worker_answers_throughout(
    node: Callable[..., Worker], client: Celery[Any], limit: str
) -> None:
    started = node(limit)
    check_that_many_send_everything_at_once(client, 200)
    assert started.stop() == 0


@pytest.mark.parametrize("limit", POOL_LIMITS)
def test_a_producer_held_across_an_await_keeps_nobody_waiting(
    node: Callable[..., Worker], client: Celery[Any], limit: str
) -> None:
    started = node(limit)
    assert outcomes(client, [client.send_task("c.held") for _ in range(AT_ONCE)]) == [3] * AT_ONCE
    assert started.stop() == 0


@pytest.mark.parametrize("limit", ["1", "10"])
def test_child_tasks_that_send_end_as_well(node: Callable[..., Worker], client: Celery[Any], limit: str) -> None:
    started = node(limit)
    ways = [way for way in WAYS if way != "revoke"]
    sent = [client.send_task("c.children", (way,)) for _ in range(3) for way in ways]
    assert outcomes(client, sent) == [WAYS[way] for way in ways] * 3
    assert started.stop() == 0


def test_a_task_that_waits_for_another_is_told_by_redis(node: Callable[..., Worker], client: Celery[Any]) -> None:
    node("10")
    assert client.send_task("c.waits").get(timeout=TIMEOUT_S) == [3, "RedisWatch"]


def test_waiting_for_a_result_on_the_loop_is_refused_and_names_what_to_await(
    node: Callable[..., Worker], client: Celery[Any]
) -> None:
    node("10")
    told = [client.send_task("c.blocks", (of,)).get(timeout=TIMEOUT_S) for of in ("name", "task", "group")]
    assert all("await aget()" in each for each in told), told


@pytest.mark.parametrize("name", ["c.add", "c.add_sync"])
def test_map_starmap_and_chunks_call_an_async_task_as_well(
    node: Callable[..., Worker], client: Celery[Any], name: str
) -> None:
    started = node("10")
    task, pairs = client.tasks[name], [(number, 1) for number in range(7)]
    assert task.map([1, 2]).apply_async().get(timeout=TIMEOUT_S) == [1, 2]
    assert task.starmap(pairs).apply_async().get(timeout=TIMEOUT_S) == list(range(1, 8))
    assert task.chunks(pairs, 3).group().apply_async().get(timeout=TIMEOUT_S) == [[1, 2, 3], [4, 5, 6], [7]]
    with pytest.raises(TypeError):  # of one row; those after it do not run
        task.starmap([(1, 1), (1, 2, 3, 4), (1, 1)]).apply_async().get(timeout=TIMEOUT_S)
    assert "never awaited" not in started.log()
    assert started.stop() == 0
