"""A worker for these pages, as ``celery -A asyncworker worker`` starts it, and the client's app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.fundamentals import shop
from tests.servers.client import client_app
from tests.servers.worker import running_worker


@pytest.fixture(scope="module")
def app(_valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery[Any]]:
    folder = tmp_path_factory.mktemp("fundamentals")
    env = {
        "ASYNCWORKER_BROKER_URL": _valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": _valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(folder),
        "ASYNCWORKER_INCLUDE": shop.__name__,
    }
    with redis.Redis.from_url(_valkey.redis_url) as connection:
        connection.flushall()
    with (
        running_worker(folder, "--without-mingle", env=env),
        client_app(_valkey, asyncworker_state_dir=str(folder)) as client,
    ):
        yield client


@pytest.fixture
def tasks(app: Celery[Any]) -> Any:
    """The shop's tasks, bound to the client's app."""

    class Tasks:
        def __getattr__(self, name: str) -> Any:
            return app.tasks[f"{shop.__name__}.{name}"]

    return Tasks()
