"""An asyncio client for the Redis of Celery's own result backend."""

from __future__ import annotations

from typing import Any

import redis as sync_redis
import redis.asyncio as redis
from celery.backends.redis import RedisBackend
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ["async_client"]

_CONNECTIONS: dict[Any, type[Any]] = {
    sync_redis.Connection: redis.Connection,
    sync_redis.SSLConnection: redis.SSLConnection,
    sync_redis.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}


def async_client(backend: Any, *, connections: int) -> redis.Redis | None:
    """Return a client with the backend's own settings, which tries nothing again; it connects when it is first used.

    Args:
        backend: A result backend of Celery's.
        connections: The most that it opens.

    Returns:
        ``None`` for another backend than Celery's own on Redis, and what derives from it.
    """
    if type(backend) is not RedisBackend:
        return None
    parameters: dict[str, Any] = dict(backend.connparams)  # type: ignore[attr-defined]
    connection_class = _CONNECTIONS.get(parameters.get("connection_class", sync_redis.Connection))
    if connection_class is None:
        return None
    parameters |= {
        "connection_class": connection_class,
        "max_connections": connections,
        "retry": Retry(NoBackoff(), 0),
    }
    parameters.pop("retry_on_timeout", None)
    return redis.Redis.from_pool(redis.ConnectionPool(**parameters))
