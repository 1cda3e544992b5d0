"""A virtual host of each test's own: messages through RabbitMQ, results on Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.servers.client import client_app
from tests.servers.rabbitmq import RabbitMQ


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> str:
    return rabbitmq.add_vhost()


@pytest.fixture
def worker_env(rabbitmq: RabbitMQ, vhost: str, valkey: EmbeddedServer, state_dir: Path) -> dict[str, str]:
    return {
        "ASYNCWORKER_BROKER_URL": rabbitmq.broker_url(vhost),
        "ASYNCWORKER_RESULT_URL": valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(state_dir),
    }


@pytest.fixture
def client(worker_env: dict[str, str], state_dir: Path) -> Iterator[Celery[Any]]:
    urls: Any = SimpleNamespace(
        broker_url=worker_env["ASYNCWORKER_BROKER_URL"], result_url=worker_env["ASYNCWORKER_RESULT_URL"]
    )
    with client_app(urls, asyncworker_state_dir=str(state_dir)) as app:
        yield app
