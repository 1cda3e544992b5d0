"""No message, whatever its bytes, ends a worker or is delivered for ever: it is kept in the dead letters, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from redis import Redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker.guarded import RedisSocketTransport
from tests.chaos import restoring_app
from tests.chaos.messages import (
    Broker,
    Envelope,
    RabbitQueue,
    RedisQueue,
    bad_entries,
    bad_envelopes,
    call,
    dead_letters,
    deep,
    followed_by,
    odd_envelopes,
    signature,
    unsendable,
)
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.command import asyncworker
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker

WAIT_S = 120.0
KEPT_BYTES = 4096

#: Our transports, and kombu's own.
TRANSPORTS = ["redis", "redis-stock", "rabbitmq", "rabbitmq-stock"]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(
    transport: str, valkey: EmbeddedServer, request: pytest.FixtureRequest, worker_env: dict[str, str]
) -> Iterator[Broker]:
    worker_env["ASYNCWORKER_FAST_BROKER"] = "0" if transport.endswith("stock") else "1"
    if transport.startswith("redis"):
        yield RedisQueue(valkey.redis_url)
        return
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    vhost = rabbitmq.add_vhost()
    worker_env["ASYNCWORKER_BROKER_URL"] = rabbitmq.broker_url(vhost)
    queue = RabbitQueue(rabbitmq, vhost)
    yield queue
    queue.close()


@pytest.fixture
def client(broker: Broker, worker_env: dict[str, str], valkey: EmbeddedServer, state_dir: Path) -> Iterator[Celery]:
    with client_app(valkey, asyncworker_state_dir=str(state_dir)) as app:
        app.conf.broker_url = worker_env["ASYNCWORKER_BROKER_URL"]
        yield app


def named(envelope: Envelope) -> str | None:
    """Return the id that a message's headers give it."""
    return envelope.headers.get("id")


def check_alive(node: Worker, client: Celery) -> None:
    """The worker answers, and the next good task runs."""
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3, node.log()
    give_up_at_s = time.monotonic() + WAIT_S
    while not client.control.ping(timeout=5, limit=1):
        assert time.monotonic() < give_up_at_s, node.log()
    assert node.returncode is None


@pytest.mark.timeout(600)
@pytest.mark.promise("no-message-ends-a-worker")
def test_a_message_that_cannot_be_run_is_kept_once_and_harms_no_other(
    worker: Callable[..., Worker], broker: Broker, client: Celery, state_dir: Path, transport: str
) -> None:
    kinds = bad_envelopes()
    if transport.startswith("rabbitmq"):
        # AMQP's headers cannot say these.
        kinds = {kind: each for kind, each in kinds.items() if "surrogate" not in kind and "huge" not in kind}
        kinds = {kind: each for kind, each in kinds.items() if "1 MB" not in kind}
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    for envelope in kinds.values():
        broker.put(envelope)
    check_alive(node, client)
    broker.wait_until_settled()
    letters = dead_letters(state_dir)
    bodies = {letter.message for letter in letters}
    ids = {letter.task_id for letter in letters}
    assert not [kind for kind, envelope in kinds.items() if envelope.body[:KEPT_BYTES] not in bodies]
    assert not [kind for kind, envelope in kinds.items() if "id" not in kind and named(envelope) not in {None, *ids}]
    assert all(letter.reason for letter in letters)
    assert len(letters) == len(kinds), [letter.reason for letter in letters]
    assert "Unrecoverable" not in node.log()
    assert node.stop() == 0


def test_a_message_that_is_only_unusual_runs(
    worker: Callable[..., Worker], broker: Broker, client: Celery, state_dir: Path, transport: str
) -> None:
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    # AMQP types its properties itself.
    kinds = odd_envelopes()
    if transport.startswith("rabbitmq"):
        kinds = {kind: each for kind, each in kinds.items() if not each.properties and "surrogate" not in kind}
    for envelope in kinds.values():
        broker.put(envelope)
    check_alive(node, client)
    for kind, envelope in kinds.items():
        task_id = named(envelope) or json.loads(envelope.body)["id"]
        assert client.AsyncResult(task_id).get(timeout=WAIT_S) == 3, kind
    broker.wait_until_settled()
    assert not dead_letters(state_dir)
    assert node.stop() == 0


