"""How things stand in this worker: read from what its pool, its limits and its connection pools know anyway."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from celery.worker import state
from celery.worker.request import Request

from asyncworker.counters import Sample
from asyncworker.limits import limits
from asyncworker.resources import pools

__all__ = ["limits_standing", "pools_standing", "worker_standing"]

#: This module is loaded by a worker that starts.
_STARTED_AT_S = time.time()


def worker_standing(worker: Any) -> Iterator[Sample]:
    """Tell of a worker, given Celery's consumer; of another pool than ours, what it has."""
    queued = max(0, len(state.reserved_requests) - len(state.active_requests))
    yield _gauge("executor.queued_tasks", queued)
    yield _gauge("scheduler.tasks.executable", queued)
    yield _gauge("ti.scheduled", sum(1 for _ in _scheduled(worker)))
    yield _gauge("process.started_at", _STARTED_AT_S)
    pool = worker.pool
    running = getattr(pool, "in_flight", len(state.active_requests))
    yield _gauge("executor.running_tasks", running)
    yield _gauge("executor.open_slots", max(0, pool.limit - running))
    if hasattr(pool, "loop_lag_s"):
        yield _gauge("zombies", pool.zombies)
        yield _gauge("loop.lag", pool.loop_lag_s)
        yield Sample("loop.stalls", "counter", (), pool.loop_stalls)


def limits_standing() -> Iterator[Sample]:
    """Tell of the limits, all keys of each together."""
    starving = 0
    for limit in list(limits.values()):
        places = limit.standing().values()
        waiting = sum(place.waiting for place in places)
        starving += waiting
        labels = (("limit", limit.name),)
        yield Sample("limit.held", "gauge", labels, sum(len(place.holders()) for place in places))
        yield Sample("limit.waiting", "gauge", labels, waiting)
        yield Sample("limit.acquired", "counter", labels, limit.acquired)
        yield Sample("limit.waits", "counter", labels, limit.waits)
        yield Sample("limit.wait_seconds", "counter", labels, limit.waited_s)
    yield _gauge("scheduler.tasks.starving", starving)


def pools_standing() -> Iterator[Sample]:
    """Tell of the connection pools; those of one name together."""
    sums: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for pool in list(pools):
        now = pool.statistics()
        for name in ("size", "lent", "idle", "waiting"):
            sums[f"pool.{name}", "gauge", pool.name] += getattr(now, name)
        for name in ("acquired", "timeouts", "opened", "closed", "failed", "dropped"):
            sums[f"pool.{name}", "counter", pool.name] += getattr(now, name)
        sums["pool.wait_seconds", "counter", pool.name] += now.waited_s
    for (name, kind, pool_name), value in sums.items():
        yield Sample(name, "gauge" if kind == "gauge" else "counter", (("pool", pool_name),), value)


def _scheduled(worker: Any) -> Iterator[Any]:
    for waiting in list(worker.timer.schedule.queue):
        arguments = waiting.entry.args
        if arguments and isinstance(arguments[0], Request):
            yield arguments[0]


def _gauge(name: str, value: float) -> Sample:
    return Sample(name, "gauge", (), value)
