"""Signals that come while the main thread uses the broker connection end the worker as at any other time."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import WorkerLostError

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import interrupted_tasks
from tests.integration.test_recycling import LONG_S, Held, held
from tests.integration.test_shutdown import wait_until
from tests.integration.test_supervisor import QUICK
from tests.servers.client import client_app, wait_until_listening
from tests.servers.worker import Worker, running_worker

__all__ = ["held"]

MODULE = interrupted_tasks.__name__

#: For what is the same with each.
ONE_BROKER = pytest.mark.parametrize("scene", ["redis"], indirect=True)


@dataclass
class Scene:
    """A broker, its client, and a worker that is interrupted in a place."""

    client: Celery[Any]
    start: Callable[..., Worker]
    messages: Callable[[], int]
    drop_connections: Callable[[], None]
    now: Path
    held: Held

    def run_both(self) -> tuple[Any, Any]:
        """Have an early-ack and a late-ack task run until they are let go."""
        results = tuple(self.client.tasks[f"h.{kind}"].delay(*self.held.arguments(kind)) for kind in ("early", "late"))
        wait_until(lambda: len(self.held.started()) == 2, LONG_S)
        return results

    def drain(self, node: Worker) -> None:
        """Ask for a warm shutdown, and wait until the worker only lets its tasks end."""
        wait_until_listening(self.client, node.name)
        node.signal(signal.SIGTERM)
        wait_until(self._is_refused, LONG_S)

    def _is_refused(self) -> bool:
        """Tell whether the worker drains: it then obeys no more but to revoke."""
        answers = self.client.control.rate_limit("h.early", "0", reply=True, timeout=10, limit=1)
        return "this worker is about to end" in str(answers)

    def interrupt(self, node: Worker, *, by: str = "ping") -> None:
        """Have the next use of the connection interrupted, and bring one about."""
        self.now.touch()
        if by == "task":
            self.client.tasks["h.late"].delay(str(self.held.log), "short", str(self.now.parent))
        wait_until(lambda: self._is_interrupted(node, by), LONG_S)

    def _is_interrupted(self, node: Worker, by: str) -> bool:
        if by == "ping":
            self.client.control.ping(timeout=0.1, limit=1)
        return "\ninterrupted in " in node.log()


@pytest.fixture(params=["redis", "rabbitmq"])
def scene(
    request: pytest.FixtureRequest, valkey: EmbeddedServer, state_dir: Path, tmp_path: Path, held: Held
) -> Iterator[Scene]:
    now = tmp_path / "now"
    with redis.Redis.from_url(valkey.redis_url) as connection:
        if request.param == "rabbitmq":
            rabbitmq = request.getfixturevalue("rabbitmq")
            vhost = rabbitmq.add_vhost()
            urls: Any = SimpleNamespace(broker_url=rabbitmq.broker_url(vhost), result_url=valkey.result_url)
        else:
            urls = valkey

        def messages() -> int:
            if request.param == "rabbitmq":
                return int(rabbitmq.messages(vhost))
            return int(connection.llen("celery")) + int(connection.hlen("unacked"))

        def drop_connections() -> None:
            if request.param == "rabbitmq":
                rabbitmq.drop_connections(vhost)
                return
            for kind in ("normal", "pubsub"):
                connection.client_kill_filter(_type=kind, skipme=True)

        env = {
            "ASYNCWORKER_BROKER_URL": urls.broker_url,
            "ASYNCWORKER_RESULT_URL": urls.result_url,
            "ASYNCWORKER_STATE_DIR": str(state_dir),
            "ASYNCWORKER_INCLUDE": MODULE,
            "ASYNCWORKER_CANCEL_GRACE_S": "1",
            # Longer than any test waits: no shutdown may end by it.
            "ASYNCWORKER_DRAIN_TIMEOUT_S": "3600",
            "INTERRUPT_NOW": str(now),
        }
        with client_app(urls, asyncworker_state_dir=str(state_dir)) as client, contextlib.ExitStack() as stack:

            def start(interrupt: str, *arguments: str, ready: bool = True, **variables: str) -> Worker:
                variables = {**env, **variables, "INTERRUPT": interrupt}
                return stack.enter_context(running_worker(tmp_path, *QUICK, *arguments, env=variables, ready=ready))

            yield Scene(client, start, messages, drop_connections, now, held)


def ends_cold(scene: Scene, node: Worker, early: Any, late: Any, failures: int = 1) -> None:
    """Check that what is acknowledged has failed, that the other task is in the queue, and the exit code."""
    assert node.wait(LONG_S) == 0
    with pytest.raises(WorkerLostError, match="was cut short: its worker ended"):
        early.get(timeout=LONG_S)
    assert late.state == "PENDING"
    wait_until(lambda: scene.messages() == 1, LONG_S)
    # The failure is logged as any other one, and no other error.
    log = node.log()
    assert log.count("Task handler raised error: ") == log.count(": ERROR/") == failures
    assert ": CRITICAL/" not in log


@pytest.mark.parametrize("place", ["read", "write", "publish", "ack"])
@pytest.mark.promise("cold-shutdown-reports-what-it-cuts")
def test_sigquit_while_the_connection_is_used_is_a_cold_shutdown(scene: Scene, place: str) -> None:
    node = scene.start(f"{place} SIGQUIT")
    early, late = scene.run_both()
    scene.interrupt(node, by="task" if place == "ack" else "ping")
    ends_cold(scene, node, early, late)


@pytest.mark.parametrize("place", ["read", "write", "publish"])
@pytest.mark.promise("cold-shutdown-reports-what-it-cuts")
def test_sigquit_while_the_connection_is_used_cuts_a_drain_short(scene: Scene, place: str) -> None:
    node = scene.start(f"{place} SIGQUIT")
    early, late = scene.run_both()
    scene.drain(node)
    scene.interrupt(node)
    ends_cold(scene, node, early, late)


@pytest.mark.parametrize("place", ["write", "connect"])
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_a_signal_while_a_worker_connects_ends_it(scene: Scene, place: str, number: signal.Signals) -> None:
    scene.now.touch()
    node = scene.start(f"{place} {number.name}", ready=False)
    assert node.wait(LONG_S) == 0
    assert "\ninterrupted in " in node.log()
    assert "Traceback" not in node.log()


def test_sigquit_during_a_reconnect_is_a_cold_shutdown(scene: Scene) -> None:
    node = scene.start("connect SIGQUIT")
    early, late = scene.run_both()
    scene.now.touch()
    scene.drop_connections()
    assert node.wait(LONG_S) == 0
    assert "\ninterrupted in " in node.log()
    with pytest.raises(WorkerLostError):
        early.get(timeout=LONG_S)
    assert late.state == "PENDING"
    wait_until(lambda: scene.messages() == 1, LONG_S)


@pytest.mark.parametrize("scene", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize(
    ("signals", "variables"),
    [("SIGINT SIGINT", {}), ("SIGTERM SIGQUIT", {}), ("SIGTERM", {"REMAP_SIGTERM": "SIGQUIT"})],
    ids=["ctrl-c twice", "warm and cold", "remapped"],
)
def test_other_ways_to_a_cold_shutdown_are_as_safe(scene: Scene, signals: str, variables: dict[str, str]) -> None:
    node = scene.start(f"write {signals}", **variables)
    early, late = scene.run_both()
    scene.interrupt(node)
    ends_cold(scene, node, early, late)


@ONE_BROKER
def test_a_second_sigquit_waits_for_nothing(scene: Scene) -> None:
    """Neither for the rest of a soft shutdown, nor for what was cancelled to clean up."""
    node = scene.start(
        "write SIGQUIT SIGQUIT", "--", "worker.soft_shutdown_timeout=3600", ASYNCWORKER_CANCEL_GRACE_S="3600"
    )
    early, late = scene.run_both()
    stubborn = scene.client.tasks["h.sync"].delay(*scene.held.arguments("stubborn"))
    wait_until(lambda: len(scene.held.started()) == 3, LONG_S)
    scene.interrupt(node)
    ends_cold(scene, node, early, late, failures=2)
    assert stubborn.state == "FAILURE"


@ONE_BROKER
def test_a_third_sigquit_ends_the_process_at_once(scene: Scene) -> None:
    node = scene.start("write SIGQUIT SIGQUIT SIGQUIT")
    _early, late = scene.run_both()
    scene.interrupt(node)
    assert node.wait(LONG_S) == 1
    assert late.state == "PENDING"
    assert scene.messages() == 1


@ONE_BROKER
def test_a_cold_shutdown_ends_though_the_broker_does_not_answer(scene: Scene) -> None:
    node = scene.start("write SIGQUIT SIGQUIT", INTERRUPT_HANGS="1")
    _early, late = scene.run_both()
    scene.interrupt(node)
    assert node.wait(LONG_S) == 1
    assert "the cold shutdown takes too long; ending at once" in node.log()
    assert late.state == "PENDING"
    assert scene.messages() == 1


@ONE_BROKER
def test_a_forked_process_is_ended_by_sigquit_and_leaves_its_workers_connection_alone(scene: Scene) -> None:
    node = scene.start("fork SIGQUIT")
    early, _late = scene.run_both()
    assert scene.client.tasks["h.fork"].delay(signal.SIGQUIT).get(timeout=LONG_S) == -signal.SIGQUIT
    scene.held.let_go()
    assert early.get(timeout=LONG_S)
    assert node.stop() == 0
