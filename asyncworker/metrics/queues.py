"""Length of each queue that a worker consumes from, asked of its broker by a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from asyncworker.counters import Sample, collect_with
from asyncworker.redaction import redacted

__all__ = ["QueueLengths"]

logger = logging.getLogger(__name__)

#: Seconds between two readings.
EVERY_S = 10.0


class QueueLengths:
    """Reads until it is stopped, over a connection of its own.

    A message that a worker holds is not counted. Where the broker does not answer there is no number.

    Args:
        app: Names the broker and the queues.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._found: dict[str, int] = {}
        self._reported = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="asyncworker-queue-lengths", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        collect_with("queues", self._samples)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that waits for a silent broker is left behind."""
        self._stop.set()
        self._thread.join(2)

    def _samples(self) -> list[Sample]:
        return [Sample("queue.messages", "gauge", (("queue", queue),), length) for queue, length in self._found.items()]

    def _main(self) -> None:
        while not self._stop.is_set():
            try:
                with self._app.connection_for_read() as connection:
                    self._read(connection)
            except Exception as exc:
                self._found = {}
                if not self._reported:
                    self._reported = True
                    logger.warning("the lengths of queues cannot be read: %s", redacted(str(exc)))
                self._stop.wait(EVERY_S)

    def _read(self, connection: Any) -> None:
        connection.ensure_connection(max_retries=1)
        while True:
            self._found = dict(self._lengths(connection))
            self._reported = False
            if self._stop.wait(EVERY_S):
                return

    def _lengths(self, connection: Any) -> Iterator[tuple[str, int]]:
        for queue in list(self._app.amqp.queues.consume_from):
            # A channel each: asking for a queue that is not there closes it.
            channel = connection.channel()
            try:
                yield queue, int(channel.queue_declare(queue=queue, passive=True).message_count)
            except connection.channel_errors as exc:
                # One that cannot be read has no number; but in Redis a queue that is empty is not there.
                if str(getattr(exc, "reply_code", "")) == "404" and connection.transport.driver_type != "amqp":
                    yield queue, 0
            finally:
                with contextlib.suppress(*connection.channel_errors, *connection.connection_errors):
                    channel.close()
