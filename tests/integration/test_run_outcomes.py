"""A run has the outcome that Celery's result has, whatever ended its task; and it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from asyncworker import AsyncTask
from tests.integration import tasks
from tests.servers.worker import Worker

MODULE = tasks.__name__
ITEMS = 60
ENV = {"ASYNCWORKER_LEASE_S": "3"}


def ended(result: Any) -> Any:
    """Return where a run stands once it has ended."""
    give_up_at = time.monotonic() + 120
    while not (progress := result.progress()).ended:
        assert time.monotonic() < give_up_at, progress
        time.sleep(0.05)
    return progress


def gated(client: Celery[AsyncTask], gate: Path, **options: Any) -> Any:
    """Ten items run, the others wait."""
    target = client.tasks["t.gated"].partial(gate=str(gate))
    return target.options(concurrency=20, checkpoint_every_s=0.05, **options).iterate(number=range(ITEMS))


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize(
    ("limits", "error"),
    [({"soft_time_limit": 4}, SoftTimeLimitExceeded), ({"time_limit": 4}, TimeLimitExceeded)],
    ids=["soft", "hard"],
)
@pytest.mark.promise("run-has-its-tasks-outcome")
def test_a_time_limit_of_its_own_fails_a_run(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    tmp_path: Path,
    limits: dict[str, float],
    error: type[Exception],
    partitions: int,
) -> None:
    worker(MODULE, "--without-mingle", env=ENV)
    gate = tmp_path / "gate"
    result = gated(client, gate, partitions=partitions).apply_async(**limits)
    with pytest.raises(error):
        result.get(timeout=120)
    progress = ended(result)
    assert (progress.state, progress.complete) == ("failed", False)
    assert error.__name__ in progress.error
    gate.touch()
    assert result.resume().get(timeout=120)["done"] == ITEMS
    assert result.progress().state == "done"


@pytest.mark.promise("run-has-its-tasks-outcome")
def test_a_revoked_run_is_cancelled(worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path) -> None:
    worker(MODULE, "--without-mingle", env=ENV)
    gate = tmp_path / "gate"
    result = gated(client, gate).delay()
    while not result.progress().done:
        time.sleep(0.05)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=120)
    assert ended(result).state == "cancelled"


@pytest.mark.parametrize(
    ("options", "revoke", "state", "error"),
    [({"expires": -1}, False, "cancelled", "expired"), ({"countdown": 600}, True, "cancelled", "revoked")],
    ids=["expired", "revoked"],
)
def test_a_run_whose_task_ended_before_it_began_has_ended(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    tmp_path: Path,
    options: dict[str, Any],
    revoke: bool,
    state: str,
    error: str,
) -> None:
    node = worker(MODULE, "--without-mingle", env=ENV)
    result = gated(client, tmp_path / "gate").apply_async(**options)
    if revoke:
        node.wait_for_log(f"[{result.id}] received")
        assert result.progress().state == "pending"
        result.revoke()
    progress = ended(result)
    assert (progress.state, progress.attempt, progress.complete) == (state, 0, False)
    assert error in progress.error


def test_a_run_of_an_unknown_task_has_failed(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    @client.task(name="t.nobody_has_it")  # type: ignore[untyped-decorator]
    async def nobody_has_it(n: int) -> int:
        return n

    worker(MODULE, "--without-mingle", env=ENV)
    result = nobody_has_it.iterate(n=[1]).delay()
    progress = ended(result)
    assert progress.state == "failed"
    assert "t.nobody_has_it" in progress.error


@pytest.mark.promise("run-has-its-tasks-outcome")
def test_a_run_whose_workers_died_too_often_has_failed(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    """Killed from outside before any item has begun: none can be blamed, and nothing is settled in between."""
    env = ENV | {"ASYNCWORKER_MAX_DELIVERIES": "1"}
    log = tmp_path / "log"
    source = client.tasks["t.gated_late"].s(str(log), str(tmp_path / "gate"))
    result = client.tasks["t.picky"].iterate(number=source).delay()
    for attempt in (1, 2):
        victim = worker(MODULE, "--without-mingle", env=env, name=f"victim{attempt}@test")
        while not log.exists() or log.read_text().count("begun") < attempt:
            time.sleep(0.05)
        victim.kill()
    worker(MODULE, "--without-mingle", env=env, name="survivor@test")
    with pytest.raises(Exception, match="its worker died each time"):
        result.get(timeout=120)
    progress = ended(result)
    assert (progress.state, progress.complete) == ("failed", False)
    assert "TooManyDeliveries" in progress.error


@pytest.mark.promise("general-limits-cut-no-fan-out")
def test_limits_for_tasks_in_general_do_not_cut_fan_outs(
    worker: Callable[..., Worker], client: Celery[AsyncTask]
) -> None:
    worker(MODULE, "--without-mingle", "--time-limit", "3", "--soft-time-limit", "2")
    item = client.tasks["t.item"].partial(pause_s=0.4).options(concurrency=1)
    runs = [item.iterate(number=range(12)).delay(), item.options(partitions=2).iterate(number=range(24)).delay()]
    # Which of the two it meets first is the machine's affair: that it has a limit is what counts.
    with pytest.raises((SoftTimeLimitExceeded, TimeLimitExceeded)):
        client.tasks["t.sleep"].delay(60).get(timeout=120)
    assert [run.get(timeout=90)["done"] for run in runs] == [12, 24]
