"""The batching Redis transport: stock workers and ours share queues, and recover what the other leaves."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker.fetch import FETCH, Fetch
from asyncworker.worker.transport import SocketTransport
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.worker import Worker, running_worker

FAST = {"ASYNCWORKER_FAST_BROKER": "1", "ASYNCWORKER_FAST_RESULTS": "1"}
IN_FLIGHT = 500
WAIT_S = 120.0


def until(reached: Callable[[], Any], what: str, node: Worker | None = None) -> None:
    give_up_at_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < give_up_at_s, f"{what} did not come; {node.log()[-3000:] if node else ''}"
        time.sleep(0.05)


@pytest.fixture
def broker(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url) as connection:
        yield connection


def age(broker: redis.Redis) -> None:
    """Let the visibility timeout of everything pass that is not acknowledged."""
    for tag in broker.hkeys("unacked"):
        broker.zadd("unacked_index", {tag: 0})


def stock_worker(folder: Path, valkey: EmbeddedServer, log: Path, *arguments: str) -> Any:
    env = {
        "CELERY_BROKER_URL": valkey.broker_url,
        "CELERY_RESULT_BACKEND": valkey.result_url,
        "RECOVERY_LOG": str(log),
    }
    return running_worker(folder, *arguments, app="tests.integration.recovery_app", env=env, name="stock@test")


def begun(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


@pytest.fixture
def recovery(valkey: EmbeddedServer) -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("recovery", broker=valkey.broker_url, backend=valkey.result_url)
    app.conf.task_default_queue = "recovery"
    with app:
        yield app


@pytest.mark.timeout(900)
@pytest.mark.promise("celerys-workers-take-over")
def test_a_stock_worker_recovers_what_ours_left(
    tmp_path: Path, valkey: EmbeddedServer, broker: redis.Redis, recovery: Celery[Any], worker_env: dict[str, str]
) -> None:
    log, gate = tmp_path / "begun", tmp_path / "gate"
    env = worker_env | FAST | {"RECOVERY_LOG": str(log), "RECOVERY_OURS": "1"}
    with running_worker(tmp_path, "-c", str(IN_FLIGHT), app="tests.integration.recovery_app", env=env) as ours:
        for number in range(IN_FLIGHT):
            recovery.send_task("r.wait", (number, str(gate)))
        until(lambda: len(begun(log)) == IN_FLIGHT, "the beginning of every task", ours)
        assert broker.hlen("unacked") == broker.zcard("unacked_index") == IN_FLIGHT
        ours.kill()
        ours.wait()
    assert sorted(begun(log)) == list(range(IN_FLIGHT))
    gate.touch()
    age(broker)
    with stock_worker(tmp_path, valkey, log, "-P", "threads", "-c", "20") as stock:
        until(lambda: len(begun(log)) == 2 * IN_FLIGHT, "the recovery of every task", stock)
        until(lambda: not broker.hlen("unacked"), "every acknowledgement", stock)
    assert sorted(begun(log)[IN_FLIGHT:]) == list(range(IN_FLIGHT))


@pytest.mark.timeout(900)
@pytest.mark.promise("celerys-workers-take-over")
def test_ours_recovers_what_a_stock_worker_left(
    tmp_path: Path, valkey: EmbeddedServer, broker: redis.Redis, recovery: Celery[Any], worker_env: dict[str, str]
) -> None:
    log, gate = tmp_path / "begun", tmp_path / "gate"
    with stock_worker(tmp_path, valkey, log, "-P", "threads", "-c", str(IN_FLIGHT)) as stock:
        for number in range(IN_FLIGHT):
            recovery.send_task("r.wait", (number, str(gate)))
        until(lambda: broker.hlen("unacked") == IN_FLIGHT, "the delivery of every task", stock)
        until(lambda: len(begun(log)) == IN_FLIGHT, "the beginning of every task", stock)
        stock.kill()
        stock.wait()
    gate.touch()
    age(broker)
    env = worker_env | FAST | {"RECOVERY_LOG": str(log), "RECOVERY_OURS": "1"}
    with running_worker(tmp_path, "-c", str(IN_FLIGHT), app="tests.integration.recovery_app", env=env) as ours:
        until(lambda: len(begun(log)) == 2 * IN_FLIGHT, "the recovery of every task", ours)
        until(lambda: not broker.hlen("unacked"), "every acknowledgement", ours)
    assert sorted(begun(log)[IN_FLIGHT:]) == list(range(IN_FLIGHT))


def fill(broker: redis.Redis, key: str, count: int) -> None:
    for number in range(count):
        broker.lpush(key, f'{{"from": "{key}", "number": {number}}}')


def fetch(broker: redis.Redis, groups: list[list[str]], limit: int) -> tuple[list[dict[str, Any]], bool, Fetch]:
    asked = Fetch([[(name, name) for name in group] for group in groups], limit)
    reply = broker.eval(FETCH, *asked.arguments("unacked", "unacked_index", "unacked.owners", time.time()))
    found = asked.read(reply)
    assert found is not None
    messages, more = found
    stored = {tag.decode(): json.loads(entry) for tag, entry in broker.hgetall("unacked").items()}
    for message in messages:
        assert stored[message.tag] == [json.loads(message.raw), "", message.queue]
    return [json.loads(message.raw) for message in messages], more, asked


def test_a_batch_takes_the_oldest_first_and_no_more_than_asked(broker: redis.Redis) -> None:
    fill(broker, "one", 120)
    messages, more, asked = fetch(broker, [["one"]], 100)
    assert [message["number"] for message in messages] == list(range(100))
    assert more
    assert broker.llen("one") == 20
    assert sorted(asked.tags()) == sorted(tag.decode() for tag in broker.zrange("unacked_index", 0, -1))
    messages, more, _ = fetch(broker, [["one"]], 100)
    assert [message["number"] for message in messages] == list(range(100, 120))
    assert not more
    assert fetch(broker, [["one"]], 100)[:2] == ([], False)


def test_queues_of_equal_rank_share_a_batch_and_higher_ranks_come_first(broker: redis.Redis) -> None:
    fill(broker, "busy", 1000)
    fill(broker, "quiet", 3)
    fill(broker, "later", 10)
    messages, more, _ = fetch(broker, [["busy", "quiet"], ["later"]], 20)
    assert [message["from"] for message in messages].count("quiet") == 3
    assert [message["from"] for message in messages].count("busy") == 17
    assert more
    fill(broker, "urgent", 5)
    messages, _, _ = fetch(broker, [["urgent"], ["busy"]], 8)
    assert [message["from"] for message in messages] == ["urgent"] * 5 + ["busy"] * 3


def test_a_batch_is_bounded_by_bytes(broker: redis.Redis) -> None:
    for number in range(10):
        broker.lpush("large", json.dumps({"number": number, "load": "x" * (1 << 20)}))
    messages, more, _ = fetch(broker, [["large"]], 100)
    assert [message["number"] for message in messages] == [0, 1, 2, 3]
    assert more
    assert broker.llen("large") == 6


def test_a_queue_with_odd_characters_in_its_name(broker: redis.Redis) -> None:
    fill(broker, "plain", 1)
    name = 'queue "with" \\ all'
    broker.lpush(name, '{"from": "odd"}')
    assert fetch(broker, [[name]], 5)[0] == [{"from": "odd"}]


@pytest.mark.promise("redis-loses-no-message-on-its-way")
def test_a_batch_whose_answer_is_lost_returns_to_its_queue(valkey: EmbeddedServer, broker: redis.Redis) -> None:
    """The server has carried it out, and the connection is gone: the next one finds it."""
    queue = Queue("lost")
    url = valkey.broker_url.removeprefix("redis+")
    with Connection(url, transport=SocketTransport) as connection:
        with connection.Producer() as producer:
            for number in range(30):
                producer.publish(number, routing_key="lost", declare=[queue])
        with connection.channel() as channel, Consumer(channel, [queue], accept=["json"]):
            channel.connection.cycle._register_BRPOP(channel)
            until(lambda: broker.hlen("unacked") == 30, "the batch")
            channel.client.connection._sock.shutdown(socket.SHUT_RDWR)
            # What has arrived before the end counts as lost with it.
            channel.client.connection.disconnect()
            with pytest.raises(channel.connection_errors):
                channel._brpop_read()
    assert broker.hlen("unacked") == 30
    found: list[int] = []
    with Connection(url, transport=SocketTransport) as connection, connection.channel() as channel:

        def take(body: int, message: Any) -> None:
            found.append(body)
            message.ack()

        with Consumer(channel, [queue], accept=["json"], callbacks=[take]):
            until(lambda: drained(connection) or len(found) == 30, "every message")
    assert found == list(range(30))
    assert not broker.hlen("unacked")


def drained(connection: Connection) -> None:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.5)


def test_priorities_a_prefix_and_several_queues(
    worker: Callable[..., Worker], broker: redis.Redis, valkey: EmbeddedServer
) -> None:
    """Every message arrives, of each priority and queue, and nothing is left behind; all keys have the prefix."""
    node = worker(tasks.__name__, "-Q", "celery,second", "-c", "5", env=FAST, app="tests.integration.prefix_app")
    with client_app(valkey, broker_transport_options={"global_keyprefix": "app1:"}) as app:
        for number in range(60):
            queue = ("celery", "second")[number % 2]
            app.send_task("t.add", (number, 1), task_id=str(number), queue=queue, priority=number % 10)
        for number in range(60):
            assert app.AsyncResult(str(number)).get(timeout=WAIT_S) == number + 1
    until(lambda: not broker.hlen("app1:unacked"), "every acknowledgement", node)
    assert {key for key in broker.scan_iter() if not key.startswith((b"app1:", b"/"))} <= {b"unacked_mutex"}
    assert node.stop() == 0


def test_an_acl_without_scripts_falls_back_and_says_so_once(
    worker: Callable[..., Worker], client: Celery[Any], broker: redis.Redis, valkey: EmbeddedServer
) -> None:
    broker.acl_setuser(
        "plain", enabled=True, passwords=["+word"], keys=["*"], channels=["*"], commands=["+@all", "-eval"]
    )
    url = valkey.broker_url.replace("redis+socket://", "redis+socket://plain:word@")
    try:
        node = worker(tasks.__name__, "-c", "5", env=FAST | {"ASYNCWORKER_BROKER_URL": url})
        sent = [client.tasks["t.add"].delay(number, 2) for number in range(20)]
        assert [result.get(timeout=WAIT_S) for result in sent] == list(range(2, 22))
        assert node.log().count("Redis refuses to give messages in batches") == 1
        assert node.stop() == 0
    finally:
        broker.acl_deluser("plain")


def test_what_is_no_message_is_kept_and_the_others_are_done(
    worker: Callable[..., Worker], client: Celery[Any], broker: redis.Redis
) -> None:
    broker.lpush("celery", "no message", "[]", "7")
    node = worker(tasks.__name__, "-c", "5", env=FAST)
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    until(lambda: not broker.hlen("unacked"), "every acknowledgement", node)
    assert node.log().count("goes to the dead letters: DecodeError: not a message") == 3


def test_a_header_named_like_the_tag_changes_nothing(
    worker: Callable[..., Worker], client: Celery[Any], broker: redis.Redis
) -> None:
    node = worker(tasks.__name__, "-c", "5", env=FAST)
    sent = [client.tasks["t.add"].apply_async((number, 0), headers={"delivery_tag": "same"}) for number in range(10)]
    assert [result.get(timeout=WAIT_S) for result in sent] == list(range(10))
    until(lambda: not broker.hlen("unacked"), "every acknowledgement", node)
    assert not broker.zcard("unacked_index")


def test_what_waits_for_a_slot_stays_in_the_broker(
    worker: Callable[..., Worker], client: Celery[Any], broker: redis.Redis, tmp_path: Path
) -> None:
    """Two run, two are prefetched, as with kombu's transport; the others are there for other workers."""
    node = worker(tasks.__name__, "-c", "2", env=FAST)
    gate = tmp_path / "gate"
    sent = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(12)]
    until(lambda: broker.hlen("unacked") == 2, "the delivery of what is allowed", node)
    assert broker.llen("celery") == 10
    gate.touch()
    node.stop()
    assert broker.llen("celery") + broker.hlen("unacked") == 12 - sum(result.ready() for result in sent)
