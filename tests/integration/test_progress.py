"""A run's progress in Celery's own result: state PROGRESS, never going back, never hiding how the run ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from celery.states import READY_STATES

from asyncworker import AsyncTask
from tests.integration import tasks
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


def watched(app: Celery[AsyncTask], result: Any, end: Callable[[], None]) -> list[tuple[str, Any]]:
    """Follow a run as any client of Celery's would; call ``end`` once three states were seen that differ."""
    seen: list[tuple[str, Any]] = []
    plain: AsyncResult[Any] = AsyncResult(result.id, app=app)
    while True:
        meta = plain._get_task_meta()
        now = (meta["status"], meta["result"])
        if not seen or seen[-1] != now:
            seen.append(now)
            if sum(state == "PROGRESS" for state, _ in seen) == 3:
                end()
        if meta["status"] in READY_STATES:
            return seen
        time.sleep(0.05)


@pytest.mark.parametrize("partitions", [1, 2])
def test_async_result_shows_where_a_run_stands(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path, partitions: int
) -> None:
    worker(MODULE, "--without-mingle")
    gate = tmp_path / "gate"
    fan_out = client.tasks["t.slow_or_picky"].partial(gate=str(gate), pause_s=0.2)
    count = 4000
    result = fan_out.options(concurrency=20, partitions=partitions).iterate(number=range(count)).delay()
    seen = watched(client, result, gate.touch)
    with pytest.raises(Exception, match="400 of 4,000 items failed"):
        result.get(timeout=GET_S)
    infos = [info for state, info in seen if state == "PROGRESS"]
    assert len(infos) >= 3
    assert infos[0].keys() == {"done", "failed", "skipped", "retried", "total", "rate", "remaining_s"}
    assert {info["total"] for info in infos} == {count}
    assert infos[1]["rate"] > 0
    assert infos[1]["remaining_s"] > 0
    for name in ("done", "failed"):
        values = [info[name] for info in infos]
        assert values == sorted(values)
        assert values[-1] > 0
    # Nothing after the end, though what was last known of the progress came a moment before.
    assert [state for state, _ in seen][-1] == "FAILURE"
    time.sleep(1.5)
    assert AsyncResult(result.id, app=client).state == "FAILURE"
    progress = result.progress()
    assert (progress.settled, progress.fraction) == (count, 1.0)


@pytest.mark.promise("progress-hides-no-outcome")
def test_a_hard_limit_is_not_hidden_by_progress_that_comes_late(
    worker: Callable[..., Worker], client: Celery[AsyncTask]
) -> None:
    worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.05).options(concurrency=5).iterate(number=range(10_000))
    result = fan_out.apply_async(time_limit=3)
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        result.get(timeout=GET_S)
    time.sleep(1.5)
    assert AsyncResult(result.id, app=client).state == "FAILURE"


def test_a_run_whose_result_is_ignored_stores_none(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.1).options(concurrency=1).iterate(number=range(25))
    result = fan_out.apply_async(ignore_result=True)
    while not result.progress().ended:
        assert client.backend.get_state(result.id) == "PENDING"
        time.sleep(0.05)
    assert result.progress().done == 25
