"""Fan-outs through a real broker, worker and store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord

from asyncworker import AsyncTask, ItemErrors, IterateResult, previous_result
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import ArgumentError, RunCancelled, RunHeld, RunNotFound, SettingsError, SourceError
from asyncworker.tasks.names import RUN_ITERATE
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.worker import running_worker

GET_S = 120.0
MODULE = tasks.__name__


@pytest.fixture(scope="module")
def app(_valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery[AsyncTask]]:
    folder = tmp_path_factory.mktemp("iterate")
    env = {
        "ASYNCWORKER_BROKER_URL": _valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": _valkey.result_url,
        "ASYNCWORKER_INCLUDE": MODULE,
        "ASYNCWORKER_STATE_DIR": str(folder),
    }
    with redis.Redis.from_url(_valkey.redis_url) as connection:
        connection.flushall()
    with (
        running_worker(folder, "--without-mingle", env=env),
        client_app(_valkey, asyncworker_state_dir=str(folder)) as client,
    ):
        yield client


def finished(signature: Any) -> IterateResult:
    result = signature.delay()
    assert isinstance(result, IterateResult)
    result.get(timeout=GET_S)
    return result


def test_a_list_is_run_once_each_and_results_come_in_order(app: Celery[AsyncTask]) -> None:
    result = finished(app.tasks["t.item"].partial(base=100).iterate(number=[3, 1, 2]))
    assert result.results() == [106, 102, 104]
    progress = result.progress()
    assert (progress.state, progress.done, progress.total, progress.failed) == ("done", 3, 3, 0)
    assert result.errors() == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (range(5), [0, 2, 4, 6, 8]),
        ((n for n in range(3)), [0, 2, 4]),
        (iter([4]), [8]),
        ([], []),
    ],
)
def test_kinds_of_sources(app: Celery[AsyncTask], source: Any, expected: list[int]) -> None:
    task = app.tasks["t.item"].partial().options(results="inline")
    assert task.iterate(number=source).delay().get(timeout=GET_S) == expected


@pytest.mark.promise("source-may-be-a-task")
def test_a_task_is_a_lazy_source(app: Celery[AsyncTask]) -> None:
    result = finished(app.tasks["t.item"].iterate(number=app.tasks["t.numbers"].s(5000)))
    assert result.results() == [2 * n for n in range(5000)]
    assert result.progress().total == 5000


def test_a_dict_gives_pairs_and_keywords_multiply(app: Celery[AsyncTask]) -> None:
    add = app.tasks["t.add"].partial().options(results="inline")
    assert add.iterate(x=[10, 20], y=[1, 2]).delay().get(timeout=GET_S) == [11, 12, 21, 22]
    assert add.iterate(mode="zip", x=[10, 20], y=[1, 2]).delay().get(timeout=GET_S) == [11, 22]
    rows = [{"x": 1, "y": 1}, {"x": 2, "y": 2}]
    assert add.iterate_kwargs(rows).delay().get(timeout=GET_S) == [2, 4]
    total = app.tasks["t.total"].partial().options(results="inline")
    assert total.iterate(numbers={1: 2, 3: 4}).delay().get(timeout=GET_S) == [3, 7]


def test_sync_tasks_are_items_too(app: Celery[AsyncTask]) -> None:
    task = app.tasks["t.sync_item"].partial().options(results="inline")
    assert task.iterate(number=range(100)).delay().get(timeout=GET_S) == [-n for n in range(100)]


@pytest.mark.promise("fan-out-in-canvas")
def test_in_a_chain_and_a_chord(app: Celery[AsyncTask]) -> None:
    items = app.tasks["t.item"].partial().options(results="inline")
    fan_out = items.iterate(number=previous_result)
    chained = chain(app.tasks["t.numbers"].s(3), fan_out, app.tasks["t.add_up"].s(), app=app)
    assert chained.delay().get(timeout=GET_S) == 6
    header = [items.iterate(number=[1]), items.iterate(number=[2])]
    body = app.tasks["t.total"].s()
    with pytest.raises(Exception, match="unsupported operand"):  # the body gets a list of lists, as of any header
        chord(header, body, app=app).delay().get(timeout=GET_S)


def test_expand_is_a_message_an_item(app: Celery[AsyncTask]) -> None:
    assert app.tasks["t.add"].partial(x=1).expand(y=[1, 2, 3]).delay().get(timeout=GET_S) == [2, 3, 4]


@pytest.mark.promise("all-items-run")
def test_one_failure_is_raised_as_itself_and_the_others_are_done(app: Celery[AsyncTask]) -> None:
    result = app.tasks["t.picky"].iterate(number=range(10)).delay()
    with pytest.raises(ValueError, match="7 is not wanted"):
        result.get(timeout=GET_S)
    (failure,) = result.errors()
    assert (failure.index, failure.type, failure.message, failure.attempt) == (7, "ValueError", "7 is not wanted", 1)
    assert failure.key == "number=7"
    assert result.results() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert result.progress().state == "failed"


@pytest.mark.promise("failures-are-a-group")
def test_several_failures_are_raised_together(app: Celery[AsyncTask]) -> None:
    result = app.tasks["t.picky"].partial().options(retries=2, backoff_s=0.01).iterate(number=range(30)).delay()
    with pytest.raises(ItemErrors, match="3 of 30 items failed"):
        result.get(timeout=GET_S)
    assert [(failure.index, failure.attempt) for failure in result.errors()] == [(7, 3), (17, 3), (27, 3)]
    assert [failure.index for failure in result.errors(offset=1, limit=1)] == [17]


@pytest.mark.promise("fail-fast-stops")
def test_fail_fast_stops(app: Celery[AsyncTask]) -> None:
    picky = app.tasks["t.picky"].partial().options(on_error="fail_fast", concurrency=1)
    result = picky.iterate(number=range(1000)).delay()
    with pytest.raises(ValueError, match="7 is not wanted"):
        result.get(timeout=GET_S)
    assert result.progress().done == 7


def test_cancel_and_resume(app: Celery[AsyncTask], tmp_path: Path) -> None:
    log, gate, first = tmp_path / "log", tmp_path / "gate", 100
    gated = app.tasks["t.gated_logged"].partial(gate=str(gate), log=str(log), first=first)
    result = gated.options(concurrency=10, checkpoint_every_s=0.05).iterate(number=range(1500)).delay()
    while result.progress().done < first:
        time.sleep(0.02)
    result.cancel()
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    stopped = result.progress()
    assert stopped.state == "cancelled"
    assert stopped.done == first
    gate.touch()
    assert result.resume().get(timeout=GET_S)["resumed"] == stopped.done
    assert result.results() == list(range(1500))
    assert set(log.read_text().split()) == {str(n) for n in range(1500)}


@pytest.mark.promise("resume-refuses-a-held-run")
def test_a_run_that_somebody_runs_is_resumed_by_force_only(app: Celery[AsyncTask], tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    slow = app.tasks["t.gated_logged"].partial(log=str(log), gate=str(gate)).options(concurrency=20)
    result = slow.iterate(number=range(40)).delay()
    while result.progress().done < 10:
        time.sleep(0.02)
    with pytest.raises(
        RunHeld, match=rf"run {result.id} of t.gated_logged: process \d+ on .* runs it, and wrote to it"
    ):
        result.resume()
    assert result.progress().attempt == 1
    result.resume(force=True)
    while result.progress().attempt < 2:
        time.sleep(0.02)
    gate.touch()
    assert result.get(timeout=GET_S)["done"] == 40
    # Those that were done are not run again; those in flight are, which is why it is asked for.
    runs = Counter(log.read_text().split())
    assert sorted(map(int, runs)) == list(range(40))
    assert {number for number, count in runs.items() if count > 1} <= {str(number) for number in range(10, 40)}


def test_resume_runs_the_failed_again(app: Celery[AsyncTask]) -> None:
    result = app.tasks["t.picky"].iterate(number=range(10)).delay()
    with pytest.raises(ValueError, match="not wanted"):
        result.get(timeout=GET_S)
    with pytest.raises(ValueError, match="not wanted"):
        result.retry_failed().get(timeout=GET_S)
    assert result.progress().resumed == 9
    assert result.progress().attempt == 2


async def test_everything_can_be_awaited(app: Celery[AsyncTask]) -> None:
    result = await app.tasks["t.item"].iterate(number=[1, 2]).adelay()
    assert isinstance(result, IterateResult)
    while (await result.aprogress()).state in ("pending", "running"):
        await asyncio.sleep(0.02)
    assert await result.aresults() == [2, 4]
    assert await result.aerrors() == []


@pytest.mark.promise("run-needs-no-broker")
async def test_run_needs_no_broker(app: Celery[AsyncTask]) -> None:
    async def numbers() -> Any:
        for number in range(5):
            await asyncio.sleep(0)
            yield number

    assert await app.tasks["t.item"].partial(base=1).iterate(number=numbers()).run() == [1, 3, 5, 7, 9]
    with pytest.raises(ItemErrors):
        await app.tasks["t.picky"].iterate(number=range(20)).run()


def test_what_is_refused_before_anything_is_sent(app: Celery[AsyncTask]) -> None:
    item = app.tasks["t.item"]

    async def numbers() -> Any:
        yield 1

    generator = numbers()
    with pytest.raises(SourceError, match="cannot travel to a worker"):
        item.iterate(number=generator).delay()
    with pytest.raises(SourceError, match="base is both fixed and iterated"):
        item.partial(base=1).iterate(base=[1])
    with pytest.raises(SourceError, match="at least one keyword"):
        item.iterate()
    with pytest.raises(SourceError, match="give a list"):
        item.iterate(number="12")
    with pytest.raises(SourceError, match="equal lengths"):
        item.iterate(mode="zip", number=[1, 2], base=[1])
    with pytest.raises(SettingsError, match="concurrency is 0"):
        item.partial().options(concurrency=0)
    with pytest.raises(SettingsError, match="concurency"):
        item.partial().options(concurency=1)


@pytest.mark.promise("worker-refuses-wrong-arguments")
@pytest.mark.parametrize("partitions", [1, 2])
def test_a_worker_refuses_arguments_that_the_task_does_not_take_before_any_item_runs(
    app: Celery[AsyncTask], partitions: int
) -> None:
    right = app.tasks["t.item"].partial(base=1).options(partitions=partitions).iterate(number=[1, 2])
    # By name, as a client sends it that has no such task.
    for change, message in [
        ({"partial": {"bass": 1}}, "t.item has no parameter 'bass'; it has number, base, pause_s, log"),
        ({"partial": {}, "source": right.kwargs["source"] | {"columns": [{"name": "base", "values": [1, 2]}]}},
         "t.item needs 'number'; given: base"),
    ]:  # fmt: skip
        sent = app.send_task(RUN_ITERATE, kwargs={**right.kwargs, **change})
        result = IterateResult(sent.id, app=app)
        with pytest.raises(ArgumentError) as refused:
            result.get(timeout=GET_S)
        assert str(refused.value) == message
        assert (refused.value.task, refused.value.parameters) == ("t.item", ("number", "base", "pause_s", "log"))
        progress = result.progress()
        assert (progress.done, progress.failed, progress.retried) == (0, 0, 0)


def test_a_fan_out_with_wrong_arguments_ends_its_chain(app: Celery[AsyncTask]) -> None:
    wrong = app.tasks["t.item"].iterate(number=previous_result).clone(kwargs={"partial": {"bass": 1}})
    result = chain(app.tasks["t.numbers"].si(2), wrong, app.tasks["t.total"].s()).delay()
    with pytest.raises(ArgumentError, match=r"t\.item has no parameter .bass."):
        result.get(timeout=GET_S)


def test_an_unknown_source_task_or_target_is_named(app: Celery[AsyncTask]) -> None:
    result = app.tasks["t.item"].iterate(number=app.signature("t.nobody")).delay()
    with pytest.raises(SourceError, match=r"'t\.nobody' is not registered"):
        result.get(timeout=GET_S)


def test_a_run_nobody_knows(app: Celery[AsyncTask]) -> None:
    result = IterateResult("no-such-run", app=app)
    assert result.progress().state == "pending"
    with pytest.raises(RunNotFound):
        result.resume()
