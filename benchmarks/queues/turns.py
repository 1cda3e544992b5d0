"""One turn of one competitor: an empty broker, its client and its workers as processes, and what they made of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.processes import Child
from benchmarks.queues.competitors import Competitor
from benchmarks.queues.counting import Counts, forget_counts, read_counts
from tests.servers.rabbitmq import RabbitMQ

__all__ = ["CouldNot", "Servers", "call", "drain", "send", "sleep"]

ROOT = Path(__file__).parents[2]

_POLL_S = 0.004
_MEMORY_POLL_S = 0.2
_CLIENT_S = 300.0
_RUN_S = 120.0
#: A peer that does a few tasks twice still takes part, and it is told.
_REPEATED = 1.01


class CouldNot(Exception):
    """A competitor did not do what it was given."""


@dataclass(frozen=True)
class Servers:
    """What all competitors share."""

    valkey: EmbeddedServer
    rabbitmq: RabbitMQ | None = None

    def empty(self, competitor: Competitor) -> dict[str, str]:
        """Empty them; returns what the competitor's processes are told of them."""
        with redis.Redis.from_url(self.valkey.redis_url) as client:
            client.flushall()
        broker_url = self.valkey.broker_url
        if competitor.rabbitmq:
            assert self.rabbitmq is not None
            broker_url = self.rabbitmq.broker_url(self.rabbitmq.add_vhost())
        return {
            "BENCHMARK_REDIS_URL": self.valkey.redis_url,
            "BENCHMARK_BROKER_URL": broker_url,
            "BENCHMARK_RESULT_URL": self.valkey.result_url,
        }


