"""One turn of one competitor: fill a queue, start its workers, and time how they drain it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.processes import Child
from benchmarks.queues.competitors import Competitor, environment
from benchmarks.queues.counting import read_counts

__all__ = ["CouldNot", "Drained", "drain"]

ROOT = Path(__file__).parents[2]

_POLL_S = 0.004
#: A peer that does a few tasks twice still takes part, and it is told.
REPEATED = 1.01
_FILL_S = 300.0
_RUN_S = 120.0


class CouldNot(Exception):
    """A competitor did not do what it was given."""


@dataclass(frozen=True)
class Drained:
    """What one turn gave.

    Attributes:
        tasks_per_s: From the first task that ran to the last one whose result was stored.
        tasks_per_cpu_s: The same by the processor time of its processes: what a busy machine does not change.
        took_s: The time itself.
        most_in_flight: Of sleeping tasks.
        most_rss_bytes: Of all its processes together.
    """

    tasks_per_s: float
    tasks_per_cpu_s: float
    took_s: float
    most_in_flight: int
    most_rss_bytes: int


def drain(
    competitor: Competitor,
    server: EmbeddedServer,
    amount: int,
    *,
    task: str = "noop",
    more: tuple[float, ...] = (),
    work: tuple[str, ...] = (),
    results: bool = True,
    processes: int = 1,
) -> Drained:
    """Have a competitor do ``amount`` tasks that wait in its queue.

    Raises:
        CouldNot: Not each was done, and once.
    """
    given = {
        "BENCHMARK_REDIS_URL": server.redis_url,
        "BENCHMARK_BROKER_URL": server.broker_url,
        "BENCHMARK_RESULT_URL": server.result_url,
        "BENCHMARK_RESULTS": "1" if results else "0",
        "PYTHONPATH": str(ROOT),
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncworker-tasks-")))
        env = environment(given | {"BENCHMARK_COUNTS": str(folder), "ASYNCWORKER_STATE_DIR": str(folder)}, competitor)
        broker = stack.enter_context(redis.Redis.from_url(server.redis_url))
        stored = stack.enter_context(redis.Redis.from_url(server.redis_url.replace("db=0", "db=1")))
        broker.flushall()
        fill = [competitor.python, "-m", competitor.module, "fill", task, str(amount), *map(str, more)]
        filled = subprocess.run(fill, cwd=ROOT, env=env, timeout=_FILL_S, capture_output=True, text=True, check=False)
        if filled.returncode:
            raise CouldNot(f"{competitor.name}: its queue could not be filled:\n{filled.stderr[-2000:]}")
        for path in folder.glob("*.count"):
            path.unlink()
        command = [competitor.python, *(work or competitor.work)]
        workers = []
        for number in range(processes):
            own = [*command, "-n", f"w{number}@%h"] if "celery" in command else command
            workers.append(stack.enter_context(Child(own, log=folder / f"{number}.log", env=env, cwd=ROOT)))

        def all_stored() -> bool:
            return not results or competitor.stored(broker, stored, amount)

        took = _watch(competitor, folder, workers, amount, all_stored)
        for worker in workers:
            worker.stop(3)
        return took


def _watch(
    competitor: Competitor, folder: Path, workers: list[Child], amount: int, all_stored: Callable[[], bool]
) -> Drained:
    give_up_at_s = time.monotonic() + _RUN_S
    began_s = began_cpu_s = 0.0
    before = most_rss = done = total = most = 0
    while done < amount or not all_stored():
        done, total, most = read_counts(folder)
        if done and not began_s:
            before, began_s, began_cpu_s = done, time.perf_counter(), _used(workers)[0]
        if time.monotonic() > give_up_at_s or any(worker.returncode is not None for worker in workers):
            tail = "\n".join(worker.log_tail(15) for worker in workers)
            raise CouldNot(f"{competitor.name} did {done} of {amount} tasks; its log ends with:\n{tail}")
        if most:
            most_rss = max(most_rss, _used(workers)[1])
        time.sleep(_POLL_S)
    took_s = time.perf_counter() - began_s
    cpu_s = _used(workers)[0] - began_cpu_s
    done, total, most = read_counts(folder)
    if (done, total) != (amount, amount * (amount - 1) // 2):
        if competitor.ours or not amount < done < amount * REPEATED:
            raise CouldNot(f"{competitor.name} did {done} tasks of {amount}: some were lost or done twice")
        print(f"{competitor.name} did {done - amount} of {amount} tasks twice")
    return Drained((amount - before) / took_s, (amount - before) / cpu_s, took_s, most, most_rss)


def _used(workers: list[Child]) -> tuple[float, int]:
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
