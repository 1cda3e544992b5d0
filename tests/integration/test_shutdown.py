"""How a worker ends: what runs is finished, what waits goes back, nothing is lost or run twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.client import wait_until_listening
from tests.servers.worker import Worker

MODULE = tasks.__name__


@pytest.fixture
def broker(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url) as connection:
        yield connection


def wait_until(reached: Callable[[], bool], timeout_s: float = 120) -> None:
    give_up = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["t.gated_late", "t.thread_until"])
def test_sigterm_finishes_what_runs_and_returns_what_waits(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis, tmp_path: Path, name: str
) -> None:
    gate = str(tmp_path / "gate")
    arguments = (gate,) if name == "t.thread_until" else (str(tmp_path / "log"), gate)
    node = worker(MODULE, "-c", "5", "--without-mingle")
    results = [client.tasks[name].delay(*arguments) for _ in range(12)]
    wait_until(lambda: node.log().count("received") >= 5)
    node.signal(signal.SIGTERM)
    wait_until(lambda: refuses(client))
    Path(gate).touch()
    assert node.wait() == 0
    assert sum(result.state == "SUCCESS" for result in results) == 5
    assert broker.llen("celery") == 7
    assert broker.hlen("unacked") == 0
    assert "Traceback" not in node.log()


def test_a_revoked_task_that_still_waits_never_runs(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = worker(MODULE, "-c", "1", "--without-mingle")
    first = client.tasks["t.gated"].delay(10, str(gate))
    second = client.tasks["t.sleep"].delay(0)
    node.wait_for_log("received")
    second.revoke()
    node.wait_for_log(f"Tasks flagged as revoked: {second.id}")
    gate.touch()
    assert first.get(timeout=120) == 10
    with pytest.raises(Exception, match="revoked"):
        second.get(timeout=120)


def test_sigquit_cancels_what_runs_and_unacknowledged_tasks_return(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis
) -> None:
    node = worker(MODULE, "-c", "5", "--without-mingle")
    for _ in range(3):
        client.tasks["t.sleep_late"].delay(60)
    wait_until(lambda: node.log().count("received") >= 3)
    node.signal(signal.SIGQUIT)
    node.wait(120)
    assert broker.llen("celery") + broker.hlen("unacked") == 3


@pytest.mark.parametrize(("name", "returns"), [("t.sleep_late", 1), ("t.burn_cpu", 0), ("t.thread_sleep", 0)])
@pytest.mark.promise("drain-has-an-end")
def test_a_drain_that_takes_too_long_is_cut_short(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis, name: str, returns: int
) -> None:
    """Also where the loop itself is blocked, or a thread; late-ack tasks return to the queue, others fail."""
    node = worker(
        MODULE, "--without-mingle", env={"ASYNCWORKER_DRAIN_TIMEOUT_S": "1", "ASYNCWORKER_CANCEL_GRACE_S": "1"}
    )
    result = client.tasks[name].delay(600)
    node.wait_for_log(f"{name}[{result.id}] received")
    node.signal(signal.SIGTERM)
    assert node.wait(120) == 0
    assert f"1 tasks did not end within 1 s and are cancelled: {name}[{result.id}]" in node.log()
    assert broker.llen("celery") + broker.hlen("unacked") == returns
    if name != "t.burn_cpu":  # a loop that is blocked stores nothing
        assert result.state == ("PENDING" if returns else "FAILURE")


def refuses(client: Celery, workers: int = 1) -> bool:
    """Tell whether all workers drain: they then obey no more but to revoke."""
    answers = client.control.rate_limit("t.add", "0", reply=True, timeout=10, limit=workers)
    return [list(answer.values()) for answer in answers] == [[{"error": "this worker is about to end"}]] * workers


@pytest.mark.parametrize("when", ["at once", "while it drains"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGQUIT])
def test_a_second_signal(
    worker: Callable[..., Worker],
    client: Celery,
    broker: redis.Redis,
    tmp_path: Path,
    second: signal.Signals,
    when: str,
) -> None:
    """As with stock pools, another SIGTERM is no more than the first; SIGQUIT hurries it."""
    node = worker(MODULE, "--without-mingle")
    gate = tmp_path / "gate"
    result = client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate))
    node.wait_for_log(f"t.gated_late[{result.id}] received")
    node.signal(signal.SIGTERM)
    node.wait_for_log("Warm shutdown")
    if when == "while it drains":
        wait_until(lambda: refuses(client))
    node.signal(second)
    if second == signal.SIGTERM:
        wait_until(lambda: refuses(client))
        gate.touch()
    node.wait()
    if second == signal.SIGTERM:
        assert result.state == "SUCCESS"
    assert broker.llen("celery") + broker.hlen("unacked") == (0 if second == signal.SIGTERM else 1)
    assert "Traceback" not in node.log()


@pytest.mark.parametrize("what", ["task", "fan-out"])
@pytest.mark.parametrize("transport", ["fast", "stock"])
@pytest.mark.promise("draining-worker-answers")
def test_what_still_runs_while_it_drains_is_seen_and_can_be_revoked(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis, tmp_path: Path, what: str, transport: str
) -> None:
    """Prefork's remote control is gone by then."""
    env = {"ASYNCWORKER_DRAIN_GRACE_S": "600", "ASYNCWORKER_FAST_BROKER": "1" if transport == "fast" else "0"}
    node = worker(MODULE, "--without-mingle", env=env)
    gate = tmp_path / "gate"
    other = client.tasks["t.gated"].delay(10, str(gate))
    if what == "task":
        result = client.tasks["t.sleep_late"].delay(600)
    else:
        result = client.tasks["t.sleep"].partial().iterate(seconds=[600, 600]).delay()
    for running in (other, result):
        node.wait_for_log(f"[{running.id}] received")
    node.signal(signal.SIGTERM)
    node.wait_for_log("Warm shutdown")

    wait_until(lambda: refuses(client))
    seen = client.control.inspect(timeout=60, limit=1).active()
    assert {each["id"] for each in seen[node.name]} == {other.id, result.id}
    result.revoke(terminate=True)
    node.wait_for_log(f"Terminating {result.id}")
    gate.touch()
    assert node.wait(120) == 0
    assert result.state == "REVOKED"
    assert other.state == "SUCCESS"
    assert broker.llen("celery") + broker.hlen("unacked") == 0
    assert "Traceback" not in node.log()


