"""Items on a real worker: what they may raise, where they run, what is logged of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from asyncworker import AsyncTask, ItemErrors
from tests.integration import tasks
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__
APP = "tests.integration.item_log_app"


@pytest.fixture
def node(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> Iterator[Worker]:
    node = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_SYNC_THREADS": "3"}, app=APP)
    yield node
    # Whatever its items have raised, it lives, and takes the next task.
    assert node.returncode is None
    assert client.tasks["t.add"].delay(1, 2).get(timeout=GET_S) == 3


def failed(client: Celery[AsyncTask], task: str, what: list[str], **options: Any) -> list[tuple[str, str]]:
    result = client.tasks[task].partial().options(**options).iterate(what=what).delay()
    with pytest.raises(ItemErrors):
        result.get(timeout=GET_S)
    assert result.results() == ["fine", "fine"]
    return [(failure.type.rpartition(".")[2], failure.message) for failure in result.errors()]


@pytest.mark.promise("item-fails-alone")
def test_nothing_that_an_item_raises_hangs_or_kills(node: Worker, client: Celery[AsyncTask]) -> None:
    kinds = ["base", "cancelled", "interrupt", "exit", "closed", "timeout", "child", "cancels itself"]
    told = failed(client, "t.raises", ["fine", *kinds, "fine"], item_timeout_s=30, concurrency=3)
    assert [kind for kind, _ in told] == [
        "Odd", "CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "TimeoutError", "SystemExit",
        "CancelledError",
    ]  # fmt: skip


def test_nothing_that_an_item_in_a_thread_raises_hangs_or_kills(node: Worker, client: Celery[AsyncTask]) -> None:
    kinds = ["base", "cancelled", "interrupt", "exit", "closed", "timeout", "stop"]
    told = failed(client, "t.raises_in_a_thread", ["fine", *kinds, "fine"], concurrency=3)
    assert [kind for kind, _ in told] == [
        "Odd", "CancelledError", "KeyboardInterrupt", "SystemExit", "RuntimeError", "TimeoutError", "RuntimeError",
    ]  # fmt: skip


def test_sync_items_run_in_bounded_threads_and_know_themselves(node: Worker, client: Celery[AsyncTask]) -> None:
    fan_out = client.tasks["t.thread_item"].partial().options(concurrency=50, key="number", results="inline")
    values = fan_out.iterate(number=range(100, 160)).delay().get(timeout=GET_S)
    assert [value[:3] for value in values] == [[index, 100 + index, 1] for index in range(60)]
    assert all(name.startswith("asyncworker-thread") for *_, name, _ in values)
    assert max(most for *_, most in values) <= 3


@pytest.mark.promise("log-records-name-their-item")
def test_records_of_an_item_tell_which(node: Worker, client: Celery[AsyncTask]) -> None:
    fan_out = client.tasks["t.thread_item"].partial().options(key="number")
    result = fan_out.iterate(number=[7, 8]).delay()
    result.get(timeout=GET_S)
    node.wait_for_log(f"INFO <0 7 1 {result.id}> in a thread")
    node.wait_for_log(f"INFO <1 8 1 {result.id}> in a thread")
    assert re.search(r"INFO <None None None None> Task asyncworker\.iterate", node.log())


def test_failures_come_through_the_result_as_they_were(node: Worker, client: Celery[AsyncTask]) -> None:
    """As JSON: the one as itself, several as a group that counts them and holds the first ones."""
    picky = client.tasks["t.picky"]
    with pytest.raises(ValueError, match=r"^7 is not wanted$"):
        picky.iterate(number=range(10)).delay().get(timeout=GET_S)
    with pytest.raises(ItemErrors) as caught:
        picky.iterate(number=range(1000)).delay().get(timeout=GET_S)
    assert caught.value.message.startswith("100 of 1,000 items failed; first: item 7 (number=7): ValueError: 7 is not")
    told = [str(each) for each in caught.value.exceptions]
    assert told == [
        f"item {number} (number={number}): ValueError: {number} is not wanted" for number in range(7, 200, 10)
    ]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.promise("max-failures-stops")
def test_a_run_stops_once_too_many_have_failed(node: Worker, client: Celery[AsyncTask], partitions: int) -> None:
    picky = client.tasks["t.picky"].partial().options(max_failures=30, concurrency=1, partitions=partitions)
    result = picky.iterate(number=range(100_000)).delay()
    with pytest.raises(ItemErrors, match=r"of 100,000 items failed"):
        result.get(timeout=GET_S)
    progress = result.progress()
    assert (progress.state, progress.complete) == ("failed", False)
    assert progress.error == "stopped: more than 30 items failed"
    assert 30 < progress.failed <= 30 + 31 * partitions
    assert len(result.errors(limit=100_000)) == progress.failed


def test_a_named_run_is_told_by_its_name(node: Worker, client: Celery[AsyncTask]) -> None:
    picky = client.tasks["t.picky"].partial().options(name="nightly", concurrency=10)
    result = picky.iterate(number=range(1000)).delay()
    with pytest.raises(ItemErrors, match=r"nightly: 100 of 1,000 items failed; first: item 7"):
        result.get(timeout=GET_S)
    node.wait_for_log("80 more items failed")
    lines = [line for line in node.log().splitlines() if f"run nightly ({result.id})" in line]
    assert len(lines) <= 22
