"""A worker of ``--processes`` that is replaced: its successor starts first, and what it runs goes on to its end."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import held_tasks
from tests.integration.test_shutdown import wait_until
from tests.integration.test_supervisor import QUICK, children, ends
from tests.servers.ports import free_port
from tests.servers.worker import Worker

HELD = held_tasks.__name__
LONG_S = 100

Start = Callable[..., Worker]


class Held:
    """Tasks that run until the test lets them go, and the log of where each was started."""

    def __init__(self, folder: Path) -> None:
        self.log, self.until = folder / "started", folder / "go"

    def arguments(self, what: str) -> tuple[str, str, str]:
        return str(self.log), what, str(self.until)

    def started(self) -> dict[str, list[int]]:
        """The processes in which each was started."""
        found: dict[str, list[int]] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            what, pid = line.split()
            found.setdefault(what, []).append(int(pid))
        return found

    def let_go(self) -> None:
        self.until.touch()


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def the_child(node: Worker) -> psutil.Process:
    (child,) = children(node).values()
    return child


def test_what_runs_in_a_replaced_worker_goes_on_beside_its_successor(
    worker: Start, client: Celery, valkey: EmbeddedServer, held: Held
) -> None:
    # Far less time to drain than what runs will take.
    env = {"ASYNCWORKER_DRAIN_TIMEOUT_S": "0.2", "ASYNCWORKER_DRAIN_GRACE_S": "0.1"}
    node = worker(HELD, "--processes", "1", "--max-tasks", "5", "-c", "5", *QUICK, env=env)
    old = the_child(node)
    kinds = {kind: client.tasks[f"h.{kind}"].delay(*held.arguments(kind)) for kind in ("early", "late", "sync")}
    log, _, until = held.arguments("")
    fan_out = client.tasks["h.item"].partial(log=log, until=until).iterate(what=["i0", "i1", "i2"]).delay()
    revoked = client.tasks["h.early"].delay(*held.arguments("revoked"))
    begun = {*kinds, "i0", "i1", "i2", "revoked"}
    # These find no free slot, and one waits for its time.
    waiting = [client.tasks["h.late"].delay(*held.arguments(f"w{n}")) for n in range(3)]
    waiting.append(client.tasks["h.late"].apply_async(held.arguments("w3"), countdown=5))
    node.wait_for_log("is replaced: 5 tasks, of at most 5", LONG_S)
    node.wait_for_log(" retires: ", LONG_S)
    wait_until(lambda: set(held.started()) == begun | {"w0", "w1", "w2", "w3"}, LONG_S)
    started = held.started()
    assert {pid for what in begun for pid in started[what]} == {old.pid}
    (new,) = {pid for n in range(4) for pid in started[f"w{n}"]}
    assert new != old.pid
    # Both are reached by remote control, each under a name of its own.
    pings = client.control.inspect(timeout=LONG_S, limit=2).ping()
    assert set(pings) == {"worker-1@test", f"worker-1-{old.pid}@test"}
    client.control.revoke(revoked.id, terminate=True)
    wait_until(lambda: revoked.state == "REVOKED", LONG_S)
    assert old.is_running()
    held.let_go()
    assert {result.get(timeout=LONG_S) for result in kinds.values()} == {old.pid}
    fan_out.get(timeout=LONG_S)
    assert fan_out.results() == [old.pid] * 3
    assert {result.get(timeout=LONG_S) for result in waiting} == {new}
    assert ends([old])
    assert the_child(node).pid == new
    assert all(len(pids) == 1 for pids in held.started().values())
    assert node.stop() == 0
    with redis.Redis.from_url(valkey.redis_url) as broker:
        assert broker.llen("celery") == broker.hlen("unacked") == 0
    assert "another starts in" not in node.log()
    assert "Traceback" not in node.log()


def test_a_retiring_worker_outlives_its_connection(
    worker: Start, client: Celery, valkey: EmbeddedServer, held: Held
) -> None:
    node = worker(HELD, "--processes", "1", "--max-tasks", "2", *QUICK)
    old = the_child(node)
    results = [client.tasks[f"h.{kind}"].delay(*held.arguments(kind)) for kind in ("early", "late")]
    node.wait_for_log(" retires: ", LONG_S)
    with redis.Redis.from_url(valkey.redis_url) as broker:
        broker.client_kill_filter(_type="normal", skipme=True)
        broker.client_kill_filter(_type="pubsub", skipme=True)
    # It consumes nothing after its reconnect, either.
    wait_until(lambda: node.log().count("Connected to") >= 4, LONG_S)
    more = [client.tasks["h.early"].delay(*held.arguments(f"m{n}")) for n in range(5)]
    wait_until(lambda: len(held.started()) == 7, LONG_S)
    assert old.pid not in {pid for n in range(5) for pid in held.started()[f"m{n}"]}
    held.let_go()
    assert [result.get(timeout=LONG_S) for result in results] == [old.pid] * 2
    assert old.pid not in {result.get(timeout=LONG_S) for result in more}
    assert ends([old])
    assert held.started()["late"] == [old.pid]


def test_at_most_one_predecessor_of_a_place_runs_its_last_tasks(worker: Start, client: Celery, held: Held) -> None:
    port = free_port()
    env = {"ASYNCWORKER_PROMETHEUS_PORT": str(port)}
    node = worker(HELD, "--processes", "1", "--max-tasks", "1", *QUICK, env=env)
    old = the_child(node)
    results = [client.tasks["h.early"].delay(*held.arguments("first"))]
    node.wait_for_log(" retires: ", LONG_S)
    # The page for Prometheus is the successor's now.
    node.wait_for_log(f"the page for Prometheus on 127.0.0.1:{port} is open", LONG_S)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG_S) as page:
        assert b"asyncworker_executor_running_tasks 0.0" in page.read()
    for number in range(5):
        results.append(client.tasks["h.early"].delay(*held.arguments(f"n{number}")))
        wait_until(lambda: len(held.started()) == 2 + number, LONG_S)  # noqa: B023
    assert len({pid for pids in held.started().values() for pid in pids}) == 2
    held.let_go()
    assert all(result.get(timeout=LONG_S) for result in results)
    assert ends([old])
    # Only now the second one, which has long had enough.
    wait_until(lambda: node.log().count(" is replaced: ") == 2, LONG_S)


def test_a_warm_shutdown_ends_those_that_retire_as_well(worker: Start, client: Celery, held: Held) -> None:
    env = {"ASYNCWORKER_DRAIN_TIMEOUT_S": "0.2"}
    node = worker(HELD, "--processes", "1", "--max-tasks", "1", *QUICK, env=env)
    result = client.tasks["h.early"].delay(*held.arguments("lost"))
    node.wait_for_log(" retires: ", LONG_S)
    both = psutil.Process(node.pid).children()
    node.signal(signal.SIGTERM)
    assert node.wait(LONG_S) == 124
    assert ends(both)
    assert reported(result) == "WorkerLostError"


def reported(result: Any) -> str:
    with pytest.raises(Exception, match="cut short") as failure:
        result.get(timeout=LONG_S)
    return type(failure.value).__name__


@pytest.mark.parametrize("kind", ["early", "sync"])
def test_what_a_shutdown_cuts_short_is_reported_as_lost(worker: Start, client: Celery, held: Held, kind: str) -> None:
    node = worker(HELD, *QUICK, env={"ASYNCWORKER_DRAIN_TIMEOUT_S": "0.2", "ASYNCWORKER_CANCEL_GRACE_S": "1"})
    lost = client.tasks[f"h.{kind}"].delay(*held.arguments(kind))
    late = client.tasks["h.late"].delay(*held.arguments("late"))
    wait_until(lambda: len(held.started()) == 2, LONG_S)
    assert node.stop() == 0
    assert reported(lost) == "WorkerLostError"
    # This one returns to its queue.
    held.let_go()
    worker(HELD, *QUICK, name="next@test")
    assert late.get(timeout=LONG_S) != held.started()["late"][0]