@pytest.mark.promise("draining-worker-answers")
def test_a_worker_that_starts_learns_what_was_revoked_from_one_that_drains(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    first = worker(MODULE, "--without-mingle", "--without-gossip")
    running = client.tasks["t.gated"].delay(10, str(gate))
    first.wait_for_log(f"[{running.id}] received")
    first.signal(signal.SIGTERM)
    first.wait_for_log("Warm shutdown")
    wait_until(lambda: refuses(client))
    revoked, other = (client.tasks["t.item"].delay(number, log=str(log)) for number in (1, 2))
    revoked.revoke()
    first.wait_for_log(f"Tasks flagged as revoked: {revoked.id}")
    second = worker(MODULE, "--without-gossip", name="second@test")
    assert other.get(timeout=120) == 4
    second.wait_for_log(f"Discarding revoked task: t.item[{revoked.id}]")
    gate.touch()
    assert first.wait(120) == 0
    assert log.read_text() == "2\n"


def test_a_task_whose_acceptance_failed_with_the_connection_holds_no_slot(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    """It comes again, and nothing of its first coming holds up the end."""
    node = worker(MODULE, "-c", "1", "--without-mingle")
    result = client.tasks["t.accepted_in_vain"].delay(str(tmp_path / "once"))
    assert result.get(timeout=120) == "done"
    assert "Connection to broker lost" in node.log()
    wait_until_listening(client, node.name)
    inspect = client.control.inspect(timeout=60, limit=1)
    # The outcome is stored before the slot is free.
    wait_until(lambda: inspect.active() == {node.name: []})
    wait_until(lambda: inspect.stats()[node.name]["pool"]["in-flight"] == 0)
    assert node.stop() == 0


@pytest.mark.promise("revoke-finds-what-runs-after-a-lost-connection")
def test_what_runs_can_be_revoked_when_the_connection_is_back(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis
) -> None:
    node = worker(MODULE, "--without-mingle")
    result = client.tasks["t.sleep"].delay(600)
    node.wait_for_log(f"[{result.id}] received")
    for kind in ("normal", "pubsub"):
        broker.client_kill_filter(_type=kind, skipme=True)
    assert client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    wait_until_listening(client, node.name)
    result.revoke(terminate=True)
    node.wait_for_log(f"Terminating {result.id}")
    assert node.stop() == 0


def test_kill_loses_no_late_task(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = worker(MODULE, "-c", "5", "--without-mingle")
    results = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(5)]
    wait_until(lambda: broker.hlen("unacked") == 5)
    node.kill()
    node.wait()
    gate.touch()
    # What the visibility timeout would do in an hour.
    for tag in broker.hkeys("unacked"):
        broker.zadd("unacked_index", {tag: 0})
    worker(MODULE, "-c", "5", "--without-mingle", name="second@test")
    assert [result.get(timeout=120) for result in results] == ["done"] * 5


def test_a_broker_restart_does_not_make_the_worker_deaf(
    worker: Callable[..., Worker], client: Celery, broker: redis.Redis, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = worker(MODULE, "-c", "50", "--without-mingle")
    running = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(20)]
    wait_until(lambda: node.log().count("received") >= 20)
    # Every connection but ours: the consumer's, the control channel's, the results'.
    broker.client_kill_filter(_type="normal", skipme=True)
    broker.client_kill_filter(_type="pubsub", skipme=True)
    gate.touch()
    assert [result.get(timeout=120) for result in running] == ["done"] * 20
    assert client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    assert node.returncode is None


def waiting_stubbornly(client: Celery) -> int:
    """Count the stubborn tasks that have come to where they wait: one that is cancelled before never starts."""
    seen = client.control.broadcast("coroutines", reply=True, timeout=10, limit=1)
    return str(seen).count("await asyncio.sleep(left)")


@pytest.mark.promise("zombies-are-named")
def test_a_task_that_swallows_its_cancellation_is_named_and_keeps_its_slot(
    worker: Callable[..., Worker], client: Celery
) -> None:
    node = worker(MODULE, "-c", "2", "--without-mingle", env={"ASYNCWORKER_CANCEL_GRACE_S": "0.2"})
    result = client.tasks["t.stubborn"].delay(600)
    wait_until(lambda: waiting_stubbornly(client) == 1)
    result.revoke(terminate=True)
    node.wait_for_log("it keeps its slot. It stands at:")
    wait_until(lambda: result.state == "REVOKED")
    named = node.log().partition(f"t.stubborn[{result.id}] did not end within 0.2 s of its cancellation")[2]
    assert "await asyncio.sleep(left)" in named
    pool = client.control.inspect(timeout=60, limit=1).stats()[node.name]["pool"]
    assert (pool["in-flight"], pool["zombies"]) == (1, 1)


def test_a_worker_with_too_many_zombies_ends_to_be_started_anew(worker: Callable[..., Worker], client: Celery) -> None:
    env = {"ASYNCWORKER_MAX_ZOMBIES": "2", "ASYNCWORKER_CANCEL_GRACE_S": "0.2"}
    node = worker(MODULE, "--without-mingle", env=env)
    stubborn = [client.tasks["t.stubborn"].delay(600) for _ in range(2)]
    healthy = client.tasks["t.sleep"].delay(1)
    wait_until(lambda: node.log().count("received") >= 3 and waiting_stubbornly(client) == 2)
    for result in stubborn:
        result.revoke(terminate=True)
    assert node.wait(120) == 1
    assert healthy.state == "SUCCESS"
    assert "2 tasks do not end: this worker shuts down" in node.log()
