"""kombu's pools in a worker: the loop's thread and the main thread never wait for a connection or a producer.

Celery's canvas acquires a producer and sends with it many times; in a bridge each send gives way to the loop. On the
loop's thread a pool therefore lends a producer that holds nothing: each of its calls goes off the loop whole, and
acquires a real one there. kombu finds a pool by its connection, so these take the place of the app's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import kombu.pools
from kombu import Connection, Producer
from kombu.connection import ConnectionPool
from kombu.pools import ProducerPool

from asyncworker.loop import off_loop, on_loop_thread

__all__ = ["use_broker_pools"]


def use_broker_pools(app: Any) -> None:
    """Give the app's process the pools of this module. What the app has pooled before is closed."""
    stock = app.pool
    stock.force_close_all(close_pool=False)
    connections = _Connections(stock.connection, stock.limit)
    producers = _Producers(connections, stock.limit)
    kombu.pools.connections[stock.connection] = app._pool = connections
    kombu.pools.producers[stock.connection] = app.amqp._producer_pool = producers


class _Held(threading.local):
    """How many connections and producers of a pool the thread holds."""

    def __init__(self) -> None:
        # A list, so that what another thread releases is counted where it was acquired.
        self.count = [0]

    def lend(self, acquired: Any) -> Any:
        """Count what was acquired until it is released."""
        count, release = self.count, acquired.release
        count[0] += 1

        def released() -> None:
            acquired.release = release
            count[0] -= 1
            release()

        acquired.release = released
        return acquired


class _Connections(ConnectionPool):
    def __init__(self, connection: Connection, limit: int | None) -> None:
        self.held = _Held()
        super().__init__(connection, limit)

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """Acquire a connection; on the loop's thread, where it may be held across an await, one outside of the pool."""
        if on_loop_thread():
            return self.unpooled()
        return self.held.lend(self.acquire_safely(super().acquire, self.unpooled, block, timeout))

    def acquire_for_producer(self) -> Any:
        """Acquire the connection of a producer, which counts itself."""
        return self.acquire_safely(super().acquire, self.unpooled, block=True)

    def acquire_safely(
        self, acquire: Callable[..., Any], unpooled: Callable[[], Any], block: bool, timeout: float | None = None
    ) -> Any:
        """Acquire from a pool; where all are taken, and waiting could be for ever, make one outside of it.

        Whoever holds one already never waits for another, nor does a thread that others wait for.
        """
        if block and not (self.held.count[0] or on_loop_thread() or _on_main_thread()):
            return acquire(block=True, timeout=timeout)
        try:
            return acquire(block=False)
        except kombu.exceptions.LimitExceeded:
            return unpooled()

    def unpooled(self) -> Connection:
        """Return a connection of its own, which is closed when it is released."""
        return self.connection.clone()


class _Producers(ProducerPool):
    connections: Any

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """Acquire a producer; on the loop's thread one that holds nothing."""
        if on_loop_thread():
            return _ProducerOffLoop(self)
        return self.acquire_real(block, timeout)

    def acquire_real(self, block: bool = True, timeout: float | None = None) -> Any:
        """Acquire a producer that holds a connection."""
        acquired = self.connections.acquire_safely(super().acquire, self._unpooled, block, timeout)
        return self.connections.held.lend(acquired)

    def _acquire_connection(self) -> Any:
        return self.connections.acquire_for_producer()

    def _unpooled(self) -> Any:
        connection = self.connections.unpooled()
        producer: Any = Producer(connection)
        producer.release = connection.release
        return producer


class _ProducerOffLoop(Producer):
    """A producer that holds nothing: each call goes off the loop, and acquires one there."""

    def __init__(self, pool: _Producers) -> None:
        self._pool = pool
        self._own: Connection | None = None

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        """Publish a message."""
        return off_loop(self._with_one, "publish", args, kwargs)

    def declare(self) -> None:
        """Declare nothing: it has no exchange of its own."""

    def maybe_declare(self, *args: Any, **kwargs: Any) -> Any:
        """Declare an entity."""
        return off_loop(self._with_one, "maybe_declare", args, kwargs)

    def _with_one(self, name: str, args: Any, kwargs: Any) -> Any:
        with self._pool.acquire_real() as producer:
            return getattr(producer, name)(*args, **kwargs)

    @property
    def connection(self) -> Any:
        """A connection of its own, for whoever asks for one; it connects when it is first used."""
        if self._own is None:
            self._own = self._pool.connections.unpooled()
        return self._own

    @property
    def channel(self) -> Any:  # type: ignore[override]
        """The channel of that connection."""
        return self.connection.default_channel

    def __exit__(self, *_exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Give back what it holds: at most the connection that was asked for."""
        if self._own is not None:
            self._own.release()

    close = release


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
