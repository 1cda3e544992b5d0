"""Messages of every wrong kind, for any broker: envelopes that are put into a queue as they are."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import amqp
import redis

from tests.servers.rabbitmq import RabbitMQ

QUEUE = "celery"
TASK = "t.add"


@dataclass(frozen=True)
class Envelope:
    """A message of Celery's second protocol, before it is written in a broker's form."""

    body: bytes
    headers: Any = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"

    def stored(self) -> bytes:
        """Return it as kombu stores it on Redis."""
        properties = {
            "correlation_id": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }
        payload = {
            "body": base64.b64encode(self.body).decode(),
            "content-encoding": self.content_encoding,
            "content-type": self.content_type,
            "headers": self.headers,
            "properties": properties | self.properties,
        }
        return json.dumps(payload).encode()


def call(*args: Any, body: bytes | None = None, **headers: Any) -> Envelope:
    """Return a good message, with some headers that are not."""
    task_id = str(uuid.uuid4())
    known = {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "eta": None,
        "expires": None,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "test",
        "ignore_result": False,
    }
    links = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return Envelope(json.dumps([args, {}, links]).encode() if body is None else body, known | headers)


def first_protocol(**fields: Any) -> Envelope:
    """Return a message of Celery's first protocol: all of it is in the body."""
    known = {"task": TASK, "id": str(uuid.uuid4()), "args": [1, 2], "kwargs": {}, "retries": 0}
    return Envelope(json.dumps(known | fields).encode(), {})


def deep(levels: int) -> bytes:
    """Return the body of a call with a list so deep."""
    return b"[[" + b"[" * levels + b"]" * levels + b', 1], {}, {"callbacks": null}]'


def followed_by(**links: Any) -> bytes:
    """Return the body of a call that adds one and two, with what follows it."""
    return json.dumps(
        [[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None} | links]
    ).encode()


def signature(options: Any) -> dict[str, Any]:
    """Return a task that is to follow, with options that no broker may take."""
    return {"task": TASK, "args": [1], "kwargs": {}, "options": options, "subtask_type": None, "immutable": False}


def unsendable() -> dict[str, Any]:
    """Return options with which a task cannot be sent by one broker or another, and which Celery does not check."""
    return {
        "the queue has a lone surrogate": {"queue": "\udc80"},
        "the queue is a number": {"queue": 5},
        "the queue's name is too long": {"queue": "q" * 300},
        "the priority is text": {"priority": "high"},
        "the priority is too high": {"priority": 10**9},
        "the id is a number": {"task_id": 5},
        "reply_to is a number": {"reply_to": 5},
    }


def bad_envelopes() -> dict[str, Envelope]:
    """Return messages that no worker can run, by what is wrong with them."""
    unmarked = Envelope(b"[[1, 2], {}, {}]")
    return {
        "body is no JSON": call(body=b"{this is not"),
        "body is not UTF-8": call(body=b"\xff\xfe\x00[["),
        "body has an integer of 5,000 digits": call(body=b"[[" + b"9" * 5000 + b"], {}, {}]"),
        "body is nested 100,000 deep": call(body=deep(100_000)),
        "body is a number": call(body=b"5"),
        "body is null": call(body=b"null"),
        "body is an empty list": call(body=b"[]"),
        "body is an object": call(body=b"{}"),
        "body is empty": call(body=b""),
        "args are an object": call(body=b"[{}, {}, {}]"),
        "kwargs are a list": call(body=b"[[], [1], {}]"),
        "what follows is a number": call(body=b"[[1, 2], {}, 7]"),
        "its chain is a number": call(body=followed_by(chain=5)),
        "its chain holds a number": call(body=followed_by(chain=[5])),
        "its chain has options that are a number": call(body=followed_by(chain=[signature(7)])),
        "a decimal that is none": call(body=b'[[{"__type__": "decimal", "__value__": "garbage"}, 1], {}, {}]'),
        "a date that is none": call(body=b'[[{"__type__": "datetime", "__value__": 5}, 1], {}, {}]'),
        "task is a list": call(task=["t.add"]),
        "task is null": call(task=None),
        "task is unknown": call(task="no.such.task"),
        "task has a lone surrogate": call(task="t.\udc80"),
        "id is an object": call(id={"a": 1}),
        "id is a number": call(id=5),
        "id is null": call(id=None),
        "id is huge": call(id="x" * 100_000),
        "id has a lone surrogate": call(id="id-\udcff"),
        "timelimit is text": call(timelimit="soon"),
        "timelimit is a number": call(timelimit=7),
        "timelimit has three": call(timelimit=[1, 2, 3]),
        "timelimit holds text": call(timelimit=["a", "b"]),
        "timelimit is beyond all clocks": call(timelimit=[1e300, 1e300]),
        "timelimit is negative": call(timelimit=[-1, None]),
        "stamps are a number": call(stamps=5, stamped_headers=["x"]),
        "stamped headers are a number": call(stamped_headers=5),
        "retries is text": call(retries="many"),
        "eta is garbage": call(eta="tomorrow"),
        "eta is an object": call(eta={"at": 1}),
        "expires is garbage": call(expires=[1]),
        "group is a list": call(group=[1]),
        "shadow is a list": call(shadow=[1]),
        "what it has sent is a number": call(_children=5),
        "it says that it has begun": call(_asyncworker_entered=True),
        "compression is unknown": call(compression="application/x-squeezed"),
        "compression lies": call(compression="application/x-gzip"),
        "content type is unknown": replace(call(1, 2), content_type="application/x-unheard-of"),
        "content type is refused": replace(call(1, 2), content_type="application/x-python-serialize"),
        "no headers": unmarked,
        "first protocol without an id": first_protocol(id=None),
        "first protocol with args that are a number": first_protocol(args=5),
        "first protocol with a timelimit of text": first_protocol(timelimit="x"),
        "headers of 1 MB": call(body=b"?", note="x" * 1_000_000),
    }


