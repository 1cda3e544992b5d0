"""A task that was delivered again waits while another process has its lease."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.loop import get_loop_thread
from asyncworker.store import Leases, open_store
from tests.integration import tasks
from tests.servers.worker import Worker

LEASE_S = 8


def queue_again(valkey: EmbeddedServer, queue: str) -> str:
    """Move the one message of a queue to that of the workers, as one that was delivered before; returns its tag."""
    with redis.Redis.from_url(valkey.redis_url) as broker:
        message = json.loads(broker.lpop(queue))
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        broker.lpush("celery", json.dumps(message))
        return str(message["properties"]["delivery_tag"])


@pytest.mark.parametrize("name", ["t.logged_late", "t.logged_late_sync"])
def test_the_time_limit_begins_when_the_task_begins(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, name: str
) -> None:
    """It would be reported as a failure while its holder still runs it."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}"
    result = client.tasks[name].apply_async((str(tmp_path / "log"), 0), queue="elsewhere", time_limit=LEASE_S / 2)

    tag = queue_again(valkey, "elsewhere")

    async def hold() -> None:
        store = await open_store(url)
        assert not await Leases(store, "a process that has died").claim({f"{result.id}/0/{tag}": datetime.now(UTC)})
        await store.close()

    get_loop_thread().run(hold(), timeout_s=60)
    env = {"ASYNCWORKER_LEASE_S": str(LEASE_S), "ASYNCWORKER_STORE_URL": url}
    node = worker(tasks.__name__, env=env)
    assert result.get(timeout=90) == 0
    assert "taking it over" in node.log()
