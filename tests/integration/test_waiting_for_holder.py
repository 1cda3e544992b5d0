"""A task that was delivered again waits while another process has its lease."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.loop import get_loop_thread
from asyncworker.store import Leases, open_store
from tests.integration import tasks
from tests.integration.test_fast_transport import until
from tests.servers.redelivery import redeliver
from tests.servers.worker import Worker

LEASE_S = 8


def deliver_again(valkey: EmbeddedServer, store_url: str, queue: str) -> None:
    """Move the one message of a queue to that of the workers, as one that a process had which is silent since."""
    with redis.Redis.from_url(valkey.redis_url) as broker:
        message = json.loads(broker.lpop(queue))
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        key = f"{message['headers']['id']}/0/{message['properties']['delivery_tag']}"

        async def hold() -> None:
            store = await open_store(store_url)
            assert not await Leases(store, "a process that has died").claim({key: datetime.now(UTC)})
            await store.close()

        get_loop_thread().run(hold(), timeout_s=60)
        broker.lpush("celery", json.dumps(message))


@pytest.mark.parametrize("name", ["t.logged_late", "t.logged_late_sync"])
def test_the_time_limit_begins_when_the_task_begins(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, name: str
) -> None:
    """It would be reported as a failure while its holder still runs it."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}"
    result = client.tasks[name].apply_async((str(tmp_path / "log"), 0), queue="elsewhere", time_limit=LEASE_S / 2)
    deliver_again(valkey, url, "elsewhere")
    env = {"ASYNCWORKER_LEASE_S": str(LEASE_S), "ASYNCWORKER_STORE_URL": url}
    node = worker(tasks.__name__, env=env)
    assert result.get(timeout=90) == 0
    assert "taking it over" in node.log()


@pytest.mark.parametrize("name", ["t.logged_late", "t.logged_late_sync"])
@pytest.mark.parametrize("how", ["revoked", "revoked by a stamp", "expired"])
def test_one_that_is_revoked_or_expires_while_it_waits_does_not_run(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, name: str, how: str
) -> None:
    url, log = f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}", tmp_path / "log"
    env = {"ASYNCWORKER_LEASE_S": str(LEASE_S), "ASYNCWORKER_STORE_URL": url}
    node = worker(tasks.__name__, env=env)
    expires = LEASE_S / 2 if how == "expired" else None
    stamps = {"batch": "one", "stamped_headers": ["batch"]} if how == "revoked by a stamp" else {}
    result = client.tasks[name].apply_async((str(log), 0), queue="elsewhere", expires=expires, **stamps)
    deliver_again(valkey, url, "elsewhere")
    node.wait_for_log(f"[{result.id}] received")
    if how == "revoked":
        client.control.revoke(result.id)
    elif how == "revoked by a stamp":
        client.control.revoke_by_stamped_headers({"batch": "one"})
    node.wait_for_log(f"Discarding revoked task: {name}[{result.id}]", timeout_s=120)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=120)
    assert client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    # An outcome is there a moment before the worker has done with its task.
    with redis.Redis.from_url(valkey.redis_url) as broker:
        until(lambda: not broker.hlen("unacked"), "every acknowledgement", node)
    inspect = client.control.inspect(timeout=10, limit=1)
    until(lambda: (inspect.active() or {}).get(node.name) == [], "an idle worker", node)
    assert node.stop() == 0
    assert not log.exists()


@pytest.mark.parametrize("name", ["t.gated_late", "t.gated_late_sync", "fan-out"])
def test_what_was_begun_in_time_does_not_expire_while_it_runs(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, name: str
) -> None:
    """A second delivery of its message comes to another process after that time."""
    gate, log, env = tmp_path / "gate", tmp_path / "log", {"ASYNCWORKER_LEASE_S": str(LEASE_S)}
    first = worker(tasks.__name__, "--without-mingle", env=env, name="first@test")
    if name == "fan-out":
        item = client.tasks["t.gated_logged"].partial(gate=str(gate), log=str(log))
        result = item.iterate(number=range(12)).apply_async(expires=10)
    else:
        result = client.tasks[name].apply_async((str(log), str(gate)), expires=10)
    expired_at_s = time.monotonic() + 10
    until_s = time.monotonic() + 120
    while not log.exists():
        assert time.monotonic() < until_s, first.log()
        time.sleep(0.02)
    second = worker(tasks.__name__, "--without-mingle", env=env, name="second@test")
    answers = client.control.cancel_consumer("celery", destination=[first.name], reply=True, timeout=60, limit=1)
    assert "no longer consuming" in str(answers)
    time.sleep(max(0.0, expired_at_s - time.monotonic()))
    redeliver(valkey)
    second.wait_for_log(f"[{result.id}] received")
    # Where it is taken for expired, that is said right after.
    assert client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    gate.touch()
    result.get(timeout=120)
    second.wait_for_log("was finished by another delivery of it")
    assert client.AsyncResult(result.id).state == "SUCCESS"
    assert "Discarding" not in second.log()
    lines = log.read_text().split()
    assert len(set(lines)) == len(lines)
