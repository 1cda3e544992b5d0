"""SQLAlchemy takes up to a second to import: never on the event loop, whatever is the first to need the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import import_tasks
from tests.servers.worker import Worker

GET_S = 120.0


def bad_message(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    start()
    with redis.Redis.from_url(valkey.redis_url) as broker:
        broker.lpush("celery", "no message at all")


def late_task_again(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    client.tasks["i.late"].delay(0)
    with redis.Redis.from_url(valkey.redis_url) as broker:
        raw = broker.rpop("celery")
        assert isinstance(raw, bytes)
        broker.lpush("celery", raw.replace(b'"delivery_info": {', b'"delivery_info": {"redelivered": true, '))
    start()


def long_late_task(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    start()
    client.tasks["i.late"].delay(4)


def fan_out(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    start()
    client.tasks["i.item"].partial().iterate(number=range(3)).delay().get(timeout=GET_S)


def partitions(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    start()
    client.tasks["i.item"].partial().options(partitions=2).iterate(number=range(4)).delay().get(timeout=GET_S)


def task_state(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    start()
    client.tasks["i.state"].delay().get(timeout=GET_S)


def dead_neighbour(client: Celery[Any], valkey: EmbeddedServer, start: Callable[[], Worker]) -> None:
    with redis.Redis.from_url(valkey.redis_url) as broker:
        broker.hset("unacked.owners", "somebody", 1)
    start()


@pytest.mark.skipif("os.environ.get('ASYNCWORKER_TESTS_FAST') == '0'", reason="kombu's own transport")
@pytest.mark.parametrize(
    "need", [bad_message, late_task_again, long_late_task, fan_out, partitions, task_state, dead_neighbour]
)
def test_whatever_needs_the_store_first_imports_it_off_the_loop(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, need: Any
) -> None:
    def start() -> Worker:
        return worker(import_tasks.__name__, "--without-mingle", env={"ASYNCWORKER_LEASE_S": "3"})

    need(client, valkey, start)
    give_up_at = time.monotonic() + 120
    while len(found := client.tasks["i.imported_on"].delay().get(timeout=GET_S)) == 1:
        assert time.monotonic() < give_up_at, "nothing has needed the store"
        time.sleep(0.1)
    loop, *imported_on = found
    assert loop not in imported_on
