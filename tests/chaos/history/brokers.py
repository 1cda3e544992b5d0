"""Redis and RabbitMQ as a chaos run sees them: where they are, what may be done to them, what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import redis

from tests.chaos.history.aof import taken_and_gone
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.valkey import RestartableValkey

__all__ = ["Broker", "RabbitBroker", "RedisBroker", "stored"]


class Broker(Protocol):
    """One broker, and the Redis that has the results."""

    name: str
    env: Mapping[str, str]
    """For the workers."""
    broker_url: str
    result_url: str
    loses_on_its_way: bool
    """Whether it is documented that a message on its way to a worker is lost when the connection ends."""
    may_refuse: bool
    """Whether its workers are to stand that it answers and cannot write."""

    def down(self, *, crash: bool) -> None:
        """Stop it, or kill it."""

    def refuse(self, *, as_replica: bool) -> None:
        """Have it answer and refuse to write."""

    def up(self) -> None:
        """Start it again over its data, or have it write again."""

    def cut(self) -> None:
        """Cut the connections of all its clients."""

    def holds(self) -> int:
        """How many messages it holds, delivered ones that are not acknowledged among them."""

    def told(self) -> str:
        """What it says of them, to look into."""

    def lost_on_their_way(self) -> dict[str, float]:
        """Tasks whose message it gave away, and nobody has had: by id, when that was, of ``time.time()``."""


class RedisBroker:
    """Messages and results on the same Redis, which keeps them in its append-only file."""

    name = "redis"

    def __init__(self, server: RestartableValkey, *, fast: bool = False) -> None:
        self._server = server
        self.env = {"ASYNCWORKER_FAST_BROKER": "1" if fast else "0"}
        #: kombu's BRPOP takes a message out of its queue before the worker has it; our own transport does not.
        self.loses_on_its_way = not fast
        #: kombu's ends the worker then.
        self.may_refuse = fast
        self.broker_url, self.result_url = server.url(0), server.url(1)
        self._refusal = contextlib.ExitStack()
        self._refuses = False

    def down(self, *, crash: bool) -> None:
        if crash:
            self._server.kill()
        else:
            self._server.stop()

    def refuse(self, *, as_replica: bool) -> None:
        self._refusal.enter_context(self._server.refusing_writes(as_replica=as_replica))
        self._refuses = True

    def up(self) -> None:
        if self._refuses:
            self._refuses = False
            self._refusal.close()
        else:
            self._server.start()

    def cut(self) -> None:
        self._server.kill_connections()

    def holds(self) -> int:
        with self._server.connect() as connection:
            return int(connection.llen("celery")) + int(connection.hlen("unacked"))

    def told(self) -> str:
        with self._server.connect() as connection:
            queued: Any = connection.lrange("celery", 0, 9)
            return f"queued {queued}, not acknowledged {connection.hgetall('unacked')}"

    def lost_on_their_way(self) -> dict[str, float]:
        return taken_and_gone(self._server.folder)


class RabbitBroker:
    """Messages on RabbitMQ, results on a Redis that nothing happens to."""

    name = "rabbitmq"
    env: Mapping[str, str] = {}
    loses_on_its_way = may_refuse = False

    def __init__(self, server: RabbitMQ, results: RestartableValkey) -> None:
        self._server = server
        self._vhost = server.add_vhost()
        self.broker_url, self.result_url = server.broker_url(self._vhost), results.url(1)

    def down(self, *, crash: bool) -> None:
        if crash:
            self._server.kill()
        else:
            self._server.stop()

    def refuse(self, *, as_replica: bool) -> None:
        raise NotImplementedError("it holds back who publishes, and refuses nothing")

    def up(self) -> None:
        self._server.start()

    def cut(self) -> None:
        self._server.drop_connections(self._vhost)

    def holds(self) -> int:
        return self._server.messages(self._vhost)

    def told(self) -> str:
        where = ("-p", self._vhost)
        queues = self._server.ctl("list_queues", *where, "name", "messages_ready", "messages_unacknowledged")
        columns = ("connection", "prefetch_count", "messages_unacknowledged", "consumer_count")
        return queues + self._server.ctl("list_channels", *columns)

    def lost_on_their_way(self) -> dict[str, float]:
        return {}


def stored(broker: Broker, task_ids: list[str]) -> dict[str, bytes]:
    """Read what the result backend has of each task, past all code that is tested."""
    found: dict[str, bytes] = {}
    with contextlib.closing(redis.Redis.from_url(broker.result_url)) as connection:
        for start in range(0, len(task_ids), 500):
            some = task_ids[start : start + 500]
            values = connection.mget([f"celery-task-meta-{task_id}" for task_id in some])
            found |= {task_id: value for task_id, value in zip(some, values, strict=True) if value is not None}
    return found
