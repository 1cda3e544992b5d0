"""Only what failed is run again, and nothing that was never run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from asyncworker import AsyncTask, ItemErrors
from asyncworker.errors import RunCancelled, RunError, RunNotFound
from tests.integration import tasks
from tests.servers.command import asyncworker
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


@pytest.mark.promise("retry-failed-runs-only-what-failed")
def test_failed_items_alone(
    worker: Callable[..., Worker], client: Celery[AsyncTask], worker_env: dict[str, str], tmp_path: Path
) -> None:
    worker(MODULE, "--without-mingle")
    log, gate, numbers = tmp_path / "log", tmp_path / "gate", tmp_path / "numbers"
    numbers.write_text("0 1 2 3 4 5")
    fan_out = client.tasks["t.only_if"].partial(log=str(log), gate=str(gate))
    result = fan_out.iterate(number=client.tasks["t.lines"].s(str(numbers))).delay()
    with pytest.raises(ItemErrors, match="3 of 6"):
        result.get(timeout=GET_S)

    # The source has grown. What is new in it did not fail.
    numbers.write_text("0 1 2 3 4 5 6 7 8 9")
    log.write_text("")
    with pytest.raises(ItemErrors, match="3 of 6"):
        result.retry_failed().get(timeout=GET_S)
    assert sorted(log.read_text().split()) == ["1", "3", "5"]

    gate.touch()
    log.write_text("")
    answer = asyncworker("runs", "retry-failed", result.id, env=worker_env)
    assert answer.stdout == f"run {result.id}: sent again, 3 items had failed\n", answer.stderr
    while result.progress().state != "done":
        time.sleep(0.02)
    assert sorted(log.read_text().split()) == ["1", "3", "5"]
    progress = result.progress()
    assert (progress.done, progress.failed, progress.total, progress.attempt) == (6, 0, 6, 3)
    assert result.results() == [0, 1, 2, 3, 4, 5]

    # Nothing failed: nothing is sent.
    answer = asyncworker("runs", "retry-failed", result.id, env=worker_env)
    assert answer.stdout == f"run {result.id}: nothing failed, nothing is sent\n", answer.stderr
    assert result.progress().attempt == 3
    # A resume runs what is new as well.
    assert result.resume().get(timeout=GET_S)["done"] == 10


def test_no_outcome_is_taken_for_that_of_the_next_attempt(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    worker(MODULE, "--without-mingle")
    log, gate = tmp_path / "log", tmp_path / "gate"
    result = client.tasks["t.only_if"].partial(log=str(log), gate=str(gate)).iterate(number=[1, 2]).delay()
    for attempt in range(1, 11):
        # Once by asking, while Redis tells it by subscription, too, which nobody reads; once by subscription.
        while attempt % 2 and not result.ready():
            time.sleep(0.02)
        with pytest.raises(ValueError, match="1"):
            result.get(timeout=GET_S)
        assert (result.progress().attempt, result.progress().state) == (attempt, "failed")
        result.retry_failed()
    gate.touch()


async def test_in_a_coroutine(node: Worker, client: Celery[AsyncTask], tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    fan_out = client.tasks["t.only_if"].partial(log=str(log), gate=str(gate)).options(key="number")
    result = await fan_out.iterate(number=[1, 2]).adelay()
    pairs = [pair async for pair in result.stream(order="completion")]  # type: ignore[attr-defined]
    assert pairs == [(1, 2)]
    gate.touch()
    await result.aretry_failed()  # type: ignore[attr-defined]
    while (await result.aprogress()).state != "done":  # type: ignore[attr-defined]
        pass
    assert await result.aresults() == [1, 2]  # type: ignore[attr-defined]


@pytest.fixture
def node(worker: Callable[..., Worker]) -> Worker:
    return worker(MODULE, "--without-mingle")


def test_a_run_that_was_not_run_to_its_end_is_for_resume(
    node: Worker, client: Celery[AsyncTask], worker_env: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(RunNotFound):
        client.tasks["t.gated"].iterate(number=[1], gate=["x"]).type.AsyncResult("nobody").retry_failed()
    gate = tmp_path / "gate"
    gated = client.tasks["t.gated"].partial(gate=str(gate)).options(concurrency=2, checkpoint_every_s=0.05)
    result = gated.iterate(number=range(100)).delay()
    while not result.progress().done:
        time.sleep(0.02)
    with pytest.raises(RunError, match="is running: its failed items can be run again"):
        result.retry_failed()
    result.cancel()
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    answer = asyncworker("runs", "retry-failed", result.id, env=worker_env)
    assert answer.returncode == 1
    assert "was not run to its end (cancelled" in answer.stderr
    assert "0 items failed, and others were never run; resume() runs both" in answer.stderr
    gate.touch()
    assert result.resume().get(timeout=GET_S)["done"] == 100