def test_what_follows_a_task_and_cannot_be_sent_is_not_waited_for(
    worker: Callable[..., Worker], broker: Broker, client: Celery, transport: str
) -> None:
    """No broker is away: the task ends, and so does a worker that is told to."""
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    envelopes = {
        f"{link}: {kind}": call(body=followed_by(**{link: [signature(options)]}))
        for kind, options in unsendable().items()
        # RabbitMQ makes such a queue, and its own command cannot list it any more.
        if not (transport.startswith("rabbitmq") and "surrogate" in kind)
        for link in ("callbacks", "chain")
    }
    for envelope in envelopes.values():
        broker.put(envelope)
    check_alive(node, client)
    for kind, envelope in envelopes.items():
        result = client.AsyncResult(envelope.headers["id"])
        result.get(timeout=WAIT_S, propagate=False)
        assert result.state in ("SUCCESS", "FAILURE"), kind
    broker.wait_until_settled()
    assert node.stop() == 0


def test_a_deeply_nested_argument_runs_or_is_kept_and_harms_no_other(
    worker: Callable[..., Worker], broker: Broker, client: Celery, state_dir: Path
) -> None:
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    envelopes = [call(task="t.length", body=deep(depth)) for depth in (300, 900, 970, 1500, 5000)]
    for envelope in envelopes:
        broker.put(envelope)
    check_alive(node, client)
    broker.wait_until_settled()
    letters = {letter.task_id for letter in dead_letters(state_dir)}
    for envelope in envelopes:
        result = client.AsyncResult(envelope.headers["id"])
        if result.id not in letters:
            result.get(timeout=WAIT_S, propagate=False)
        assert (result.id in letters) != (result.state in ("SUCCESS", "FAILURE"))
    assert node.stop() == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["redis", "redis-stock"], indirect=True)
@pytest.mark.promise("no-message-ends-a-worker")
def test_what_is_no_message_at_all_is_kept_once(
    worker: Callable[..., Worker], broker: RedisQueue, client: Celery, state_dir: Path
) -> None:
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    entries = bad_entries()
    for entry in entries.values():
        broker.put_raw(entry)
    check_alive(node, client)
    broker.wait_until_settled()
    letters = dead_letters(state_dir)
    assert len(letters) == len(entries), [letter.reason for letter in letters]
    for kind in ("random bytes", "deep", "half a message"):
        assert any(letter.message == entries[kind][:KEPT_BYTES] for letter in letters), kind
        assert {letter.queue for letter in letters if letter.message == entries[kind][:KEPT_BYTES]} == {"celery"}
    assert " from queue  " not in node.log()
    assert node.stop() == 0


@pytest.mark.parametrize("transport", ["redis", "redis-stock"], indirect=True)
def test_an_entry_that_cannot_be_given_back_holds_up_no_other(
    worker: Callable[..., Worker], broker: RedisQueue, client: Celery, state_dir: Path
) -> None:
    """Unacknowledged entries of a worker that died are given back, past those that are none."""
    good = [client.tasks["t.add"].delay(number, 1) for number in range(3)]
    raw = broker.client.lrange("celery", 0, -1)
    broker.client.delete("celery")
    entries = [b"\xff\x00", b"7", b"[1]", b'[5, "", "celery"]', b'[{}, "", "celery"]', b'[{"properties": 5}, "", ""]']
    entries += [b"[" + entry + b', "", "celery"]' for entry in raw]
    for number, entry in enumerate(entries):
        broker.client.hset("unacked", f"tag{number}", entry)
        broker.client.zadd("unacked_index", {f"tag{number}": 0})
    node = worker(None, "-c", "20", "--without-mingle", app=restoring_app.__name__)
    assert [result.get(timeout=WAIT_S) for result in good] == [1, 2, 3], node.log()
    check_alive(node, client)
    broker.wait_until_settled()
    assert len(dead_letters(state_dir)) == len(entries) - len(good)