def odd_envelopes() -> dict[str, Envelope]:
    """Return messages that are unusual, and can be run: each adds one and two."""
    return {
        "content encoding is unknown": replace(call(1, 2), content_encoding="utf-77"),
        "priority is text": replace(call(1, 2), properties={"priority": "high"}),
        "reply_to and correlation_id are numbers": replace(call(1, 2), properties={"reply_to": 5, "correlation_id": 7}),
        "nothing is known of its delivery": replace(call(1, 2), properties={"delivery_info": None}),
        "delivery tag is an object": replace(call(1, 2), properties={"delivery_tag": {}}),
        "id has NUL": call(1, 2, id=f"a\0b{uuid.uuid4()}"),
        "argsrepr is a number": call(1, 2, argsrepr=5, kwargsrepr=[], origin={}, lang=7),
        "argsrepr has a lone surrogate": call(1, 2, argsrepr="\udc80", origin="\udc80"),
        "an eta long ago": call(1, 2, eta="0001-01-02T00:00:00"),
        "time limits of fractions": call(1, 2, timelimit=[30.5, 20.5]),
        "stamps": call(1, 2, stamps={"x": "y"}, stamped_headers=["x"]),
        "first protocol": first_protocol(id=f"first-{uuid.uuid4()}"),
    }


def bad_entries() -> dict[str, bytes]:
    """Return what may stand in a queue of Redis and is no message, by what is wrong with it."""

    def edited(**changes: Any) -> bytes:
        return json.dumps(json.loads(call(1, 2).stored()) | changes).encode()

    def with_properties(**changes: Any) -> bytes:
        stored = json.loads(call(1, 2).stored())
        stored["properties"] |= changes
        return json.dumps(stored).encode()

    return {
        "random bytes": bytes(range(256)),
        "nothing": b" ",
        "a number": b"5",
        "null": b"null",
        "a list": b"[1, 2]",
        "an empty object": b"{}",
        "text": b'"hello"',
        "deep": b"[" * 200_000,
        "half a message": call(1, 2).stored()[:100],
        "headers are a list": edited(headers=[1]),
        "headers are text": edited(headers="task"),
        "properties are null": edited(properties=None),
        "properties are a list": edited(properties=[]),
        "body is a number": edited(body=5),
        "body is no base64": edited(body="!!!"),
        "content type is a list": edited(**{"content-type": [1]}),
        "content encoding is an object": edited(**{"content-encoding": {"a": 1}}),
        "body encoding is unknown": with_properties(body_encoding="base-77"),
        "body encoding is a list": with_properties(body_encoding=[]),
        "delivery info is a number": with_properties(delivery_info=5),
        "delivery info names lists": with_properties(delivery_info={"exchange": [], "routing_key": {}}),
    }


class Broker(Protocol):
    """Where the messages go."""

    def put(self, envelope: Envelope) -> None:
        """Put a message into the queue."""

    def wait_until_settled(self, timeout_s: float = 120.0) -> None:
        """Wait until the queue is empty and nothing is unacknowledged."""


class RedisQueue:
    """A queue on Redis; what is in it is whatever was pushed."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def put(self, envelope: Envelope) -> None:
        self.put_raw(envelope.stored())

    def put_raw(self, entry: bytes) -> None:
        """Push anything."""
        self.client.lpush(QUEUE, entry)

    def wait_until_settled(self, timeout_s: float = 120.0) -> None:
        give_up_at_s = time.monotonic() + timeout_s
        while self.client.llen(QUEUE) or self.client.hlen("unacked") or self.client.zcard("unacked_index"):
            assert time.monotonic() < give_up_at_s, self.client.hgetall("unacked")
            time.sleep(0.1)


class RabbitQueue:
    """A queue of RabbitMQ; messages are published by a plain AMQP client."""

    def __init__(self, rabbitmq: RabbitMQ, vhost: str) -> None:
        self._rabbitmq = rabbitmq
        self._vhost = vhost
        host, _, port = rabbitmq.broker_url(vhost).rpartition("@")[2].partition("/")[0].partition(":")
        user, _, password = rabbitmq.broker_url(vhost).partition("//")[2].partition("@")[0].partition(":")
        self._connection = amqp.Connection(
            f"{host}:{port}", userid=user, password=password, virtual_host=vhost, confirm_publish=True
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.queue_declare(QUEUE, durable=True, auto_delete=False)

    def put(self, envelope: Envelope) -> None:
        message = amqp.Message(
            envelope.body,
            application_headers=envelope.headers,
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            delivery_mode=2,
            **envelope.properties,
        )
        self._channel.basic_publish(message, exchange="", routing_key=QUEUE)

    def wait_until_settled(self, timeout_s: float = 120.0) -> None:
        self._rabbitmq.wait_until_settled(self._vhost, timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(frozen=True)
class Letter:
    """A row of the dead letters."""

    task_id: str
    reason: str
    message: bytes
    queue: str


def dead_letters(state_dir: Path) -> list[Letter]:
    """Read the dead letters of a store in a state folder."""
    with contextlib.closing(sqlite3.connect(state_dir / "store.sqlite")) as connection:
        try:
            rows = connection.execute("SELECT task_id, reason, message, queue FROM asyncworker_dead_letter").fetchall()
        except sqlite3.OperationalError:  # no worker has opened it yet
            return []
        finally:
            connection.rollback()
    return [Letter(*row) for row in rows]
