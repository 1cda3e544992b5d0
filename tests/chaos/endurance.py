"""``python -m tests.chaos.endurance``: no-op tasks by the ten thousand, again and again, and no stall in between.

Each round loads the queue in one moment and waits until every result is there; or, in bursts, does so with a few tasks
at a time, so that the worker falls asleep and wakes up thousands of times. A stall is when messages are there and no
result comes for a while.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import redis
from rich.console import Console
from rich.table import Table

from asyncworker.cli.embedded import EmbeddedServer
from tests.chaos import light_tasks
from tests.servers.preload import Preload
from tests.servers.worker import Worker, running_worker

__all__ = ["Endurance", "Round", "Stall", "running_endurance"]

#: No result for so long, with messages in the queue, is a stall. A busy machine is slow, and not that slow.
STALL_S = 60.0
MOST_IN_A_BURST = 20


class Stall(AssertionError):
    """Messages are there, and nothing is done."""


@dataclass(frozen=True)
class Round:
    """What a round has shown."""

    tasks: int
    seconds: float
    longest_wait_s: float
    """The longest time without a result."""


class Endurance:
    """A worker, its Redis, and the rounds."""

    def __init__(self, server: EmbeddedServer, worker: Worker) -> None:
        self.worker = worker
        self._queue = redis.Redis.from_url(server.redis_url)
        self._results = redis.Redis.from_url(server.result_url.replace("redis+socket:", "unix:"))
        self._load = Preload(server.broker_url, self._queue, light_tasks.nothing.name)

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()
        self._results.close()

    def preloaded(self, tasks: int) -> Round:
        """Load so many tasks at once, and wait for their results."""
        self._results.flushdb()
        self._load.put(tasks)
        return self._wait_for(tasks, 0.05)

    def bursts(self, tasks: int, seed: int) -> Round:
        """Load a few tasks whenever those before are done, until there were so many."""
        dice = random.Random(seed)
        started_at_s = time.monotonic()
        left, longest_wait_s = tasks, 0.0
        while left:
            size = min(left, dice.randint(1, MOST_IN_A_BURST))
            self._results.flushdb()
            self._load.put(size)
            longest_wait_s = max(longest_wait_s, self._wait_for(size, 0.001).longest_wait_s)
            left -= size
        return Round(tasks, time.monotonic() - started_at_s, longest_wait_s)

    def _wait_for(self, tasks: int, poll_s: float) -> Round:
        started_at_s = moved_at_s = time.monotonic()
        done, longest_wait_s = 0, 0.0
        while done < tasks:
            time.sleep(poll_s)
            now, was = int(self._results.dbsize()), done
            done = max(was, now)
            longest_wait_s = max(longest_wait_s, time.monotonic() - moved_at_s)
            if done != was:
                moved_at_s = time.monotonic()
            elif time.monotonic() - moved_at_s > STALL_S or self.worker.returncode is not None:
                raise Stall(self._told(tasks, done))
        return Round(tasks, time.monotonic() - started_at_s, longest_wait_s)

    def _told(self, tasks: int, done: int) -> str:
        queued, taken = self._queue.llen("celery"), self._queue.hlen("unacked")
        return (
            f"{done} of {tasks} done, and nothing for {STALL_S:g} s; {queued} queued, {taken} taken and not "
            f"acknowledged; the worker's log:\n{self.worker.log()[-4000:]}"
        )


@contextlib.contextmanager
def running_endurance(folder: Path, *, fast: bool = False) -> Iterator[Endurance]:
    """Run a server and a worker until the block ends."""
    with EmbeddedServer(folder / "valkey") as server:
        env = {
            "ASYNCWORKER_BROKER_URL": server.broker_url,
            "ASYNCWORKER_RESULT_URL": server.result_url,
            "ASYNCWORKER_STATE_DIR": str(folder),
            "ASYNCWORKER_INCLUDE": light_tasks.__name__,
            "ASYNCWORKER_FAST_BROKER": "1" if fast else "0",
        }
        with running_worker(folder, "--without-mingle", env=env) as worker:
            endurance = Endurance(server, worker)
            try:
                yield endurance
            finally:
                endurance.close()


@click.command()
@click.option("--tasks", type=click.IntRange(min=1), default=50_000, show_default=True, help="In each round.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--bursts", is_flag=True, help="A few tasks at a time.")
@click.option("--fast", is_flag=True, help="With ASYNCWORKER_FAST_BROKER=1.")
@click.option("--minutes", type=float, help="Begin no round after so long.")
def main(tasks: int, rounds: int, bursts: bool, fast: bool, minutes: float | None) -> None:
    """Run the rounds, and print them. Exits with 1 on a stall."""
    console = Console()
    table = Table("round", "tasks", "seconds", "tasks/s", "longest wait s")
    began_at_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="endurance-") as folder,
        running_endurance(Path(folder), fast=fast) as endurance,
    ):
        try:
            for number in range(1, rounds + 1):
                if minutes is not None and time.monotonic() - began_at_s > minutes * 60:
                    break
                seen = endurance.bursts(tasks, number) if bursts else endurance.preloaded(tasks)
                rate = f"{seen.tasks / seen.seconds:,.0f}"
                row = (f"{number}", f"{seen.tasks:,}", f"{seen.seconds:.1f}", rate, f"{seen.longest_wait_s:.2f}")
                table.add_row(*row)
                print(" ".join(row), file=sys.stderr, flush=True)
        except Stall as exc:
            console.print(f"a stall: {exc}", markup=False, style="red")
            sys.exit(1)
        finally:
            console.print(table)


if __name__ == "__main__":
    main()
