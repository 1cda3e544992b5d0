"""A publisher that knows what the broker has accepted: no retry of its own, and a confirmation where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.utils import uuid
from kombu import Connection, Producer
from kombu.exceptions import OperationalError

from asyncworker.tasks.names import MESSAGE_HEADER

__all__ = ["NotAccepted", "Publisher"]

Message = tuple[str, str, Sequence[Any], Mapping[str, Any]]


class NotAccepted(Exception):
    """The broker has not said that it has the message; whether it has is not known."""


class Publisher:
    """Sends tasks past ``apply_async``, which would wait for the result backend, and try again unseen.

    Args:
        broker_url: Where to.
        queue: The queue.
    """

    def __init__(self, broker_url: str, queue: str = "celery") -> None:
        self._app: Celery[Any] = Celery("publisher", broker=broker_url, set_as_current=False)
        self._url = broker_url
        options = {"confirm_publish": True} if broker_url.startswith("amqp") else {"socket_timeout": 5.0}
        self._app.conf.update(broker_transport_options=options, task_default_queue=queue)
        transport = self._app.connection_for_write()
        self._errors = (OperationalError, OSError, *transport.connection_errors, *transport.channel_errors)
        self._queue = queue
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def send(self, task_id: str, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Send one task.

        Raises:
            NotAccepted: The broker is away.
        """
        self.send_many([(task_id, name, args, kwargs or {})])

    def send_many(self, messages: Iterable[Message]) -> None:
        """Send tasks one after the other; on Redis all of them in one round trip.

        Raises:
            NotAccepted: The broker is away.
        """
        try:
            producer = self._connected()
            for task_id, name, args, kwargs in messages:
                message = self._app.amqp.as_task_v2(task_id, name, args=tuple(args), kwargs=dict(kwargs))
                named = {MESSAGE_HEADER: uuid()}  # as asyncworker's own clients name a fan-out's
                self._app.amqp.send_task_message(producer, name, message, queue=self._queue, retry=False, headers=named)
        except self._errors as exc:
            self.close()
            raise NotAccepted(f"{type(exc).__name__}: {exc}") from exc

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = self._producer = None

    def _connected(self) -> Producer:
        if self._producer is None:
            self._connection = self._app.connection_for_write()
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            self._producer = Producer(self._connection, auto_declare=False)
        return self._producer
