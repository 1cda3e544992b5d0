"""Every metric: its name, kind, labels, unit and meaning, and what Airflow calls the like of it.

``python -m tests.metrics_table`` writes the README's table.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["METRICS", "Metric", "full_names"]


class Metric(NamedTuple):
    """One metric. A summary is sent as two counters, ``NAME.count`` and ``NAME.seconds``."""

    name: str
    kind: Literal["counter", "gauge", "summary"]
    labels: tuple[str, ...]
    unit: str
    meaning: str
    airflow: str = ""


METRICS = (
    Metric(
        "executor.open_slots",
        "gauge",
        (),
        "tasks",
        "free places: concurrency less what is in flight",
        "executor.open_slots",
    ),
    Metric("executor.queued_tasks", "gauge", (), "tasks", "received, due, and not begun", "executor.queued_tasks"),
    Metric("executor.running_tasks", "gauge", (), "tasks", "in flight", "executor.running_tasks"),
    Metric(
        "scheduler.tasks.starving",
        "gauge",
        (),
        "tasks, items",
        "that wait for a permit of a limit",
        "scheduler.tasks.starving",
    ),
    Metric(
        "scheduler.tasks.executable",
        "gauge",
        (),
        "tasks",
        "that would begin if there were a place",
        "scheduler.tasks.executable",
    ),
    Metric(
        "ti.scheduled",
        "gauge",
        (),
        "tasks",
        "received, and waiting for their time: eta, countdown, retry",
        "ti.scheduled.<queue>.<dag>.<task>",
    ),
    Metric("ti.start", "counter", ("task",), "tasks", "that began", "ti.start.<dag>.<task>"),
    Metric(
        "ti.finish",
        "counter",
        ("task", "state"),
        "tasks",
        "that ended; state: `success`, or `other` (failed, retried, ignored, revoked, drained)",
        "ti.finish.<dag>.<task>.<state>",
    ),
    Metric("task.duration", "summary", ("task",), "s", "from beginning to end", "task.duration"),
    Metric(
        "queue.messages",
        "gauge",
        ("queue",),
        "tasks",
        "waiting in the broker for any worker, of each queue that this one consumes from; every 10 s",
    ),
    Metric("dead_letters", "counter", (), "tasks", "given up, and messages that cannot be run"),
    Metric("process.started_at", "gauge", (), "s", "since 1970, when this process started: it changes with a restart"),
    Metric("redeliveries", "counter", (), "tasks", "that were delivered again"),
    Metric("zombies", "gauge", (), "tasks", "that do not end after being cancelled", "zombies_killed"),
    Metric("items.done", "counter", ("task",), "items", "of fan-outs that returned"),
    Metric("items.skipped", "counter", ("task",), "items", "that asked to be skipped"),
    Metric("items.failed", "counter", ("task",), "items", "that failed for good"),
    Metric("items.retried", "counter", ("task",), "attempts", "that failed and are made again"),
    Metric("items.resumed", "counter", ("task",), "items", "found done by an earlier attempt of the run"),
    Metric("item.duration", "summary", ("task",), "s", "of one attempt, where metrics are sent"),
    Metric("checkpoint.flushes", "counter", (), "transactions", "with which checkpoints were written"),
    Metric("limit.held", "gauge", ("limit",), "permits", "held in this process", "pool.running_slots.<pool>"),
    Metric("limit.waiting", "gauge", ("limit",), "tasks, items", "that wait", "pool.starving_tasks.<pool>"),
    Metric("limit.acquired", "counter", ("limit",), "permits", "that were got"),
    Metric("limit.waits", "counter", ("limit",), "permits", "that had to be waited for"),
    Metric("limit.wait_seconds", "counter", ("limit",), "s", "waited, all together"),
    Metric("pool.size", "gauge", ("pool",), "connections", "at most"),
    Metric("pool.lent", "gauge", ("pool",), "connections", "in use"),
    Metric("pool.idle", "gauge", ("pool",), "connections", "open and free"),
    Metric("pool.waiting", "gauge", ("pool",), "users", "that wait for one"),
    Metric("pool.acquired", "counter", ("pool",), "connections", "asked for"),
    Metric("pool.wait_seconds", "counter", ("pool",), "s", "waited, all together"),
    Metric("pool.timeouts", "counter", ("pool",), "users", "that waited in vain"),
    Metric("pool.opened", "counter", ("pool",), "connections", "opened"),
    Metric("pool.closed", "counter", ("pool",), "connections", "closed"),
    Metric("pool.failed", "counter", ("pool",), "connections", "that could not be opened"),
    Metric("pool.dropped", "counter", ("pool",), "connections", "given up for a fault"),
    Metric("loop.lag", "gauge", (), "s", "for which the event loop has owed a sign of life"),
    Metric("loop.stalls", "counter", (), "stalls", "of the event loop longer than `ASYNCWORKER_BLOCKED_AFTER_S`"),
)


def full_names() -> dict[str, Metric]:
    """Return the metrics by the names that are sent, without the prefix."""
    names = {}
    for metric in METRICS:
        if metric.kind == "summary":
            names[f"{metric.name}.count"] = names[f"{metric.name}.seconds"] = metric
        else:
            names[metric.name] = metric
    return names
