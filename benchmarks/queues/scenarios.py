"""What the benchmark of task queues measures: who takes part, what a turn is, and the figures that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.queues import turns
from benchmarks.queues.competitors import CALLED, CELERY_POOLS, RABBITMQ, REDIS, SENDERS, SLEEPERS, Competitor
from benchmarks.queues.turns import Servers

__all__ = ["Figure", "Scenario", "scenarios"]

_CALLS_PER_S = 50.0
#: All are due within a moment, and most while the worker has them.
_COUNTDOWN_S = 3.0


@dataclass(frozen=True)
class Figure:
    """One number that a turn gives, as in :class:`~benchmarks.report.Measured`."""

    metric: str
    unit: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured.

    Attributes:
        title: For the table; ``--scenario`` takes any part of it.
        amount: Tasks a turn.
        competitors: Who takes part.
        turn: Does a turn of that many tasks; returns a value for each of the figures.
        figures: The first is what is compared.
        quick: It is measured with ``--quick``, too.
    """

    title: str
    amount: int
    competitors: tuple[Competitor, ...]
    turn: Callable[[Competitor, Servers, int], tuple[float, ...]]
    figures: tuple[Figure, ...]
    quick: bool = False

    @property
    def drains(self) -> bool:
        """Whether a queue is drained in it."""
        return self.figures[0].metric.startswith("tasks_per_s")

    @property
    def rabbitmq(self) -> bool:
        """Whether its broker is RabbitMQ."""
        return any(each.rabbitmq for each in self.competitors)


def _drained(suffix: str = "") -> tuple[Figure, ...]:
    return (
        Figure(f"tasks_per_s{suffix}", "tasks/s"),
        Figure(f"tasks_per_cpu_s{suffix}", "tasks/CPU s"),
        Figure(f"peak_mb{suffix}", "MB", True),
    )


def _outcomes(tasks: int) -> list[Scenario]:
    """Return the same tasks with each outcome; the first is what the others' memory is compared with."""
    ways: list[tuple[str, str, str, tuple[float, ...]]] = [
        ("succeeding", "_succeeding", "noop", ()),
        ("failing", "_failing", "fail", ()),
        ("retried once", "_retried", "retry", ()),
        ("in chords of ten", "_chords", "chord", ()),
        (f"with a countdown of {_COUNTDOWN_S:g} s", "_etas", "later", (_COUNTDOWN_S,)),
    ]
    return [
        Scenario(title, tasks, CELERY_POOLS, partial(turns.drain, task=task, more=more), _drained(suffix))
        for title, suffix, task, more in ways
    ]


def scenarios(tasks: int, sleepers: int, nap_s: float, calls: int) -> list[Scenario]:
    """Return all, with so many tasks to drain or to send, to sleep for so long, and to call."""
    sleep = partial(turns.sleep, seconds=nap_s)
    call = partial(turns.call, per_s=_CALLS_PER_S)
    return [
        Scenario("results kept", tasks, REDIS, turns.drain, _drained(), True),
        Scenario("no results", tasks, REDIS, partial(turns.drain, results=False), _drained("_no_results"), True),
        Scenario(
            "results kept, 2 processes", tasks, REDIS, partial(turns.drain, processes=2), _drained("_2_processes")
        ),
        *_outcomes(tasks),
        Scenario("results kept, RabbitMQ", tasks, RABBITMQ, turns.drain, _drained("_rabbitmq")),
        Scenario(
            f"asleep for {nap_s:g} s",
            sleepers,
            SLEEPERS,
            sleep,
            (
                Figure("sleepers_s", "s", True),
                Figure("sleepers_in_flight", "tasks at once"),
                Figure("sleepers_mb", "MB", True),
                Figure("sleepers_cpu_us", "CPU us a task", True),
            ),
            True,
        ),
        Scenario(
            "delay to result",
            calls,
            CALLED,
            call,
            (Figure("latency_p50_ms", "ms, p50", True), Figure("latency_p99_ms", "ms, p99", True)),
            True,
        ),
        Scenario(
            "sent by one client",
            tasks,
            SENDERS,
            turns.send,
            (Figure("sent_per_s", "tasks/s"), Figure("sent_per_cpu_s", "tasks/CPU s")),
            True,
        ),
    ]
