"""taskiq's side of the benchmark: a list or a stream of Redis, or RabbitMQ; its worker is ``taskiq worker``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queues import client, counting

#: Results are asked for again and again; so often.
_POLL_S = 0.001
#: For results; without it, thousands of tasks that end at once open one each, and time out.
_CONNECTIONS = 50
#: Else a result that waits five seconds for its connection is lost.
_RESULT_S = 60.0
#: Messages that RabbitMQ delivers ahead of their acknowledgements.
_PREFETCH = 200


def _broker(kind: str) -> Any:
    if kind == "list":
        return ListQueueBroker(counting.REDIS_URL)
    if kind == "stream":
        return RedisStreamBroker(counting.REDIS_URL)
    from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

    # The others' queues are classic ones, too.
    return AioPikaBroker(
        counting.BROKER_URL,
        qos=_PREFETCH,
        task_queues=[Queue(name="taskiq", type=QueueType.CLASSIC)],
        dead_letter_queue=Queue(name="taskiq.dead_letter", type=QueueType.CLASSIC),
    )


broker = _broker(os.environ.get("BENCHMARK_POOL", "list"))
if counting.RESULTS:
    backend: Any = RedisAsyncResultBackend(
        counting.REDIS_URL.replace("db=0", "db=1"),
        result_ex_time=3600,
        max_connection_pool_size=_CONNECTIONS,
        socket_timeout=_RESULT_S,
    )
    broker = broker.with_result_backend(backend)


@broker.task("noop")
async def noop(number: int) -> int:
    """Count."""
    return counting.count(number)


@broker.task("nap")
async def nap(number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


class Client:
    """Sends tasks."""

    async def __aenter__(self) -> Self:
        await broker.startup()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await broker.shutdown()

    async def send_many(self, name: str, rows: Sequence[client.Row]) -> None:
        """A few at once; there is no batch."""
        task = broker.find_task(name)
        await client.a_few_at_once(task.kiq(*row) for row in rows)

    async def call(self, number: int) -> int:
        """Send one, and wait for it."""
        task = await noop.kiq(number)
        return int((await task.wait_result(check_interval=_POLL_S)).return_value)


if __name__ == "__main__":
    client.main(Client)
