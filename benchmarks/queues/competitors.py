"""Who takes part in the benchmark of task queues, each with the settings that were found to be its best."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CALLED", "CELERY_POOLS", "OURS", "RABBITMQ", "REDIS", "SENDERS", "SLEEPERS", "Competitor"]

OURS = "asyncworker"


@dataclass(frozen=True)
class Competitor:
    """One task queue, and how it is run.

    Attributes:
        name: In the tables.
        module: Its side, under ``benchmarks.queues``; ``python -m MODULE`` is its client.
        work: Arguments after the interpreter that start its worker.
        needs: The distribution without which it cannot take part.
        imports: How that is imported.
        queued: The command that asks Redis for the length of its queue.
        stored: Tells whether all results are there: the broker's database, that of results, how many.
        env: For its processes.
        python: The interpreter that has its packages.
        slow: It gets a fifth of the tasks.
        at_most: It gets no more tasks than that; 0: as many as the others.
        cannot: Why it has no part in it, whatever is installed.
        quick: It takes part with ``--quick``.
        rabbitmq: Its broker is RabbitMQ.
    """

    name: str
    module: str
    work: tuple[str, ...] = ()
    needs: str = "celery"
    imports: str = "celery"
    stored: Callable[[Any, Any, int], bool] = lambda broker, results, amount: bool(results.dbsize() >= amount)
    queued: tuple[str, str] = ("LLEN", "benchmark")
    env: tuple[tuple[str, str], ...] = ()
    python: str = sys.executable
    slow: bool = False
    at_most: int = 0
    cannot: str = ""
    quick: bool = False
    rabbitmq: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is asyncworker."""
        return self.name.startswith(OURS)

    @property
    def missing(self) -> str:
        """Why it cannot take part; empty where it can."""
        if self.cannot or self.python != sys.executable or importlib.util.find_spec(self.imports):
            return self.cannot
        return f"{self.needs} is not installed"

    def share(self, amount: int) -> int:
        """How many of so many tasks it gets."""
        amount = amount // 5 if self.slow else amount
        return min(amount, self.at_most) if self.at_most else amount


def _none_left(key: str) -> Callable[[Any, Any, int], bool]:
    return lambda broker, results, amount: not broker.zcard(key)


def _streaq_results(broker: Any, results: Any, amount: int) -> bool:
    # An index while its worker keeps one, else all its keys.
    return bool(broker.zcard("streaq:default:results") >= amount or broker.dbsize() >= amount)


def _celery(name: str, pool: str, *options: str, env: tuple[tuple[str, str], ...] = (), **more: Any) -> Competitor:
    module = "benchmarks.queues.celery_queue"
    command = ("-m", "celery", "-A", module, "worker", "--loglevel", "WARNING", "--without-mingle", "--without-gossip")
    return Competitor(name, module, (*command, *options), env=(("BENCHMARK_POOL", pool), *env), **more)


def _stock(pool: str, concurrency: int, name: str = "", **more: Any) -> Competitor:
    more = {"slow": True, **more}
    return _celery(name or f"Celery {pool}", "stock", "-P", pool, "-c", str(concurrency), **more)


def _aio_pool(concurrency: int, **more: Any) -> Competitor:
    return _celery(
        "celery-aio-pool",
        "async",
        *("-P", "custom", "-c", str(concurrency)),
        needs="celery-aio-pool",
        imports="celery_aio_pool",
        env=(("CELERY_CUSTOM_WORKER_POOL", "celery_aio_pool.pool:AsyncIOPool"),),
        **more,
    )


def _own(library: str, concurrency: int, name: str = "", **more: Any) -> Competitor:
    module = f"benchmarks.queues.{library}_queue"
    work = ("-m", module, "work", str(concurrency))
    return Competitor(name or library, module, work, needs=library, imports=library, **more)


