"""Smoke tests over servers from Docker: the images that people run, and not the ones of this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.worker import running_worker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

GET_S = 120.0


@contextlib.contextmanager
def running_container(engine: Any, image: str, port: int, started: str) -> Iterator[int]:
    """Run a server from an image; yields the port of this machine at which it answers."""
    container = engine.containers.run(image, detach=True, ports={f"{port}/tcp": ("127.0.0.1", None)})
    try:
        give_up_at_s = time.monotonic() + 120
        while started not in container.logs().decode():
            assert time.monotonic() < give_up_at_s, container.logs().decode()
            time.sleep(0.1)
        container.reload()
        yield int(container.ports[f"{port}/tcp"][0]["HostPort"])
    finally:
        container.remove(force=True, v=True)


def check(folder: Path, broker_url: str, result_url: str) -> None:
    """A worker runs a task of each kind."""
    env = {
        "ASYNCWORKER_BROKER_URL": broker_url,
        "ASYNCWORKER_RESULT_URL": result_url,
        "ASYNCWORKER_STATE_DIR": str(folder),
        "ASYNCWORKER_INCLUDE": tasks.__name__,
    }
    urls: Any = SimpleNamespace(broker_url=broker_url, result_url=result_url)
    with running_worker(folder, env=env), client_app(urls, asyncworker_state_dir=str(folder)) as app:
        t = app.tasks
        assert t["t.add"].delay(1, 2).get(timeout=GET_S) == 3
        assert t["t.sync_double"].delay(4).get(timeout=GET_S)[0] == 8
        assert t["t.sleep_late"].delay(0.1).get(timeout=GET_S) == 0.1
        run = t["t.item"].partial().iterate(number=range(500)).delay()
        assert run.get(timeout=GET_S)["done"] == 500
        assert run.results() == [2 * n for n in range(500)]


@pytest.mark.parametrize("image", ["redis:7-alpine", "valkey/valkey:8-alpine"])
def test_redis(docker_client: Any, tmp_path: Path, image: str) -> None:
    with running_container(docker_client, image, 6379, "Ready to accept connections") as port:
        check(tmp_path, f"redis://127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/1")


def test_rabbitmq(docker_client: Any, tmp_path: Path, valkey: EmbeddedServer) -> None:
    with running_container(docker_client, "rabbitmq:4-alpine", 5672, "Server startup complete") as port:
        check(tmp_path, f"amqp://guest:guest@127.0.0.1:{port}//", valkey.result_url)
