"""A stock Celery worker with the async pool: every kind of task gives what it gives under prefork."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import TaskCancelled
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.worker import Worker, running_worker

GET_S = 120.0


@pytest.fixture(scope="module")
def running(
    _valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Callable[..., Any], Worker, Celery]]:
    folder = tmp_path_factory.mktemp("worker")
    env = {
        "ASYNCWORKER_BROKER_URL": _valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": _valkey.result_url,
        "ASYNCWORKER_INCLUDE": tasks.__name__,
        "ASYNCWORKER_STATE_DIR": str(folder),
        "ASYNCWORKER_CANCEL_GRACE_S": "0.3",
    }
    with redis.Redis.from_url(_valkey.redis_url) as connection:
        connection.flushall()
    with running_worker(folder, "--without-mingle", "--without-gossip", env=env) as worker, client_app(_valkey) as app:

        def run(name: str, *args: Any, **options: Any) -> Any:
            return app.tasks[name].apply_async(args, **options).get(timeout=GET_S)

        yield run, worker, app


@pytest.fixture
def run(running: Any) -> Callable[..., Any]:
    return running[0]


@pytest.fixture
def node(running: Any) -> Worker:
    return running[1]


@pytest.fixture
def app(running: Any) -> Celery:
    return running[2]


def test_async_and_sync_tasks(run: Callable[..., Any]) -> None:
    assert run("t.add", 1, 2) == 3
    result, thread, request_id = run("t.sync_double", 4)
    assert result == 8
    assert thread.startswith("asyncworker-task")
    assert request_id


def test_the_request_is_right_in_body_children_and_threads(app: Celery) -> None:
    results = [app.tasks["t.who"].delay() for _ in range(50)]
    for result in results:
        assert set(result.get(timeout=GET_S)) == {result.id}


def test_the_request_is_left_alone_by_tasks_that_are_run_in_its_body(app: Celery) -> None:
    assert app.tasks["t.applies"].delay().get(timeout=GET_S) == [True, True, True]


def test_what_has_ended_is_not_left_to_the_garbage_collector(app: Celery) -> None:
    count = app.tasks["t.jobs_in_memory"]
    count.delay(collect=False).get(timeout=GET_S)
    ended = [app.tasks[name].delay(1) for name in ("t.sleep", "t.sync_double") for _ in range(100)]
    assert all(result.get(timeout=GET_S) for result in ended)
    assert count.delay(collect=True).get(timeout=GET_S) < 20


@pytest.mark.promise("thousand-tasks-at-once")
def test_a_thousand_sleeps_overlap(app: Celery) -> None:
    started = time.monotonic()
    results = [app.tasks["t.sleep"].apply_async((1,)) for _ in range(1000)]
    assert sum(result.get(timeout=120) for result in results) == 1000
    # Not a bound on the machine's speed: one after the other they would take 1,000 s.
    assert time.monotonic() - started < 100


@pytest.mark.parametrize("name", ["t.autoretry", "t.retry"])
def test_retries(run: Callable[..., Any], name: str) -> None:
    assert run(name) == 2


def test_retries_give_up_with_the_exception(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="never"):
        run("t.give_up")


def test_pydantic_sees_the_value(run: Callable[..., Any]) -> None:
    assert run("t.pydantic", {"x": 1}) == {"x": 2}
    assert run("t.pydantic_retry", {"x": 1}) == {"x": 2}


def test_a_task_awaits_another_and_sends_another(run: Callable[..., Any], app: Celery) -> None:
    assert run("t.calls_another", 1) == 5
    assert app.AsyncResult(run("t.sends_another", 1)).get(timeout=GET_S) == 2


def test_an_async_generator_gives_a_list(run: Callable[..., Any]) -> None:
    assert run("t.numbers", 3) == [0, 1, 2]


def test_canvas(app: Celery) -> None:
    add, total = app.tasks["t.add"], app.tasks["t.total"]
    assert chain(add.s(1, 2), add.s(3), app=app).apply_async().get(timeout=GET_S) == 6
    assert group([add.s(i, i) for i in range(3)], app=app).apply_async().get(timeout=GET_S) == [0, 2, 4]
    assert chord([add.s(i, i) for i in range(5)], total.s(), app=app).apply_async().get(timeout=GET_S) == 20


def test_a_failing_chord_member_fails_the_body(app: Celery) -> None:
    header = [app.tasks["t.add"].s(1, 1), app.tasks["t.fail"].s()]
    with pytest.raises(Exception, match="on purpose"):
        chord(header, app.tasks["t.total"].s(), app=app).apply_async().get(timeout=GET_S)


def test_link_and_link_error_run(app: Celery, node: Worker) -> None:
    app.tasks["t.add"].apply_async((1, 2), link=app.tasks["t.add"].s(40).set(task_id="linked"))
    assert app.AsyncResult("linked").get(timeout=GET_S) == 43
    failed = app.tasks["t.fail"].apply_async(link_error=app.tasks["t.on_error"].s())
    with pytest.raises(KeyError):
        failed.get(timeout=GET_S)


def test_failures(run: Callable[..., Any], app: Celery) -> None:
    with pytest.raises(KeyError, match="on purpose"):
        run("t.fail")
    with pytest.raises(TaskCancelled):
        run("t.cancels_itself")
    with pytest.raises(WorkerLostError, match="SystemExit"):
        run("t.exits")
    run("t.child_exits")
    assert run("t.add", 1, 1) == 2


def test_ignore_and_reject_leave_no_result(app: Celery, run: Callable[..., Any]) -> None:
    results = [app.tasks[name].delay() for name in ("t.ignore", "t.reject")]
    assert run("t.add", 1, 1) == 2
    assert [result.state for result in results] == ["PENDING", "PENDING"]


def test_soft_limit_arrives_where_the_task_waits(run: Callable[..., Any]) -> None:
    assert run("t.soft", True) == "cleaned up"
    with pytest.raises(SoftTimeLimitExceeded):
        run("t.soft", False)


def test_hard_limit(run: Callable[..., Any], app: Celery, node: Worker, tmp_path: Path) -> None:
    with pytest.raises(TimeLimitExceeded):
        run("t.hard")
    gate = tmp_path / "gate"
    stubborn = app.tasks["t.hard_stubborn"].delay(600, str(gate))
    with pytest.raises(TimeLimitExceeded):
        stubborn.get(timeout=GET_S)
    node.wait_for_log(f"t.hard_stubborn[{stubborn.id}] did not end within")
    gate.touch()
    _until(lambda: _pool_stats(app)["in-flight"] == 0)
    assert stubborn.state == "FAILURE"


def test_terminate_hits_only_its_task(app: Celery, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    doomed, spared = app.tasks["t.sleep"].delay(600), app.tasks["t.gated"].delay(10, str(gate))
    _until(lambda: {each["id"] for each in _active(app)} >= {doomed.id, spared.id})
    doomed.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        doomed.get(timeout=GET_S)
    gate.touch()
    assert spared.get(timeout=GET_S) == 10
    _until(lambda: not _active(app))


def test_a_revoked_task_that_swallows_it_stays_revoked(app: Celery, node: Worker, tmp_path: Path) -> None:
    gate, link = tmp_path / "gate", app.tasks["t.add"].s(1).set(task_id="must-not-run")
    result = app.tasks["t.stubborn"].apply_async((600, str(gate)), link=link)
    _until(lambda: "await asyncio.sleep(left)" in str(app.control.broadcast("coroutines", reply=True, limit=1)))
    result.revoke(terminate=True)
    node.wait_for_log(f"t.stubborn[{result.id}] did not end within")
    gate.touch()
    _until(lambda: not _active(app) and _pool_stats(app)["in-flight"] == 0)
    assert result.state == "REVOKED"
    assert app.AsyncResult("must-not-run").state == "PENDING"


def test_the_worker_answers_while_a_coroutine_burns_cpu(app: Celery, node: Worker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    result = app.tasks["t.burn_cpu"].delay(60, str(gate))
    node.wait_for_log(f"by task t.burn_cpu[{result.id}]")
    assert app.control.broadcast("ping", reply=True, timeout=60, limit=1) == [{node.name: {"ok": "pong"}}]
    assert not result.ready()
    gate.touch()
    assert result.get(timeout=GET_S) == "burnt"
    assert "in burn_cpu: while time.monotonic() < end and" in node.log()


def test_inspect_stats(app: Celery) -> None:
    stats = _pool_stats(app)
    assert stats["implementation"] == "asyncworker.worker.pool:AsyncPool"
    assert stats["max-concurrency"] == 1000


def _inspect(app: Celery, what: str) -> Any:
    inspect = app.control.inspect(timeout=60, limit=1)
    return next(iter((getattr(inspect, what)() or {"": {}}).values()))


def _active(app: Celery) -> Any:
    return _inspect(app, "active")


def _pool_stats(app: Celery) -> Any:
    return _inspect(app, "stats")["pool"]


def _until(reached: Callable[[], bool], timeout_s: float = GET_S) -> None:
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        with contextlib.suppress(KeyError):
            if reached():
                return
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def test_a_sync_task_past_its_hard_limit_reports_once(app: Celery, node: Worker, tmp_path: Path) -> None:
    """Its thread cannot be stopped; what it returns later changes nothing and starts nothing."""
    gate = tmp_path / "gate"
    late = app.tasks["t.thread_until"].apply_async(
        (str(gate),), time_limit=0.3, link=app.tasks["t.add"].si(1, 1).set(task_id="must-not-run-either")
    )
    with pytest.raises(TimeLimitExceeded):
        late.get(timeout=GET_S)
    node.wait_for_log(f"t.thread_until[{late.id}] runs on a thread and cannot be stopped")
    gate.touch()
    _until(lambda: _pool_stats(app)["in-flight"] == 0)
    assert late.state == "FAILURE"
    assert app.AsyncResult("must-not-run-either").state == "PENDING"


def test_an_async_task_links_to_a_sync_one(app: Celery) -> None:
    app.tasks["t.add"].apply_async((1, 2), link=app.tasks["t.sync_double"].s().set(task_id="sync-linked"))
    assert app.AsyncResult("sync-linked").get(timeout=GET_S)[0] == 6


def test_sending_from_a_child_task_warns_once_and_names_the_way(run: Callable[..., Any], node: Worker) -> None:
    assert run("t.sends_and_awaits", 10) == 10
    assert run("t.sends_from_a_child", 10) == 10
    assert run("t.sends_from_a_child", 10) == 10
    node.wait_for_log("t.add was sent with delay() or apply_async() from a child task of t.sends_from_a_child")
    assert node.log().count("from a child task of") == 1
    assert "await task.adelay(...)" in node.log()


def test_waiting_for_a_result_inside_a_task_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task"):
        run("t.waits_for_another")