def _arq(concurrency: int) -> Competitor:
    return _own("arq", concurrency, stored=_none_left("arq:queue"), queued=("ZCARD", "arq:queue"), quick=True)


def _saq(concurrency: int, name: str = "", **more: Any) -> Competitor:
    queued = ("LLEN", "saq:default:queued")
    return _own(
        "saq", concurrency, name, stored=_none_left("saq:default:incomplete"), queued=queued, quick=True, **more
    )


def _streaq(concurrency: int) -> Competitor:
    return _own("streaq", concurrency, stored=_streaq_results, queued=("XLEN", "streaq:default:queues:normal"))


def _taskiq(kind: str, concurrency: int, command: str = "", needs: str = "taskiq-redis", **more: Any) -> Competitor:
    module = "benchmarks.queues.taskiq_queue"
    work = ("-m", "taskiq", "worker", f"{module}:broker", "--workers", "1", "--log-level", "ERROR", "--no-parse")
    work += ("--max-prefetch", "100", "--max-async-tasks", str(concurrency))
    env = (("BENCHMARK_POOL", kind),)
    imports, queued = needs.replace("-", "_"), (command, "taskiq")
    return Competitor(f"taskiq, {kind}", module, work, needs, imports, queued=queued, env=env, **more)


_INDEPENDENT = (_arq(100), _saq(100), _taskiq("list", 100, "LLEN"), _taskiq("stream", 100, "XLEN"), _streaq(100))

_STOCK_PARTS = (("ASYNCWORKER_FAST_BROKER", "0"), ("ASYNCWORKER_FAST_RESULTS", "0"))

#: Drained over Redis.
REDIS = (
    _celery(OURS, "ours", quick=True),
    _celery(f"{OURS}, kombu's transport, Celery's backend", "ours", slow=True, env=_STOCK_PARTS),
    _stock("prefork", 2, quick=True),
    _stock("threads", 20),
    _stock("gevent", 100, needs="gevent"),
    _aio_pool(100, slow=True),
    *_INDEPENDENT,
)

#: Called at light load; all get as many tasks.
CALLED = tuple(dataclasses.replace(each, slow=False) for each in REDIS)

#: Sleeping tasks, all at once where it can.
SLEEPERS = (
    _celery(OURS, "ours", "-c", "10000", quick=True),
    _stock("prefork", 2, cannot="a process a task"),
    _stock("threads", 1_000, "Celery threads, 1,000 tasks", slow=False, at_most=1_000),
    _stock("gevent", 10_000, needs="gevent", slow=False),
    _aio_pool(10_000, cannot="one task at a time"),
    _arq(10_000),
    # A connection to Redis for each: with many more they time out.
    _saq(1_000, "saq, 1,000 tasks", at_most=1_000),
    _taskiq("list", 10_000, "LLEN"),
    _taskiq("stream", 10_000, "XLEN"),
    _streaq(10_000),
)

#: All get as many tasks, so that their memory can be compared.
CELERY_POOLS = (
    _celery(OURS, "ours", quick=True),
    _stock("prefork", 2, quick=True, slow=False),
    _stock("threads", 20, quick=True, slow=False),
)

#: Over RabbitMQ.
RABBITMQ = (
    _celery(OURS, "ours", rabbitmq=True),
    _stock("prefork", 2, rabbitmq=True),
    _stock("threads", 20, rabbitmq=True),
    _taskiq("aio-pika", 100, needs="taskiq-aio-pika", rabbitmq=True),
)

#: Who sends, without a worker.
SENDERS = (
    _celery(OURS, "ours", env=(("BENCHMARK_SENDS", "publish_many"),), quick=True),
    _celery(f"{OURS}, adelay()", "ours", env=(("BENCHMARK_SENDS", "adelay"),), quick=True),
    _celery("Celery, delay()", "stock", env=(("BENCHMARK_SENDS", "delay"),), slow=True, quick=True),
    *_INDEPENDENT,
)
