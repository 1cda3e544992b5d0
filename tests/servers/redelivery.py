"""What a visibility timeout does, at once."""

from __future__ import annotations

import time
from typing import Any

import redis
from kombu import Connection

from asyncworker.cli.embedded import EmbeddedServer

__all__ = ["redeliver", "wait_until_none_is_given"]


def redeliver(server: EmbeddedServer) -> None:
    """Put every unacknowledged message back, as workers do after the visibility timeout: with kombu's own code."""
    with redis.Redis.from_url(server.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})
        # Of a worker that was killed or frozen while it did the same.
        broker.delete("unacked_mutex")
    with Connection(server.broker_url) as connection:
        channel: Any = connection.default_channel
        channel.qos.restore_visible(num=1000)


def wait_until_none_is_given(server: EmbeddedServer) -> None:
    """Wait until no client is blocked: kombu's BRPOP, which lasts a second, takes for a frozen worker, too."""
    with redis.Redis.from_url(server.redis_url) as broker:
        while broker.info("clients")["blocked_clients"]:
            time.sleep(0.02)