def test_an_entry_that_another_worker_has_buried_meanwhile_is_left_alone(
    valkey: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Redis.from_url(valkey.redis_url) as redis,
        Connection(valkey.broker_url.removeprefix("redis+"), transport=RedisSocketTransport) as connection,
    ):
        channel = connection.channel()

        def restore(*_: Any) -> None:
            redis.delete("unacked", "unacked_index")
            raise TypeError

        monkeypatch.setattr(channel, "_do_restore_message", restore)
        redis.hset("unacked", "tag", b'[5, "", "celery"]')
        channel.qos.restore_by_tag("tag")
    assert not caplog.records


@pytest.mark.parametrize("transport", ["redis", "redis-stock"], indirect=True)
def test_garbage_that_is_published_to_remote_control_and_events(
    worker: Callable[..., Worker], broker: RedisQueue, client: Celery
) -> None:
    node = worker(tasks.__name__, "-c", "20")
    check_alive(node, client)
    garbage = [b"\xff", b"5", b"[]", b"null", b"{}", b'{"body": 5, "properties": []}', b"[" * 100_000]
    channels = [channel.decode().replace("*", "worker.x") for channel in broker.client.pubsub_channels()]
    patterns = ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat"]
    for channel in {*channels, *patterns}:
        for each in garbage:
            broker.client.publish(channel, each)
    client.control.broadcast("no_such_command")
    client.control.broadcast("rate_limit", arguments={"unknown": 1})
    check_alive(node, client)


@pytest.mark.parametrize("transport", ["rabbitmq", "rabbitmq-stock"], indirect=True)
def test_properties_that_are_no_text_do_not_end_the_connection(
    worker: Callable[..., Worker], broker: RabbitQueue, client: Celery, state_dir: Path
) -> None:
    """AMQP's short strings are bytes, and RabbitMQ does not look at them."""
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    good = call(1, 2)
    broken = [
        replace(good, content_type=b"\xff", body=b"[[1], {}, {}]"),
        replace(good, properties={"correlation_id": b"\xff"}, body=b"[[2], {}, {}]"),
        replace(good, properties={"reply_to": b"\xff"}, body=b""),
    ]
    for envelope in broken:
        broker.put(envelope)
    check_alive(node, client)
    broker.wait_until_settled()
    assert len(dead_letters(state_dir)) == len(broken)
    assert node.log().count("Connected to ") == 1
    assert node.stop() == 0


@pytest.mark.parametrize("transport", ["redis"], indirect=True)
def test_they_are_listed_and_shown_and_what_cannot_be_read_is_not_sent_again(
    worker: Callable[..., Worker], broker: Broker, client: Celery, worker_env: dict[str, str]
) -> None:
    node = worker(tasks.__name__, "--without-mingle")
    kinds = bad_envelopes()
    unreadable, unknown = kinds["body is no JSON"], call("pear", 5, task="no.such.task")
    broker.put(unreadable)
    broker.put(unknown)
    check_alive(node, client)
    broker.wait_until_settled()
    listed = [json.loads(line) for line in asyncworker("dead", "list", "--json", env=worker_env).stdout.splitlines()]
    assert {letter["task_id"] for letter in listed} == {unreadable.headers["id"], unknown.headers["id"]}
    reasons = {letter["task_id"]: letter["reason"] for letter in listed}
    assert reasons[unknown.headers["id"]] == "NotRegistered: 'no.such.task'"
    plain = asyncworker("dead", "list", env=worker_env).stdout
    assert all(f"{task_id} " in plain and reason[:60] in plain for task_id, reason in reasons.items()), plain
    shown = asyncworker("dead", "show", unreadable.headers["id"], env=worker_env).stdout
    assert "reason: DecodeError" in shown
    assert "{this is not" in shown
    assert "args: ['pear', 5]" in asyncworker("dead", "show", unknown.headers["id"], env=worker_env).stdout
    refused = asyncworker("dead", "replay", unreadable.headers["id"], env=worker_env)
    assert refused.returncode
    assert "cannot be sent again" in refused.stderr
