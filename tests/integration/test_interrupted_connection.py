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
from tests.integration.test_shutdown import refuses, wait_until
from tests.integration.test_supervisor import QUICK
from tests.servers.client import client_app, wait_until_listening
from tests.servers.worker import Worker, running_worker

__all__ = ["held"]

MODULE = interrupted_tasks.__name__


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
        wait_until(lambda: refuses(self.client), LONG_S)

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


def ends_cold(scene: Scene, node: Worker, early: Any, late: Any) -> None:
    """Check that what is acknowledged has failed, that the other task is in the queue, and the exit code."""
    assert node.wait(LONG_S) == 0
    with pytest.raises(WorkerLostError, match="was cut short: its worker ended"):
        early.get(timeout=LONG_S)
    assert late.state == "PENDING"
    wait_until(lambda: scene.messages() == 1, LONG_S)
    assert "Traceback" not in node.log()


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
