"""Fan-outs that are split over workers, of which one dies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain

from asyncworker import AsyncTask, IterateResult, previous_result
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import RunCancelled, SourceError
from tests.integration import tasks
from tests.servers.redelivery import redeliver
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__
#: One task at a time in each: a partition a worker.
ONE = ("--without-mingle", "-c", "1")


def started(workers: list[Worker], result: IterateResult) -> dict[str, Worker]:
    """Which worker has the whole run, and which have partitions of it, once all have something."""
    while True:
        logs = {worker: worker.log() for worker in workers}
        holder = [worker for worker in workers if f"asyncworker.iterate[{result.id}] received" in logs[worker]]
        others = [worker for worker in workers if "asyncworker.iterate_partition[" in logs[worker]]
        if holder and set(holder) | set(others) == set(workers):
            return {"holder": holder[0], "other": next(worker for worker in others if worker is not holder[0])}
        time.sleep(0.02)


@pytest.fixture
def workers(worker: Callable[..., Worker]) -> Iterator[list[Worker]]:
    env = {"ASYNCWORKER_LEASE_S": "3"}
    yield [worker(MODULE, *ONE, name=f"{name}@test", env=env) for name in ("one", "two")]


@pytest.mark.promise("partition-is-taken-over")
def test_the_range_of_a_killed_worker_is_taken_over(
    workers: list[Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    """The broker still waits for the dead one's acknowledgement; the run does not."""
    count, concurrency = 2000, 10
    log = tmp_path / "log"
    item = client.tasks["t.item"].partial(pause_s=0.05, log=str(log))
    result = item.options(concurrency=concurrency, partitions=2).iterate(number=range(count)).delay()
    lost = started(workers, result)["other"]
    while result.progress().done < count / 4:
        time.sleep(0.02)
    lost.kill()
    assert result.get(timeout=GET_S)["done"] == count
    assert result.results() == [2 * number for number in range(count)]
    ran = Counter(log.read_text().split())
    assert len(ran) == count
    # What was in flight, and what had finished since the last checkpoint, which a busy machine may store late.
    assert ran.total() <= count + concurrency + 1.0 / 0.05 * concurrency


def test_the_worker_that_holds_the_whole_is_killed(
    workers: list[Worker],
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    valkey: EmbeddedServer,
    tmp_path: Path,
) -> None:
    """Its message comes again, the other worker goes on meanwhile, and the end comes once."""
    count = 1600
    log, ends = tmp_path / "log", tmp_path / "ends"
    item = client.tasks["t.item"].partial(pause_s=0.02, log=str(log)).options(concurrency=10, partitions=2)
    fan_out = item.iterate(number=range(count))
    linked = fan_out.apply_async(link=client.tasks["t.logged_link"].si(str(ends)))
    lost = started(workers, linked)["holder"]
    while linked.progress().done < count / 4:
        time.sleep(0.02)
    lost.kill()
    lost.wait()
    redeliver(valkey)
    worker(MODULE, *ONE, name="three@test", env={"ASYNCWORKER_LEASE_S": "3"})
    assert linked.get(timeout=GET_S)["done"] == count
    assert linked.results() == [2 * number for number in range(count)]
    assert len(Counter(log.read_text().split())) == count
    while not ends.exists():
        time.sleep(0.02)
    assert ends.read_text() == "linked\n"


def test_cancel_reaches_all_and_resume_runs_the_rest(
    workers: list[Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    item = client.tasks["t.item"].partial(pause_s=0.05, log=str(log)).options(concurrency=5, partitions=3)
    result = item.iterate(number=range(1500)).delay()
    started(workers, result)
    while result.progress().done < 200:
        time.sleep(0.02)
    result.cancel()
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    stopped = len(log.read_text().split())
    assert stopped < 1500
    assert (result.progress().state, result.progress().done) == ("cancelled", stopped)
    assert result.resume().get(timeout=GET_S)["done"] == 1500
    assert result.results() == [2 * number for number in range(1500)]
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1


@pytest.mark.promise("partitions-need-one-slot")
def test_in_a_chain_on_one_worker_that_runs_one_task_at_a_time(
    worker: Callable[..., Worker], client: Celery[AsyncTask]
) -> None:
    """The whole holds the only slot: what nobody else can begin, it runs itself."""
    worker(MODULE, *ONE)
    fan_out = client.tasks["t.item"].partial().options(partitions=4, results="inline").iterate(number=previous_result)
    chained: Any = chain(client.tasks["t.numbers"].s(50), fan_out, client.tasks["t.add_up"].s(), app=client)
    assert chained.delay().get(timeout=GET_S) == sum(2 * number for number in range(50))


def test_failures_of_all_workers_are_told_together(workers: list[Worker], client: Celery[AsyncTask]) -> None:
    picky = client.tasks["t.picky"].partial().options(partitions=4)
    result = picky.iterate(number=range(40)).delay()
    with pytest.raises(Exception, match="4 of 40 items failed; first: item 7"):
        result.get(timeout=GET_S)
    assert [failure.index for failure in result.errors()] == [7, 17, 27, 37]
    with pytest.raises(Exception, match="4 of 40 items failed"):
        result.retry_failed().get(timeout=GET_S)
    assert result.progress().resumed == 36
    assert sorted(asyncio.run(_streamed(result))) == list(result.iter_results())
    one = picky.iterate(number=range(10)).delay()
    with pytest.raises(ValueError, match="7 is not wanted"):
        one.get(timeout=GET_S)


async def _streamed(result: IterateResult) -> list[tuple[int, Any]]:
    return [pair async for pair in result.stream(order="completion")]


def test_a_source_of_unknown_length_is_refused_before_it_is_sent(client: Celery[AsyncTask]) -> None:
    item = client.tasks["t.item"].partial().options(partitions=2)
    with pytest.raises(SourceError, match=r"partitions is 2, but how long number \(task t.numbers\) is"):
        item.iterate(number=client.tasks["t.numbers"].s(10))
