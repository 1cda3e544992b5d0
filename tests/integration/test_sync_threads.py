"""No more tasks that are not async are accepted than there are threads; the others wait, unacknowledged."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.chaos.outage_tasks import LOG_VARIABLE
from tests.integration import thread_tasks
from tests.servers.worker import Worker, running_worker

THREADS = 2
TASKS = 8


@pytest.fixture
def start(valkey: EmbeddedServer, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    env = {
        "ASYNCWORKER_BROKER_URL": valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(tmp_path / "state"),
        "ASYNCWORKER_INCLUDE": thread_tasks.__name__,
        "ASYNCWORKER_SYNC_THREADS": str(THREADS),
        LOG_VARIABLE: str(tmp_path / "log"),
    }
    with contextlib.ExitStack() as stack:
        options = ("-c", "6", "--without-mingle", "--without-gossip")
        yield lambda name: stack.enter_context(running_worker(tmp_path, *options, env=env, name=name))


@pytest.fixture
def node(start: Callable[[str], Worker]) -> Worker:
    return start("first@test")


def begun(folder: Path, count: int) -> list[str]:
    """Wait until that many tasks have started; return their ids."""
    give_up_at_s = time.monotonic() + 120
    while True:
        path = folder / "log"
        ids = [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []
        if len(ids) >= count:
            return ids
        assert time.monotonic() < give_up_at_s, f"{len(ids)} of {count} tasks have begun"
        time.sleep(0.02)


@pytest.mark.promise("def-tasks-wait-without-a-slot")
def test_those_that_wait_hold_up_no_async_task_and_are_limited_and_revoked_as_if_not_taken(
    node: Worker, client: Celery, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    held = [client.send_task("t.hold", (str(gate),)) for _ in range(THREADS)]
    begun(tmp_path, THREADS)
    waiting = [client.send_task("t.hold", (str(gate),), time_limit=30) for _ in range(TASKS)]
    assert client.send_task("t.quick").get(timeout=120) == "quick"
    waiting[0].revoke()
    node.wait_for_log(f"Tasks flagged as revoked: {waiting[0].id}")
    assert client.send_task("t.quick").get(timeout=120) == "quick"
    assert len(begun(tmp_path, THREADS)) == THREADS

    def in_flight() -> list[int]:
        stats = client.control.inspect(timeout=10, limit=1).stats() or {}
        return [each["pool"]["in-flight"] for each in stats.values()]

    give_up_at_s = time.monotonic() + 120
    while in_flight() != [THREADS]:  # an outcome is stored before the slot is free
        assert time.monotonic() < give_up_at_s
    gate.touch()
    assert [result.get(timeout=120) for result in held + waiting[1:]] == ["done"] * (THREADS + TASKS - 1)
    assert waiting[0].id not in begun(tmp_path, THREADS + TASKS - 1)
    assert node.stop() == 0


def test_those_that_wait_return_to_the_queue_when_the_worker_ends(node: Worker, client: Celery, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    sent = [client.send_task("t.hold", (str(gate),)).id for _ in range(TASKS)]
    ran = begun(tmp_path, THREADS)
    assert client.send_task("t.quick").get(timeout=120) == "quick"
    node.kill()
    with client.connection_for_read() as connection:
        channel = connection.default_channel
        left = channel.client.llen("celery") + channel.client.hlen("unacked")
    assert left == len(sent) - len(ran)


@pytest.mark.promise("def-tasks-wait-without-a-slot")
def test_a_time_limit_counts_from_when_a_thread_takes_the_task_and_one_terminated_before_never_begins(
    node: Worker, client: Celery, tmp_path: Path
) -> None:
    gate, limit_s = tmp_path / "gate", 6
    held = [client.send_task("t.hold", (str(gate),)) for _ in range(THREADS)]
    begun(tmp_path, THREADS)
    waiting = [client.send_task("t.hold", (str(gate),), time_limit=limit_s) for _ in range(THREADS)]
    waiting += [client.send_task("t.hold", (str(gate),), soft_time_limit=limit_s) for _ in range(THREADS)]
    terminated = client.send_task("t.hold", (str(gate),))
    assert client.send_task("t.quick").get(timeout=120) == "quick"  # it came after them
    terminated.revoke(terminate=True)
    # By the worker's own clock the limits have passed.
    assert client.send_task("t.quick", countdown=limit_s + 2).get(timeout=120) == "quick"
    assert len(begun(tmp_path, THREADS)) == THREADS
    assert {result.state for result in waiting} == {"PENDING"}
    gate.touch()
    assert [result.get(timeout=120) for result in held + waiting] == ["done"] * 3 * THREADS
    assert client.send_task("t.hold", (str(gate),)).get(timeout=120) == "done"
    assert terminated.id not in begun(tmp_path, 3 * THREADS + 1)
    assert node.stop() == 0


def test_a_drain_leaves_those_that_wait_to_the_next_worker(
    start: Callable[[str], Worker], client: Celery, tmp_path: Path
) -> None:
    first, gate = start("first@test"), tmp_path / "gate"
    sent = [client.send_task("t.hold", (str(gate),)) for _ in range(TASKS)]
    ran = set(begun(tmp_path, THREADS))
    assert client.send_task("t.quick").get(timeout=120) == "quick"
    first.signal(signal.SIGTERM)
    first.wait_for_log("Warm shutdown")
    gate.touch()
    assert first.wait(120) == 0
    assert {result.id for result in sent if result.state == "SUCCESS"} == ran == set(begun(tmp_path, THREADS))
    second = start("second@test")
    assert [result.get(timeout=120) for result in sent] == ["done"] * TASKS
    assert len(begun(tmp_path, TASKS)) == TASKS
    assert second.stop() == 0


def test_a_fork_is_warned_of_once_and_signals_are_the_main_threads(node: Worker, client: Celery) -> None:
    assert client.send_task("t.runs_program").get(timeout=120) == 7
    assert "forks this process" not in node.log()
    assert [client.send_task("t.forks").get(timeout=120) for _ in range(3)] == [7, 7, 7]
    with pytest.raises(ValueError, match="signal only works in main thread"):
        client.send_task("t.handles_signal").get(timeout=120)
    assert node.stop() == 0
    assert node.log().count("forks this process") == 1
    assert "multiprocessing.get_context('spawn')" in node.log()
