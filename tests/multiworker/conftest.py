"""pytest-celery's own fixtures, overridden where it would use Docker; and the skipping of what needs Docker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.multiworker.nodes import LocalContainer, LocalProcess, LocalWorkerContainer
from tests.servers.worker import Worker, running_worker

WORKERS = 3


@pytest.fixture
def celery_broker_cluster(valkey: EmbeddedServer) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(LocalContainer(valkey, valkey.broker_url)))


@pytest.fixture
def celery_backend_cluster(valkey: EmbeddedServer) -> CeleryBackendCluster:
    return CeleryBackendCluster(CeleryTestBackend(LocalContainer(valkey, valkey.result_url)))


@pytest.fixture
def celery_setup_app(client: Celery[Any]) -> Iterator[Celery[Any]]:
    """The client's app; nodes make it the current one of this thread."""
    before = _state._tls.current_app  # type: ignore[attr-defined]
    yield client
    _state._set_current_app(before)  # type: ignore[attr-defined]


@pytest.fixture
def celery_worker_cluster(
    request: pytest.FixtureRequest, celery_setup_app: Celery[Any], worker_env: dict[str, str], tmp_path: Path
) -> Iterator[CeleryWorkerCluster]:
    """Three workers, or as many as ``@pytest.mark.parametrize("celery_worker_cluster", [N], indirect=True)`` says."""
    env = worker_env | {"ASYNCWORKER_INCLUDE": tasks.__name__, "ASYNCWORKER_LEASE_S": "3"}

    def start(stack: contextlib.ExitStack, name: str) -> Worker:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        # Not waited for: all of them start at once.
        return stack.enter_context(
            running_worker(folder, "-c", "10", "--without-mingle", env=env, name=name, ready=False)
        )

    nodes: list[CeleryTestWorker] = []
    try:
        for _ in range(getattr(request, "param", WORKERS)):
            nodes.append(CeleryTestWorker(LocalWorkerContainer(LocalProcess(start)), app=celery_setup_app))
        cluster = CeleryWorkerCluster(*nodes)
        cluster.ready()
        yield cluster
    finally:
        for node in nodes:
            node.teardown()


# -- Docker ------------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("docker")]
    if wanting and (why := why_no_docker()):
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=why))


def why_no_docker() -> str:
    """Return why no Docker engine can be used; empty where one answers."""
    import docker

    try:
        with contextlib.closing(docker.from_env(timeout=5)) as engine:
            engine.ping()
    except Exception as exc:
        return f"no Docker engine answers: {type(exc).__name__}: {str(exc)[:80]}"
    return ""
