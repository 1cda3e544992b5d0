"""``celery worker --processes N``: complete workers, replaced when they die or have had enough, ended together."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.integration.test_shutdown import refuses, wait_until
from tests.servers.client import wait_until_listening
from tests.servers.worker import ROOT, Worker

MODULE = tasks.__name__
FRAGILE = "tests.integration.fragile_tasks"
NODES = {"worker-1@test", "worker-2@test"}
QUICK = ("--without-mingle", "--without-gossip")

Start = Callable[..., Worker]


@pytest.fixture
def broker(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url) as connection:
        yield connection


@pytest.fixture
def start(worker: Start, tmp_path: Path) -> Start:
    """Start a supervisor of two; returns once both are ready."""

    def start(*arguments: str, module: str = MODULE, env: dict[str, str] | None = None) -> Worker:
        variables = {"FRAGILE_FOLDER": str(tmp_path)} | (env or {})
        node = worker(module, "--processes", "2", *QUICK, *arguments, env=variables)
        wait_until(lambda: node.log().count(" ready.") >= 2 or node.returncode is not None)
        assert node.returncode is None, node.log()
        return node

    return start


def children(node: Worker) -> dict[str, psutil.Process]:
    """The worker processes by the name of their node."""
    found = {}
    for process in psutil.Process(node.pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            words = process.cmdline()
            if "--supervised" in words:
                found[words[words.index("--supervised") - 1]] = process
    return found


def ends(processes: Any) -> bool:
    _gone, alive = psutil.wait_procs(list(processes), timeout=60)
    return not alive


@pytest.mark.promise("supervisor-drains-all")
def test_each_process_is_a_worker_of_its_own_and_sigterm_drains_all(
    start: Start, client: Celery, broker: redis.Redis, tmp_path: Path
) -> None:
    pidfile = tmp_path / "pid"
    node = start("-c", "5", "--pidfile", str(pidfile))
    pids = {name: process.pid for name, process in children(node).items()}
    assert set(pids) == NODES
    assert int(pidfile.read_text()) == node.pid
    wait_until_listening(client, *NODES)
    pings = client.control.broadcast("ping", reply=True, timeout=60, limit=2)
    assert {name for ping in pings for name in ping} == NODES
    stats = client.control.inspect(timeout=60, limit=2).stats()
    assert {name: each["pid"] for name, each in stats.items()} == pids
    assert [each["pool"]["max-concurrency"] for each in stats.values()] == [5, 5]
    for name in NODES:
        assert f"/{name}] {name} ready." in node.log()
    processes = list(children(node).values())
    gate = tmp_path / "gate"
    results = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(14)]
    wait_until(lambda: node.log().count("received") >= 10)
    node.signal(signal.SIGTERM)
    wait_until(lambda: refuses(client, workers=2))
    gate.touch()
    assert node.wait() == 0
    assert ends(processes)
    assert sum(result.state == "SUCCESS" for result in results) == 10
    assert broker.llen("celery") == 4
    assert broker.hlen("unacked") == 0
    assert not pidfile.exists()
    assert "Traceback" not in node.log()


@pytest.mark.promise("dead-worker-is-replaced")
def test_a_killed_worker_is_replaced_and_a_killed_supervisor_leaves_none(start: Start, client: Celery) -> None:
    node = start("-c", "5")
    before = children(node)
    before["worker-1@test"].kill()
    node.wait_for_log("worker-1@test ended with signal SIGKILL; another starts in 0.5 s")
    # The other one alone has them all, long before the replacement is ready or with it.
    assert [client.tasks["t.add"].delay(i, 1).get(timeout=120) for i in range(10)] == list(range(1, 11))
    wait_until(lambda: node.log().count("worker-1@test ready.") == 2)
    after = children(node)
    assert after["worker-1@test"].pid != before["worker-1@test"].pid
    assert after["worker-2@test"] == before["worker-2@test"]
    if sys.platform == "linux":  # elsewhere there is no parent-death signal
        node.kill()
        assert ends(after.values())


@pytest.mark.promise("dead-worker-is-replaced")
def test_a_crash_loop_backs_off_and_is_left_when_the_cause_is_gone(
    start: Start, client: Celery, tmp_path: Path
) -> None:
    node = start(module=f"{FRAGILE},{MODULE}")
    spawns, broken = tmp_path / "spawns", tmp_path / "broken"
    broken.touch()
    survivor = children(node)["worker-2@test"]
    children(node)["worker-1@test"].kill()
    wait_until(lambda: len(spawns.read_text().split()) >= 2 + 2)
    assert client.tasks["t.add"].delay(1, 1).get(timeout=120) == 2
    node.wait_for_log("ended with exit code 3; another starts in 2 s")
    broken.unlink()
    wait_until(lambda: node.log().count("worker-1@test ready.") == 2)
    waits = [float(wait) for wait in re.findall(r"another starts in ([\d.]+) s", node.log())]
    assert waits[:3] == [0.5, 1, 2]
    assert len(spawns.read_text().split()) == 2 + len(waits)
    assert children(node)["worker-2@test"] == survivor


def test_what_keeps_all_from_starting_ends_it(worker: Start, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    node = worker(FRAGILE, "--processes", "2", *QUICK, env={"FRAGILE_FOLDER": str(tmp_path)}, ready=False)
    assert node.wait(120) == 3
    assert "ended with exit code 3 before any worker was ready: giving up" in node.log()


def test_after_the_drain_deadline_it_cuts_short_and_says_so(start: Start, client: Celery) -> None:
    node = start(env={"ASYNCWORKER_DRAIN_TIMEOUT_S": "0.5"})
    processes = list(children(node).values())
    client.tasks["t.sleep"].delay(60)
    node.wait_for_log("received")
    node.signal(signal.SIGTERM)
    assert node.wait(120) == 124
    assert "did not end within 0.5 s" in node.log()
    assert ends(processes)


def test_a_second_ctrl_c_is_a_cold_shutdown(start: Start, client: Celery, broker: redis.Redis) -> None:
    node = start()
    processes = list(children(node).values())
    for _ in range(4):
        client.tasks["t.sleep_late"].delay(60)
    wait_until(lambda: node.log().count("received") >= 4)
    node.signal(signal.SIGINT)
    node.wait_for_log("SIGINT: warm shutdown")
    wait_until(lambda: node.log().count("worker: Warm shutdown") == 2)
    node.signal(signal.SIGINT)
    assert node.wait(120) == 0
    assert ends(processes)
    assert broker.llen("celery") + broker.hlen("unacked") == 4


def test_a_signal_for_stacks_ends_no_worker_that_is_still_starting(worker: Start, client: Celery) -> None:
    node = worker(MODULE, "--processes", "1", *QUICK, ready=False)
    wait_until(lambda: bool(children(node)) or node.returncode is not None)

    def ready() -> bool:
        node.signal(signal.SIGUSR1)
        assert node.returncode is None, node.log()
        return " ready." in node.log()

    wait_until(ready, 100)
    assert client.tasks["t.add"].delay(1, 1).get(timeout=30) == 2
    assert "ended with" not in node.log()


def test_one_that_hangs_makes_all_unhealthy(start: Start, worker_env: dict[str, str], tmp_path: Path) -> None:
    variables = {"ASYNCWORKER_HEALTH_FILE": str(tmp_path / "health")}
    (tmp_path / "health.3").write_text('{"pid":1,"at_s":0,"in_flight":0}')
    node = start(env=variables)
    command = [sys.executable, "-c", "from asyncworker.cli import main; main()", "health", "--max-age", "2"]

    def health() -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    running = children(node)
    wait_until(lambda: health().stdout.count(" is alive") == 2)
    hanging = running["worker-2@test"]
    hanging.suspend()
    wait_until(lambda: f"process {hanging.pid} gave its last sign of life" in health().stderr)
    assert health().returncode == 1
    hanging.kill()
    wait_until(lambda: not (tmp_path / "health.2").exists())
    wait_until(lambda: health().returncode == 0)
    assert node.stop() == 0
    assert not list(tmp_path.glob("health*"))


def test_one_in_a_crash_loop_makes_all_unhealthy(start: Start, client: Celery, tmp_path: Path) -> None:
    variables = {"ASYNCWORKER_HEALTH_FILE": str(tmp_path / "health")}
    node = start(module=f"{FRAGILE},{MODULE}", env=variables)
    command = [sys.executable, "-c", "from asyncworker.cli import main; main()", "health", "--max-age", "3"]

    def health() -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    wait_until(lambda: health().returncode == 0)
    (tmp_path / "broken").touch()
    children(node)["worker-1@test"].kill()
    # The other one gives its signs of life all the time.
    wait_until(lambda: "worker-1@test has not been steady for" in health().stderr)
    assert health().returncode == 1
    assert client.tasks["t.add"].delay(1, 1).get(timeout=120) == 2


def test_remote_shutdown_is_the_end(start: Start, client: Celery) -> None:
    node = start()
    wait_until_listening(client, *NODES)
    client.control.shutdown(destination=["worker-1@test"])
    node.wait_for_log("worker-1@test was shut down by remote control and is not replaced")
    assert set(children(node)) == {"worker-2@test"}
    client.control.shutdown()
    assert node.wait(120) == 0


@pytest.mark.promise("recycled-worker-loses-nothing")
def test_one_after_the_other_is_replaced_after_its_tasks_and_none_is_lost(
    start: Start, client: Celery, broker: redis.Redis
) -> None:
    node = start("-c", "2", "--max-tasks", "5")
    pids = {process.pid for process in children(node).values()}
    results = [client.tasks["t.sleep_late"].delay(0.2) for _ in range(30)]
    assert [result.get(timeout=120) for result in results] == [0.2] * 30
    wait_until(lambda: node.log().count(" is replaced: ") >= 2)
    assert re.search(r"is replaced: \d+ tasks, of at most 5", node.log())

    def both_are_replaced() -> bool:
        now = {each.pid for each in children(node).values()}
        if pids & now:  # one of the two may have had few of them
            results.append(client.tasks["t.sleep_late"].delay(0.2))
        return len(now) == 2 and not pids & now

    wait_until(both_are_replaced)
    assert [result.get(timeout=120) for result in results] == [0.2] * len(results)
    assert node.stop() == 0
    assert broker.llen("celery") == broker.hlen("unacked") == 0
    assert "another starts in" not in node.log()
    steps = re.findall(r"is replaced: |Connected to", node.log())[2:]
    assert ("is replaced: ", "is replaced: ") not in itertools.pairwise(steps)


@pytest.mark.parametrize("option", [("--max-memory-mb", "250"), ("--max-memory-per-child", str(250 << 10))])
@pytest.mark.promise("recycled-worker-loses-nothing")
def test_one_that_takes_too_much_memory_is_replaced(start: Start, client: Celery, option: tuple[str, str]) -> None:
    node = start(*option, module=FRAGILE)
    fat = client.send_task("f.hoard", (250,)).get(timeout=120)
    node.wait_for_log("MB of memory, of at most 250")
    wait_until(lambda: node.log().count(" ready.") == 3)
    assert fat not in {process.pid for process in children(node).values()}
