"""SIGQUIT, Celery's cold shutdown: what becomes of the tasks that it cuts short, beside stock prefork."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from celery import Celery
from celery.exceptions import WorkerLostError

from tests.integration.test_recycling import HELD, LONG_S, Held, Start, held
from tests.integration.test_shutdown import wait_until
from tests.integration.test_supervisor import QUICK, ends

__all__ = ["held"]

LATE = ("late", "sync_late")
#: More than a task that was let go needs to end, also on a busy machine.
SOFT_S = 10
#: How often a stock worker is tried, and how long it has to end.
STOCK_ATTEMPTS, STOCK_S = 4, 30


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "supervised"])
@pytest.mark.promise("cold-shutdown-reports-what-it-cuts")
def test_acknowledged_tasks_fail_and_others_return_to_the_queue(
    processes: tuple[str, ...], worker: Start, client: Celery, held: Held
) -> None:
    kinds = ("early", "sync", *LATE)
    node = worker(HELD, *processes, "-c", "4", *QUICK, env={"ASYNCWORKER_CANCEL_GRACE_S": "1"})
    results = {kind: client.tasks[f"h.{kind}"].delay(*held.arguments(kind)) for kind in kinds}
    wait_until(lambda: len(held.started()) == len(kinds), LONG_S)
    before = {pid for pids in held.started().values() for pid in pids}
    node.signal(signal.SIGQUIT)
    assert node.wait(LONG_S) == 0
    for kind in ("early", "sync"):
        with pytest.raises(WorkerLostError, match="was cut short: its worker ended"):
            results[kind].get(timeout=LONG_S)
    assert [results[kind].state for kind in LATE] == ["PENDING"] * 2
    # Said once, although Celery's handler ends the pool in two steps.
    assert node.log().count("runs on a thread and cannot be stopped") == 2
    held.let_go()
    worker(HELD, "-c", "4", *QUICK, name="next@test")
    assert not before & {results[kind].get(timeout=LONG_S) for kind in LATE}
    # And they were run no more often than that.
    assert [len(held.started()[kind]) for kind in kinds] == [1, 1, 2, 2]


@pytest.mark.promise("cold-shutdown-reports-what-it-cuts")
def test_stock_prefork_leaves_an_acknowledged_task_in_retry(
    worker: Start, client: Celery, held: Held, worker_env: dict[str, str]
) -> None:
    """What the table of differences says of it."""
    env = {
        "CELERY_BROKER_URL": worker_env["ASYNCWORKER_BROKER_URL"],
        "CELERY_RESULT_BACKEND": worker_env["ASYNCWORKER_RESULT_URL"],
    }
    stock = ("-P", "prefork", "-c", "2", "-I", HELD, *QUICK)
    for attempt in range(STOCK_ATTEMPTS):
        node = worker(None, *stock, env=env, app="tests.chaos.stock_app", name=f"stock{attempt}@test")
        names = [f"{kind}-{attempt}" for kind in ("sync", "sync_late")]
        early, late = (client.tasks[f"h.{name.split('-')[0]}"].delay(*held.arguments(name)) for name in names)
        wait_until(lambda: set(names) <= set(held.started()), LONG_S)  # noqa: B023
        node.signal(signal.SIGQUIT)
        # Its handler may wait for itself, where it came while the connection was in use.
        if (code := node.child.wait(STOCK_S)) is not None:
            break
        node.kill()
    assert code == 0
    held.let_go()
    worker(None, *stock, env=env, app="tests.chaos.stock_app", name="next@test")
    late.get(timeout=LONG_S)
    assert early.state == "RETRY"
    assert [len(held.started()[name]) for name in names] == [1, 2]


@pytest.mark.parametrize("kind", ["early", "late"])
def test_what_ends_within_a_soft_shutdown_has_succeeded(
    worker: Start, client: Celery, held: Held, tmp_path: Path, kind: str
) -> None:
    """Celery's handler sleeps for that time, so the main thread hears of its end after it."""
    node = worker(HELD, *QUICK, "--", f"worker.soft_shutdown_timeout={SOFT_S}")
    log, _, go = held.arguments("")
    short = client.tasks[f"h.{kind}"].delay(log, "short", go)
    long = client.tasks[f"h.{kind}"].delay(log, "long", str(tmp_path / "never"))
    wait_until(lambda: len(held.started()) == 2, LONG_S)
    node.signal(signal.SIGQUIT)
    node.wait_for_log("Initiating Soft Shutdown")
    held.let_go()
    assert node.wait(LONG_S) == 0
    assert short.state == "SUCCESS"
    assert long.state == ("PENDING" if kind == "late" else "FAILURE")


def test_a_second_sigquit_to_a_supervisor_hurries_and_leaves_no_process(
    worker: Start, client: Celery, held: Held
) -> None:
    node = worker(HELD, "--processes", "2", *QUICK, env={"ASYNCWORKER_CANCEL_GRACE_S": "1"})
    wait_until(lambda: node.log().count(" ready.") == 2, LONG_S)
    children = psutil.Process(node.pid).children()
    client.tasks["h.sync"].delay(*held.arguments("sync"))
    wait_until(lambda: len(held.started()) == 1, LONG_S)
    for _ in range(3):
        node.signal(signal.SIGQUIT)
    node.wait(LONG_S)
    assert ends(children)
