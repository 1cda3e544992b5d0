"""Sending from coroutines: in batches, in order, with everything that Celery does for a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, chain, signals
from kombu.exceptions import EncodeError, OperationalError

from asyncworker import publish_many
from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.ports import free_port
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker


def sent(valkey: EmbeddedServer, queue: str = "celery") -> list[dict[str, Any]]:
    with redis.Redis.from_url(valkey.redis_url) as broker:
        return [json.loads(raw) for raw in reversed(broker.lrange(queue, 0, -1))]


async def test_many_arrive_in_order_with_few_round_trips(client: Celery[Any], valkey: EmbeddedServer) -> None:
    add = client.tasks["t.add"]
    add.apply_async((0, 0), ignore_result=True)  # connections stand
    with redis.Redis.from_url(valkey.redis_url) as broker:
        reads_before = broker.info("stats")["total_reads_processed"]
        results = await publish_many(add.s(number, 0).set(ignore_result=True) for number in range(1000))
        reads = broker.info("stats")["total_reads_processed"] - reads_before
    messages = sent(valkey)[1:]
    assert [message["headers"]["id"] for message in messages] == [result.id for result in results]
    assert [message["headers"]["argsrepr"] for message in messages] == [f"({number}, 0)" for number in range(1000)]
    # A batch is more than one read where it does not fit into the server's buffer.
    assert reads < 500


async def test_what_is_sent_at_the_same_time_goes_together(client: Celery[Any], valkey: EmbeddedServer) -> None:
    """Each with its own options; signals are sent for each; one that cannot be encoded fails alone."""
    published = []
    signals.after_task_publish.connect(lambda headers, **_: published.append(headers["id"]), weak=False)
    receivers = list(signals.after_task_publish.receivers)
    try:
        add = client.tasks["t.add"]
        outcomes = await asyncio.gather(
            add.adelay(1, 2),
            add.aapply_async((3, 4), task_id="own", queue="other", priority=9),
            add.adelay(object(), 1),
            return_exceptions=True,
        )
    finally:
        signals.after_task_publish.receivers = receivers[:-1]
        signals.after_task_publish.sender_receivers_cache.clear()
    assert isinstance(outcomes[2], EncodeError)
    assert published == [outcomes[0].id, "own"]
    assert [message["headers"]["id"] for message in sent(valkey)] == [outcomes[0].id]
    assert [message["headers"]["id"] for message in sent(valkey, "other\x06\x169")] == ["own"]


async def test_only_signatures_of_tasks(client: Celery[Any]) -> None:
    add = client.tasks["t.add"]
    with pytest.raises(TypeError, match="takes signatures of tasks"):
        await publish_many([chain(add.s(1, 2), add.s(3))])


async def test_a_broker_that_is_away_fails_all(valkey: EmbeddedServer) -> None:
    with client_app(valkey, broker_url=f"redis://127.0.0.1:{free_port()}", task_publish_retry=False) as app:
        with pytest.raises(ExceptionGroup, match="3 of 3 tasks could not be sent") as raised:
            await publish_many(app.signature("t.add", (number, 0)) for number in range(3))
        assert all(isinstance(error, OperationalError) for error in raised.value.exceptions)


def test_on_rabbitmq_each_is_confirmed(
    rabbitmq: RabbitMQ, worker: Callable[..., Worker], valkey: EmbeddedServer
) -> None:
    url = rabbitmq.broker_url(rabbitmq.add_vhost())
    worker(tasks.__name__, "-c", "50", env={"ASYNCWORKER_BROKER_URL": url})
    with client_app(valkey, broker_url=url, broker_transport_options={"confirm_publish": True}) as app:
        results = asyncio.run(publish_many([app.tasks["t.add"].s(number, 1) for number in range(100)]))
        assert [result.get(timeout=60) for result in results] == list(range(1, 101))
        del results


def test_a_task_is_the_parent_of_what_it_sends(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    worker(tasks.__name__, "-c", "50")
    result = client.tasks["t.sends_and_awaits"].delay(20)
    assert result.get(timeout=60) == 20
    children = result.children
    assert len({child.id for child in children}) == 20
    assert [child.get(timeout=60) for child in children] == [2] * 20
