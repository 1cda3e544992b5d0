"""Fill a Redis queue with very many messages in one moment, in the form in which kombu has them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import redis
from celery import Celery

__all__ = ["Preload"]

_BATCH = 1000


class Preload:
    """Messages of one task: one is made by kombu, the others are that one under other ids.

    Args:
        broker_url: For kombu.
        client: Connected to the same database.
        name: The task.
        args: Its arguments.
    """

    def __init__(self, broker_url: str, client: redis.Redis, name: str, args: Sequence[Any] = ()) -> None:
        self._client = client
        self._task_id = str(uuid.uuid4()).encode()
        self._template = self._made_by_kombu(broker_url, name, args)
        self._tag = self._template.partition(b'"delivery_tag": "')[2].partition(b'"')[0]

    def put(self, count: int) -> None:
        """Put so many into the queue ``celery``, which must be empty, all of them in one moment."""
        loading = f"loading-{uuid.uuid4()}"
        for start in range(0, count, _BATCH):
            self._client.lpush(loading, *(self._copy() for _ in range(min(_BATCH, count - start))))
        # Those who wait for the queue wake up by that.
        assert self._client.renamenx(loading, "celery"), "the queue holds messages already"

    def _copy(self) -> bytes:
        return self._template.replace(self._task_id, _uuid()).replace(self._tag, _uuid())

    def _made_by_kombu(self, broker_url: str, name: str, args: Sequence[Any]) -> bytes:
        app: Celery[Any] = Celery("preload", broker=broker_url, set_as_current=False)
        queue = f"template-{uuid.uuid4()}"
        try:
            with app.connection_for_write() as connection, connection.Producer() as producer:
                message = app.amqp.as_task_v2(self._task_id.decode(), name, args=tuple(args), kwargs={})
                app.amqp.send_task_message(producer, name, message, queue=queue)
        finally:
            app.close()
        body: Any = self._client.rpop(queue)
        self._client.delete(f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}")
        return bytes(body.replace(f'"routing_key": "{queue}"'.encode(), b'"routing_key": "celery"'))


def _uuid() -> bytes:
    return str(uuid.uuid4()).encode()
