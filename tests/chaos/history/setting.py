"""Starts the servers of a chaos run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.history.aof import OPTIONS
from tests.chaos.history.brokers import Broker, RabbitBroker, RedisBroker
from tests.servers.rabbitmq import running_rabbitmq
from tests.servers.valkey import running_valkey

__all__ = ["running_broker"]


@contextlib.contextmanager
def running_broker(name: str, folder: Path) -> Iterator[Broker]:
    """Run a broker until the block ends, and a Redis for its results.

    Args:
        name: ``redis``, ``redis-fast`` (with our own transport), or ``rabbitmq``.
        folder: For their files.
    """
    with running_valkey(folder / "valkey", OPTIONS) as valkey:
        if name.startswith("redis"):
            yield RedisBroker(valkey, fast=name == "redis-fast")
            return
        with running_rabbitmq(folder / "rabbitmq") as rabbitmq:
            yield RabbitBroker(rabbitmq, valkey)