class _Turn:
    """A competitor's processes; what the client and the workers are told is the same."""

    def __init__(self, competitor: Competitor, servers: Servers, folder: Path, results: bool) -> None:
        self.competitor = competitor
        self._servers = servers
        self._folder = folder
        self._env = {
            **os.environ,
            **servers.empty(competitor),
            "BENCHMARK_RESULTS": "1" if results else "0",
            "BENCHMARK_COUNTS": str(folder),
            "ASYNCWORKER_STATE_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            **dict(competitor.env),
        }
        self._results = results

    def client(self, *arguments: str) -> dict[str, Any]:
        """Run the competitor's client to its end."""
        command = [self.competitor.python, "-m", self.competitor.module, *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=self._env, timeout=_CLIENT_S, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            raise CouldNot(f"{self.competitor.name}: its client did not end in {_CLIENT_S:g} s") from None
        if done.returncode:
            raise CouldNot(f"{self.competitor.name}: its client failed:\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def workers(self, processes: int = 1) -> Iterator[list[Child]]:
        """Run its workers."""
        command = [self.competitor.python, *self.competitor.work]
        with contextlib.ExitStack() as stack:
            workers = []
            for number in range(processes):
                own = [*command, "-n", f"w{number}@%h"] if "celery" in command else command
                log = self._folder / f"{number}.log"
                workers.append(stack.enter_context(Child(own, log=log, env=self._env, cwd=ROOT)))
            yield workers
            for worker in workers:
                worker.stop(3)

    def fill(self, task: str, amount: int, *more: float) -> None:
        """Fill its queue."""
        self.client("fill", task, str(amount), *map(str, more))
        forget_counts(self._folder)

    def counts(self) -> Counts:
        """What its tasks have counted so far."""
        return read_counts(self._folder)

    @contextlib.contextmanager
    def storage(self) -> Iterator[Callable[[int], bool]]:
        """Give what tells whether all results of so many tasks are stored."""
        url = self._servers.valkey.redis_url
        with redis.Redis.from_url(url) as broker, redis.Redis.from_url(url.replace("db=0", "db=1")) as results:
            yield lambda amount: not self._results or self.competitor.stored(broker, results, amount)


@contextlib.contextmanager
def _turn(competitor: Competitor, servers: Servers, results: bool = True) -> Iterator[_Turn]:
    with tempfile.TemporaryDirectory(prefix="asyncworker-tasks-") as folder:
        yield _Turn(competitor, servers, Path(folder), results)


def drain(
    competitor: Competitor,
    servers: Servers,
    amount: int,
    *,
    task: str = "noop",
    more: tuple[float, ...] = (),
    results: bool = True,
    processes: int = 1,
) -> tuple[float, ...]:
    """Drain a queue that was filled before.

    Returns tasks a second, tasks a second of the workers' processor time, and the most megabytes that the workers and
    their children had. The time is that from the first task that ran to the last one whose result was stored.

    Raises:
        CouldNot: Not each task was done, and once.
    """
    with _turn(competitor, servers, results) as turn:
        turn.fill(task, amount, *more)
        with turn.workers(processes) as workers, turn.storage() as stored:
            watched = _watch(turn, workers, amount, stored)
    done = amount - watched.before
    return done / watched.took_s, done / watched.cpu_s, watched.most_rss_bytes / 1e6


def sleep(competitor: Competitor, servers: Servers, amount: int, *, seconds: float) -> tuple[float, ...]:
    """Let many tasks sleep; returns seconds for all, the most at once, megabytes, processor microseconds a task.

    Raises:
        CouldNot: As :func:`drain`.
    """
    with _turn(competitor, servers) as turn:
        turn.fill("nap", amount, seconds)
        with turn.workers() as workers, turn.storage() as stored:
            watched = _watch(turn, workers, amount, stored)
    return watched.took_s, watched.counts.most, watched.most_rss_bytes / 1e6, watched.cpu_s / amount * 1e6


def call(competitor: Competitor, servers: Servers, amount: int, *, per_s: float) -> tuple[float, ...]:
    """Call at a steady pace; returns the median, and the 99th percentile, of milliseconds to the result.

    Raises:
        CouldNot: A call failed.
    """
    with _turn(competitor, servers) as turn, turn.workers() as workers:
        try:
            took_s = sorted(turn.client("call", str(amount), str(per_s))["took_s"])
        except CouldNot as exc:
            raise CouldNot(f"{exc}\n{_log_tail(workers)}") from None
    return tuple(took_s[round(share * (len(took_s) - 1))] * 1e3 for share in (0.5, 0.99))


def send(competitor: Competitor, servers: Servers, amount: int) -> tuple[float, ...]:
    """Send from one process; returns tasks a second, and a second of its processor time.

    Raises:
        CouldNot: The client failed, or a worker did not find each task in the queue.
    """
    with _turn(competitor, servers) as turn:
        answer = turn.client("send", str(amount))
        with redis.Redis.from_url(servers.valkey.redis_url) as broker:
            queued = broker.execute_command(*competitor.queued)
    if queued != amount:
        raise CouldNot(f"{competitor.name}: of {amount} tasks {queued} are in its queue")
    return answer["sent_per_s"], answer["sent_per_cpu_s"]


@dataclass(frozen=True)
class _Watched:
    """How the tasks went; ``before`` of them had ended when the time began."""

    before: int
    took_s: float
    cpu_s: float
    most_rss_bytes: int
    counts: Counts


def _watch(turn: _Turn, workers: Sequence[Child], amount: int, stored: Callable[[int], bool]) -> _Watched:
    give_up_at_s = time.monotonic() + _RUN_S
    while not (counts := turn.counts()).began:
        _check(turn, workers, amount, give_up_at_s)
    before, began_s, (began_cpu_s, most_rss) = counts.ended, time.perf_counter(), _used(workers)
    looked_s = began_s
    while (counts := turn.counts()).ended < amount or not stored(amount):
        _check(turn, workers, amount, give_up_at_s)
        # Not each time: the benchmark is not to be what is measured.
        if time.perf_counter() > looked_s + _MEMORY_POLL_S:
            most_rss, looked_s = max(most_rss, _used(workers)[1]), time.perf_counter()
    took_s, (cpu_s, rss) = time.perf_counter() - began_s, _used(workers)
    counts = turn.counts()
    if (counts.ended, counts.sum) != (amount, amount * (amount - 1) // 2):
        if turn.competitor.ours or not amount < counts.ended < amount * _REPEATED:
            raise CouldNot(f"{turn.competitor.name} did {counts.ended} tasks of {amount}: some were lost or done twice")
        print(f"{turn.competitor.name} did {counts.ended - amount} of {amount} tasks twice")
    return _Watched(before, took_s, cpu_s - began_cpu_s, max(most_rss, rss), counts)


def _check(turn: _Turn, workers: Sequence[Child], amount: int, give_up_at_s: float) -> None:
    """Wait a moment; give up where it takes too long, or a worker has ended."""
    if time.monotonic() > give_up_at_s or any(worker.returncode is not None for worker in workers):
        counts = turn.counts()
        raise CouldNot(
            f"{turn.competitor.name} began {counts.began} and ended {counts.ended} of {amount} tasks; its log ends "
            f"with:\n{_log_tail(workers)}"
        )
    time.sleep(_POLL_S)


def _log_tail(workers: Sequence[Child]) -> str:
    return "\n".join(worker.log_tail(15) for worker in workers)


def _used(workers: Sequence[Child]) -> tuple[float, int]:
    """Return processor seconds and resident bytes of the workers and their children."""
    seconds, resident = 0.0, 0
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(worker.pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = each.cpu_times()
                    seconds += times.user + times.system
                    resident += each.memory_info().rss
    return seconds, resident
