"""Remote control commands of the async worker: ``celery -A ... inspect coroutines``, and those of ``asyncworker``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.worker.control import control_command, inspect_command

from asyncworker.errors import SettingsError
from asyncworker.limits import find_limit
from asyncworker.limits import limits as declared_limits
from asyncworker.loop import get_loop_thread, live_jobs, stack_of
from asyncworker.worker.job import Job

__all__ = ["change_limit", "coroutines", "limits"]

#: Innermost lines of a stack that are told.
STACK_LINES = 8
#: Items of a fan-out, those with the lowest index.
ITEMS_TOLD = 20


@inspect_command(args=[("limit", int)], signature="[LIMIT=100]")
def coroutines(state: Any, limit: int = 100, **_: Any) -> dict[str, Any]:
    """Every task in flight in the async pool, the oldest first: id, age, stack, and its items."""
    jobs = sorted(live_jobs.values(), key=lambda job: job.started_at_s)
    return {
        "in-flight": len(jobs),
        "loop-lag-s": round(state.consumer.pool.loop_lag_s, 3) if hasattr(state.consumer.pool, "loop_lag_s") else None,
        "jobs": [_described(job) for job in jobs[:limit]],
    }


@inspect_command()
def limits(state: Any, **_: Any) -> list[dict[str, Any]]:
    """The limits of this process alone: who holds permits, and how many wait."""
    rows = []
    for limit in declared_limits.values():
        if limit.cluster:
            continue
        shown = {"limit": limit.name, "kind": limit.kind, "amount": limit.amount}
        for key, place in limit.standing().items() or [("", None)]:
            holders = [] if place is None else place.holders()
            rows.append(
                {
                    **shown,
                    "key": key,
                    "held": len(holders),
                    "waiting": 0 if place is None else place.waiting,
                    "holders": [str(permit) for permit in holders[:10]],
                }
            )
    return rows


@control_command(args=[("name", str), ("amount", float)], signature="NAME NUMBER")
def change_limit(state: Any, name: str, amount: float, **_: Any) -> dict[str, str]:
    """Change the number of a limit of this process."""
    try:
        limit = find_limit(name)
        if limit.cluster:
            return {"error": f"limit {name!r} is the cluster's, and no process has used it yet"}
        limit.check(amount)
    except SettingsError as exc:
        return {"error": str(exc)}
    # It wakes those who wait, on their loop.
    get_loop_thread().loop.call_soon_threadsafe(limit.change, amount)
    return {"ok": f"{name} is {amount:g}"}


def _described(job: Any) -> dict[str, Any]:
    return {
        "id": job.id,
        "task": job.name,
        "age-s": round(job.age_s, 3),
        "on": "thread" if job.thread_ident is not None else "loop",
        "abandoned": isinstance(job, Job) and job.abandoned,
        "stack": job.stack()[-STACK_LINES:],
        **({} if job.items is None else _items(job.items())),
    }


def _items(running: Sequence[Any]) -> dict[str, Any]:
    return {
        "items-in-flight": len(running),
        "items": [
            {
                "index": each.item.index,
                "key": each.item.key if isinstance(each.item.key, str | int | None) else repr(each.item.key),
                "attempt": each.item.attempt,
                "stack": stack_of(each.coroutine)[-STACK_LINES:],
            }
            for each in running[:ITEMS_TOLD]
        ],
    }
