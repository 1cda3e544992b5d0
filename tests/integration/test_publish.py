"""Sending from coroutines: in batches, in order, with everything that Celery does for a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, chain, group, signals
from kombu.exceptions import EncodeError, OperationalError

from asyncworker import publish_many
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.tasks.publish import _sender
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.ports import free_port
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker


def sent(valkey: EmbeddedServer, queue: str = "celery") -> list[dict[str, Any]]:
    with redis.Redis.from_url(valkey.redis_url) as broker:
        return [json.loads(raw) for raw in reversed(broker.lrange(queue, 0, -1))]


@pytest.mark.promise("publish-many-takes-few-round-trips")
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


@pytest.mark.promise("calls-block-no-loop")
async def test_a_group_of_thousands_goes_in_batches(client: Celery[Any], valkey: EmbeddedServer) -> None:
    add = client.tasks["t.add"]
    add.apply_async((0, 0), ignore_result=True)  # connections stand
    header = group(add.s(number, 0).set(ignore_result=True) for number in range(2000))
    with redis.Redis.from_url(valkey.redis_url) as broker:
        broker.config_resetstat()
        [result] = await publish_many([header])
        # Celery subscribes to each result, more than once, and waits for no answer.
        calls = broker.info("commandstats")
        subscriptions = sum(calls[f"cmdstat_{name}"]["calls"] for name in ("subscribe", "unsubscribe"))
        reads = broker.info("stats")["total_reads_processed"] - subscriptions
    messages = sent(valkey)[1:]
    assert [message["headers"]["id"] for message in messages] == [child.id for child in result.results]
    assert {message["headers"]["group"] for message in messages} == {result.id}
    assert [message["headers"]["group_index"] for message in messages] == list(range(2000))
    assert reads < 1000


def test_a_group_is_the_one_of_celery(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    """With a chain and a group in it; a stock client restores it, and has its values."""
    worker(tasks.__name__, "-c", "50")
    add = client.tasks["t.add"]
    header = group([add.s(1, 1), group(add.s(number, 2) for number in range(3)), chain(add.s(4, 4), add.s(1))])

    async def main() -> Any:
        [single, result] = await publish_many([add.s(7, 7), header])
        assert await single.aget(timeout=120) == 14
        assert await result.aget(timeout=120) == [2, 2, 3, 4, 9]
        return result

    result = asyncio.run(main())
    result.save()
    stock: Any = Celery("stock", broker=client.conf.broker_url, backend=client.conf.result_backend)
    with stock:
        restored = stock.GroupResult.restore(result.id)
        assert type(restored) is not type(result)
        assert restored.get(timeout=120) == [2, 2, 3, 4, 9]
        del restored
        stock.backend.result_consumer.stop()
        stock.backend.client.close()


def test_a_group_that_is_sent_again_has_the_same_ids(client: Celery[Any], valkey: EmbeddedServer) -> None:
    """As after a batch of which nobody knows what has arrived."""
    add = client.tasks["t.add"]
    header: Any = group([add.s(1, 1), chain(add.s(2, 2), add.s(1))])
    send = _sender(header)
    results = [send(), send()]
    ids = [message["headers"]["id"] for message in sent(valkey)]
    assert ids[:2] == ids[2:]
    assert results[0].id == results[1].id
    assert "task_id" not in header.options  # and the caller's own is as it was
    assert all("task_id" not in task["options"] for task in header.tasks)


@pytest.mark.parametrize("route", [{"t.item": {"queue": "items"}}, {"t.item": "items"}, lambda name, *_, **__: "items"])
def test_a_fan_out_goes_to_the_queue_of_its_task_and_has_a_name(
    client: Celery[Any], valkey: EmbeddedServer, route: Any
) -> None:
    """The name of its message, by which a second delivery is known; not that of another under the same id."""
    client.conf.task_routes = route
    fan_out = client.tasks["t.item"].partial().iterate(number=[1, 2])
    fan_out.apply_async(task_id="own")
    fan_out.apply_async(task_id="own")

    async def send() -> None:
        await fan_out.adelay()
        await publish_many([fan_out, group([fan_out])])

    asyncio.run(send())
    again = _sender(fan_out)
    again(), again()
    messages = sent(valkey, "items")
    assert {message["headers"]["task"] for message in messages} == {"asyncworker.iterate"}
    names = [message["headers"]["asyncworker_message"] for message in messages]
    assert (len(names), len(set(names)), names[-1]) == (7, 6, names[-2])
    assert not sent(valkey)


@pytest.mark.promise("fan-out-is-one-message")
@pytest.mark.parametrize("items", [1, 5000])
def test_a_fan_out_is_one_message_and_one_task(
    client: Celery[Any], valkey: EmbeddedServer, worker: Callable[..., Worker], items: int
) -> None:
    result = client.tasks["t.item"].partial().iterate(number=range(items)).delay()
    assert len(sent(valkey)) == 1
    node = worker(tasks.__name__, "--without-mingle")
    assert result.get(timeout=120)["done"] == items
    assert client.control.inspect(timeout=60, limit=1).stats()[node.name]["total"] == {"asyncworker.iterate": 1}


async def test_only_signatures_of_tasks(client: Celery[Any]) -> None:
    add = client.tasks["t.add"]
    with pytest.raises(TypeError, match="takes signatures of tasks and groups"):
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
        assert [result.get(timeout=120) for result in results] == list(range(1, 101))
        del results


def test_a_task_is_the_parent_of_what_it_sends(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    worker(tasks.__name__, "-c", "50")
    result = client.tasks["t.sends_and_awaits"].delay(20)
    assert result.get(timeout=120) == 20
    children = result.children
    assert len({child.id for child in children}) == 20
    assert [child.get(timeout=120) for child in children] == [2] * 20
