"""Who takes part in the benchmark of task queues: how each is filled and started, and how one sees that it is done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMPETITORS", "OURS", "Competitor", "environment"]

OURS = "asyncworker"


def _all_results(broker: Any, results: Any, amount: int) -> bool:
    return bool(results.dbsize() >= amount)


def _none_left(key: str) -> Callable[[Any, Any, int], bool]:
    return lambda broker, results, amount: not broker.zcard(key)


def _streaq_results(broker: Any, results: Any, amount: int) -> bool:
    return bool(broker.zcard("streaq:default:results") >= amount or broker.dbsize() >= amount)


@dataclass(frozen=True)
class Competitor:
    """One task queue at its best settings.

    Attributes:
        name: In the table.
        module: Its side, under ``benchmarks.queues``; ``python -m MODULE fill`` fills its queue.
        work: Arguments after the interpreter that start its worker.
        sleepers: The same for many sleeping tasks; empty where it cannot.
        pool: ``BENCHMARK_POOL``, for a side that serves several.
        stored: Tells whether all results are there: the broker, the results' database, how many.
        needs: A package without which it cannot take part.
        slow: It gets fewer tasks.
        env: For its processes.
    """

    name: str
    module: str
    work: tuple[str, ...]
    sleepers: tuple[str, ...] = ()
    pool: str = "stock"
    stored: Callable[[Any, Any, int], bool] = _all_results
    needs: str = "celery"
    slow: bool = False
    env: tuple[tuple[str, str], ...] = ()

    @property
    def python(self) -> str:
        """The interpreter that has its packages."""
        return _arq_python() if self.needs == "arq" else sys.executable

    @property
    def ours(self) -> bool:
        """Whether it is asyncworker."""
        return self.name.startswith(OURS)

    @property
    def missing(self) -> str:
        """Why it cannot take part; empty where it can."""
        if self.needs == "arq":
            return "" if _arq_python() else "no `arq` on PATH"
        return "" if importlib.util.find_spec(self.needs) else f"no {self.needs}"

    @property
    def variables(self) -> dict[str, str]:
        """What its processes find in their environment."""
        return {"BENCHMARK_POOL": self.pool, **dict(self.env)}


def _arq_python() -> str:
    """Return the interpreter of the ``arq`` on PATH.

    It wants an older redis than ours, so it has an environment of its own: ``pipx install arq``,
    ``pipx inject arq uvloop``.
    """
    program = shutil.which("arq")
    if program is None:
        return ""
    first = Path(program).read_bytes().partition(b"\n")[0].decode(errors="replace")
    return first.removeprefix("#!").strip() if first.startswith("#!") else ""


_CELERY = ("-m", "celery", "-A", "benchmarks.queues.celery_queue", "worker", "--loglevel", "WARNING")
_QUIET = ("--without-mingle", "--without-gossip")


def _celery(name: str, *options: str, **more: Any) -> Competitor:
    module = "benchmarks.queues.celery_queue"
    return Competitor(name, module, (*_CELERY, *_QUIET, *options), **{"slow": True, **more})


def _side(name: str, module: str, needs: str, **more: Any) -> Competitor:
    path = f"benchmarks.queues.{module}"
    work = more.pop("work", ("-m", path, "work"))
    return Competitor(name, path, work, needs=needs, **more)


_TASKIQ = ("-m", "taskiq", "worker", "benchmarks.queues.taskiq_queue:broker", "--workers", "1")
_TASKIQ += ("--log-level", "ERROR", "--max-prefetch", "100", "--max-async-tasks")

_FAST = (("ASYNCWORKER_FAST_BROKER", "1"), ("ASYNCWORKER_FAST_RESULTS", "1"))

COMPETITORS = [
    _celery(OURS, pool="ours", slow=False, sleepers=(*_CELERY, *_QUIET, "-c", "10000"), env=_FAST),
    _celery(
        f"{OURS}, kombu's transport, Celery's backend",
        pool="ours",
        env=(("ASYNCWORKER_FAST_BROKER", "0"), ("ASYNCWORKER_FAST_RESULTS", "0")),
    ),
    _celery("celery prefork -c 2", "-P", "prefork", "-c", "2"),
    _celery("celery threads -c 20", "-P", "threads", "-c", "20"),
    _celery("celery gevent -c 100", "-P", "gevent", "-c", "100", needs="gevent"),
    _celery(
        "celery-aio-pool",
        "-P",
        "custom",
        "-c",
        "100",
        needs="celery_aio_pool",
        pool="async",
        env=(("CELERY_CUSTOM_WORKER_POOL", "celery_aio_pool.pool:AsyncIOPool"),),
    ),
    _side(
        "arq",
        "arq_queue",
        "arq",
        stored=_none_left("arq:queue"),
        sleepers=("-m", "benchmarks.queues.arq_queue", "work", "10000"),
    ),
    _side(
        "saq",
        "saq_queue",
        "saq",
        stored=_none_left("saq:default:incomplete"),
        sleepers=("-m", "benchmarks.queues.saq_queue", "work", "10000"),
    ),
    _side("taskiq, list", "taskiq_queue", "taskiq_redis", pool="list", work=(*_TASKIQ, "100")),
    _side(
        "taskiq, stream",
        "taskiq_queue",
        "taskiq_redis",
        pool="stream",
        work=(*_TASKIQ, "100"),
        sleepers=(*_TASKIQ, "10000"),
    ),
    _side(
        "streaq",
        "streaq_queue",
        "streaq",
        stored=_streaq_results,
        sleepers=("-m", "benchmarks.queues.streaq_queue", "work", "10000"),
    ),
]


def environment(given: dict[str, str], competitor: Competitor) -> dict[str, str]:
    """Return the whole environment of a competitor's processes."""
    return {**os.environ, **given, **competitor.variables}
