"""Hooks of async tasks and receivers of their signals may block, as they may under prefork."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.integration import hook_tasks
from tests.servers.worker import Worker

TIMEOUT_S = 100

#: What runs for a task, in order.
SUCCESS = ["task_prerun", "before_start", "body", "on_success", "task_success", "async receiver", "after_return"]
ORDER = {
    "ok": [*SUCCESS, "task_postrun"],
    "fail": ["task_prerun", "before_start", "body", "on_failure", "task_failure", "after_return", "task_postrun"],
    "retry": ["task_prerun", "before_start", "body", "on_retry", "task_retry", "task_postrun"],
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "hooks.jsonl"


@pytest.fixture
def node(worker: Callable[..., Worker], log: Path) -> Worker:
    return worker(hook_tasks.__name__, "--without-mingle", "--without-gossip", env={"HOOKS_LOG": str(log)})


def noted(log: Path, task_id: str, executions: int = 1) -> list[dict[str, Any]]:
    """What ran for a task, once the last of each execution has."""
    give_up_at_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < give_up_at_s:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        lines = [line for line in lines if line["id"] == task_id]
        if [line["what"] for line in lines].count("task_postrun") == executions:
            return lines
        time.sleep(0.05)
    raise AssertionError(f"not all of {task_id} ran: {log.read_text()}")


@pytest.mark.parametrize("outcome", ["ok", "fail"])
@pytest.mark.promise("hooks-may-block")
def test_they_run_off_the_loop_in_order_and_share_the_bodys_context(
    node: Worker, client: Celery[Any], log: Path, outcome: str
) -> None:
    result = client.send_task("h.hooked", (outcome,))
    lines = noted(log, result.id)
    # A receiver that is async was connected by the module; prefork would never await it.
    assert [line["what"] for line in lines] == ORDER[outcome]
    assert {line["what"] for line in lines if line["on_loop"]} <= {"body", "async receiver"}
    spans = {line["what"]: line["span"] for line in lines if "span" in line}
    assert spans.pop("task_postrun") == ""
    assert set(spans.values()) == {result.id}
    assert next(line["trail"] for line in lines if line["what"] == "after_return") == ORDER[outcome][:-2]
    assert node.stop() == 0
    assert "raised" not in node.log().replace("raised unexpected", "")


def test_those_of_a_retry_and_of_def_tasks(node: Worker, client: Celery[Any], log: Path) -> None:
    retried = client.send_task("h.hooked", ("retry",))
    assert retried.get(timeout=TIMEOUT_S) == "retry"
    # The second execution may begin before the last receiver of the first has run.
    lines = [line["what"] for line in noted(log, retried.id, executions=2)]
    assert sorted(lines) == sorted([*ORDER["retry"], *ORDER["ok"]])
    sync = client.send_task("h.hooked_sync", ("ok",))
    assert [line["what"] for line in noted(log, sync.id)] == ORDER["ok"]


@pytest.mark.parametrize("task", ["h.hooked_async", "h.hooked_async_sync"])
@pytest.mark.promise("hooks-may-block")
def test_async_ones_are_awaited_on_the_loop(node: Worker, client: Celery[Any], log: Path, task: str) -> None:
    result = client.send_task(task, ("ok",))
    lines = {line["what"]: line for line in noted(log, result.id)}
    assert lines["before_start"]["on_loop"]
    assert lines["after_return"]["on_loop"]
    if task == "h.hooked_async":
        assert "before_start" in lines["after_return"]["trail"]


HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")


@pytest.mark.promise("hooks-may-block")
def test_one_that_blocks_keeps_no_other_task_waiting(node: Worker, client: Celery[Any], tmp_path: Path) -> None:
    for blocking in (HOOKS, SIGNALS):  # fewer at once than there are threads for them
        path = tmp_path / f"go-{blocking[0]}"
        blocked = [client.send_task("h.blocking", (where, str(tmp_path / "began"), str(path))) for where in blocking]
        # It is a task that lets them go on, on the same loop.
        assert client.send_task("h.touch", (str(path),)).get(timeout=TIMEOUT_S) is None
        for result in blocked:
            result.get(timeout=TIMEOUT_S, propagate=False)
    assert node.stop() == 0


@pytest.mark.parametrize("task", ["h.asking", "h.asking_sync"])
@pytest.mark.promise("hooks-may-block")
def test_one_may_wait_for_the_results_of_what_it_sends(node: Worker, client: Celery[Any], log: Path, task: str) -> None:
    lines = noted(log, client.send_task(task).id)
    assert [line["what"] for line in lines] == ["task_prerun", "before_start", "task_postrun"]
    assert [line["got"] for line in lines] == [[0, 1, 2]] * 3


def test_one_that_raises_stop_iteration_ends_its_task(node: Worker, client: Celery[Any]) -> None:
    before, after = (client.send_task("h.exhausted", (where,)) for where in ("before_start", "after_return"))
    with pytest.raises(RuntimeError, match="StopIteration"):
        before.get(timeout=TIMEOUT_S)
    assert after.get(timeout=TIMEOUT_S) == "after_return"
    assert node.stop() == 0  # neither has kept its slot


def test_a_task_that_is_revoked_while_its_hook_blocks_never_begins(
    node: Worker, client: Celery[Any], tmp_path: Path
) -> None:
    began, path = tmp_path / "began", tmp_path / "go"
    result = client.send_task("h.blocking", ("before_start", str(began), str(path)))
    node.wait_for_log(f"h.blocking[{result.id}] received")
    while result.id not in str(client.control.inspect(timeout=10, limit=1).active()):
        time.sleep(0.1)
    client.control.revoke(result.id, terminate=True)
    node.wait_for_log(f"Terminating {result.id}")
    path.touch()
    client.send_task("h.touch", (str(tmp_path / "other"),)).get(timeout=TIMEOUT_S)
    assert node.stop() == 0
    assert not began.exists()


def test_the_process_that_runs_tasks_says_when_it_begins_and_ends(node: Worker) -> None:
    assert node.stop() == 0
    assert node.log().count(f"process {node.pid} begins") == 1
    assert node.log().count(f"process {node.pid} ends with 0") == 1
