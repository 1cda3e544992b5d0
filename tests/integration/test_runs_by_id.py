"""What a run's id stands for: its way, its cancellation and its outcome are the run's, whoever asks and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError

from asyncworker import AsyncTask, ItemErrors, IterateResult
from asyncworker.errors import RunCancelled, RunNotFound, SettingsError
from tests.integration import tasks
from tests.servers.command import asyncworker
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def ran(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def gated(client: Celery[AsyncTask], log: Path, **options: Any) -> Any:
    """Odd numbers fail until the file "gate" is there."""
    fixed = {"log": str(log), "gate": str(log.parent / "gate")}
    return client.tasks["t.only_if"].partial(**fixed).options(**options)


# -- the way that it came ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.promise("resume-goes-the-way-it-was-sent")
def test_another_attempt_goes_to_the_queue_that_the_run_came_from(
    worker: Callable[..., Worker], client: Celery[AsyncTask], worker_env: dict[str, str], log: Path, partitions: int
) -> None:
    worker(MODULE, "--without-mingle", "-Q", "special")
    links = log.parent / "links"
    result = (
        gated(client, log, partitions=partitions)
        .iterate(number=[0, 1, 2, 3])
        .apply_async(queue="special", link=client.tasks["t.logged_link"].si(str(links)).set(queue="special"))
    )
    with pytest.raises(ItemErrors, match="2 of 4"):
        result.get(timeout=GET_S)
    with pytest.raises(ItemErrors, match="2 of 4"):
        result.retry_failed().get(timeout=GET_S)
    answer = asyncworker("runs", "resume", result.id, env=worker_env)
    assert answer.returncode == 0, answer.stderr
    while result.progress().attempt < 3 or not result.progress().ended:
        time.sleep(0.02)
    (log.parent / "gate").touch()
    assert not links.exists()
    assert result.resume().get(timeout=GET_S)["done"] == 4
    # What is linked to it is called when it succeeds, and once.
    while not links.exists():
        time.sleep(0.02)
    assert result.resume().get(timeout=GET_S)["attempt"] == 5
    assert links.read_text() == "linked\n"


@pytest.fixture
def special(worker: Callable[..., Worker]) -> Worker:
    return worker(MODULE, "--without-mingle", "-Q", "special")


async def test_awaited_twins_go_there_as_well(special: Worker, client: Celery[AsyncTask], log: Path) -> None:
    fan_out = gated(client, log).iterate(number=[1, 2])
    result: Any = await fan_out.type.aapply_async(fan_out.args, fan_out.kwargs, queue="special")
    with pytest.raises(ValueError, match="1"):
        await result.aget(timeout=GET_S)
    for send in (result.aretry_failed, result.aresume):
        with pytest.raises(ValueError, match="1"):
            await (await send()).aget(timeout=GET_S)


# -- cancelled while nobody runs it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.promise("cancel-reaches-a-run-not-started")
def test_a_run_that_is_cancelled_before_it_begins_runs_nothing(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path, partitions: int
) -> None:
    result = gated(client, log, partitions=partitions).iterate(number=range(0, 20, 2)).delay()
    result.cancel()
    result.cancel()
    worker(MODULE, "--without-mingle")
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    assert result.progress().state == "cancelled"
    assert ran(log) == []
    assert result.resume().get(timeout=GET_S)["done"] == 10
    assert len(ran(log)) == 10


@pytest.mark.promise("resume-takes-back-a-cancel")
def test_a_cancellation_is_taken_back_by_resume(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path
) -> None:
    result = gated(client, log).iterate(number=[0, 2]).delay()
    result.cancel()
    result.resume()
    worker(MODULE, "--without-mingle")
    assert result.get(timeout=GET_S)["done"] == 2
    assert sorted(ran(log)) == ["0", "2"]


def test_a_run_that_waits_for_another_attempt_can_be_cancelled(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path
) -> None:
    node = worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.05, log=str(log)).options(concurrency=2, checkpoint_every_s=0.05)
    result = fan_out.iterate(number=range(1000)).delay()
    while not result.progress().done:
        time.sleep(0.02)
    assert node.stop() == 0
    assert result.progress().state == "pending"
    before = len(ran(log))
    result.cancel()
    # Another message that waits: of a run that had ended.
    again = client.tasks["t.item"].partial(log=str(log)).iterate(number=[1, 2])
    worker(MODULE, "--without-mingle", name="second@test")
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    assert len(ran(log)) == before
    assert again.delay().get(timeout=GET_S)["done"] == 2


def test_cancelling_a_run_that_has_ended_changes_nothing(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path
) -> None:
    node = worker(MODULE, "--without-mingle")
    fan_out = gated(client, log).iterate(number=[0, 2])
    result = fan_out.apply_async(task_id="once")
    result.get(timeout=GET_S)
    result.cancel()
    assert result.progress().state == "done"
    assert fan_out.apply_async(task_id="once").get(timeout=GET_S)["done"] == 2
    # But what was sent again and has not begun is cancelled.
    assert node.stop() == 0
    result.resume()
    result.cancel()
    worker(MODULE, "--without-mingle", name="second@test")
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)


# -- its outcome -------------------------------------------------------------------------------------------------------


def test_the_outcome_of_a_run_that_is_sent_again_is_not_the_earlier_one(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    worker(MODULE, "--without-mingle")
    gate = tmp_path / "gate"
    gate.touch()
    fan_out = client.tasks["t.gated"].partial(gate=str(gate)).options(results="inline")
    assert fan_out.iterate(number=[1]).apply_async(task_id="again").get(timeout=GET_S) == [1]
    gate.unlink()
    again = fan_out.iterate(number=[12, 13]).apply_async(task_id="again")
    by_id = IterateResult("again", app=client)
    while by_id.progress().state != "running":
        time.sleep(0.02)
    for result in (again, by_id):
        with pytest.raises(TimeoutError):
            result.get(timeout=1.5)
        assert not result.ready()
    gate.touch()
    assert again.get(timeout=GET_S) == by_id.get(timeout=GET_S) == [12, 13]


@pytest.fixture
def node(worker: Callable[..., Worker]) -> Worker:
    return worker(MODULE, "--without-mingle")


@pytest.mark.promise("outcome-as-long-as-the-run")
async def test_the_outcome_is_known_for_as_long_as_the_run_is_kept(
    node: Worker, client: Celery[AsyncTask], log: Path
) -> None:
    good = await gated(client, log).iterate(number=[0, 2]).adelay()
    inline = await gated(client, log, results="inline").iterate(number=[0, 2]).adelay()
    bad = await gated(client, log).iterate(number=[0, 1, 3]).adelay()
    told = await good.aget(timeout=GET_S)
    assert await inline.aget(timeout=GET_S) == [0, 2]
    with pytest.raises(ItemErrors, match="2 of 3"):
        await bad.aget(timeout=GET_S)
    for run_id in (good.id, inline.id, bad.id):
        await asyncio.to_thread(client.backend.forget, run_id)  # as Redis does after result_expires
    assert (await IterateResult(good.id, app=client).aget(timeout=GET_S))["done"] == told["done"]
    assert await IterateResult(inline.id, app=client).aget(timeout=GET_S) == [0, 2]
    with pytest.raises(ItemErrors, match="2 of 3"):
        await IterateResult(bad.id, app=client).aget(timeout=GET_S)
    error = await IterateResult(bad.id, app=client).aget(timeout=GET_S, propagate=False)
    assert isinstance(error, ItemErrors)


def test_the_same_in_code_that_is_not_async(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path
) -> None:
    worker(MODULE, "--without-mingle")
    bad = gated(client, log).iterate(number=[1, 3]).delay()
    with pytest.raises(ItemErrors):
        bad.get(timeout=GET_S)
    client.backend.forget(bad.id)
    with pytest.raises(ItemErrors, match="2 of 2"):
        IterateResult(bad.id, app=client).get(timeout=GET_S)
    with pytest.raises(TimeoutError):
        IterateResult("nobody", app=client).get(timeout=0.2)


@pytest.mark.promise("errors-are-all-there")
def test_errors_are_all_there(worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path) -> None:
    worker(MODULE, "--without-mingle")
    result = gated(client, log).iterate(number=range(2400)).delay()
    with pytest.raises(ItemErrors, match="1,200 of 2,400"):
        result.get(timeout=GET_S)
    assert [failure.index for failure in result.errors()] == list(range(1, 2400, 2))
    assert len(result.errors(offset=1100, limit=50)) == 50
    assert len(result.results()) == 1200
    assert result.results(missing=None) == [None if number % 2 else number for number in range(2400)]
    with pytest.raises(RunNotFound):
        IterateResult("nobody", app=client).errors()


def test_an_id_that_no_worker_takes_is_refused_where_it_is_sent(
    worker: Callable[..., Worker], client: Celery[AsyncTask], log: Path
) -> None:
    even = gated(client, log).iterate(number=[2, 4])
    with pytest.raises(SettingsError, match="task_id has more than 500 characters: xxx"):
        even.apply_async(task_id="x" * 501)
    worker(MODULE, "--without-mingle")
    split = gated(client, log, partitions=2).iterate(number=[2, 4])
    assert [
        each.apply_async(task_id=name * 500).get(timeout=GET_S)["done"] for each, name in ((even, "x"), (split, "y"))
    ] == [2, 2]
