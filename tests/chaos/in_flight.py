"""``python -m tests.chaos.in_flight``: what ten thousand tasks in flight cost a process: memory, and connections."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import psutil
import redis
from rich.console import Console
from rich.table import Table

from tests.chaos import light_tasks
from tests.servers.client import client_app
from tests.servers.preload import Preload
from tests.servers.valkey import running_valkey
from tests.servers.worker import Worker, running_worker

__all__ = ["Cost", "measure"]

WAIT_S = 120.0


@dataclass(frozen=True)
class Cost:
    """What so many tasks in flight take."""

    tasks: int
    rss_mb: float
    """Resident memory of the worker while all of them wait."""
    connections: int
    """Of the worker to Redis, broker and results together: the most that were seen until the last result was there."""


def measure(folder: Path, tasks: int, env: Mapping[str, str] | None = None) -> Cost:
    """Start a server and a worker, have so many tasks in flight at once, measure, and let them end.

    Args:
        folder: For their files.
        tasks: How many.
        env: Settings of the worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with running_valkey(folder / "valkey") as server:
        urls: Any = SimpleNamespace(broker_url=server.url(0), result_url=server.url(1))
        variables = {
            "ASYNCWORKER_BROKER_URL": server.url(0),
            "ASYNCWORKER_RESULT_URL": server.url(1),
            "ASYNCWORKER_STATE_DIR": str(folder),
            "ASYNCWORKER_INCLUDE": light_tasks.__name__,
            **(env or {}),
        }
        arguments = ("-c", str(tasks + 1), "--without-mingle", "--without-gossip")
        with (
            running_worker(folder, *arguments, env=variables) as worker,
            client_app(urls) as app,
            server.connect() as queue,
            redis.Redis.from_url(server.url(1)) as results,
        ):
            Preload(server.url(0), queue, light_tasks.held.name).put(tasks)
            _wait(lambda: _in_flight(app) == tasks, "all of them in flight", worker)
            rss_mb = psutil.Process(worker.pid).memory_info().rss / 1e6
            most = _connections(queue, worker)
            app.tasks[light_tasks.release.name].apply_async(ignore_result=True)
            while results.dbsize() < tasks:
                most = max(most, _connections(queue, worker))
                assert worker.returncode is None, worker.log()
                time.sleep(0.02)
            # They stay open; a short end may have come and gone between two looks.
            most = max(most, _connections(queue, worker))
    return Cost(tasks, rss_mb, most)


@click.command()
@click.argument("counts", nargs=-1, type=click.IntRange(min=1))
def main(counts: tuple[int, ...]) -> None:
    """Measure with each of COUNTS tasks in flight; 100, 1,000 and 10,000 where none is given."""
    table = Table("tasks in flight", "resident MB", "connections to Redis")
    with tempfile.TemporaryDirectory(prefix="in-flight-") as folder:
        for count in counts or (100, 1_000, 10_000):
            cost = measure(Path(folder) / str(count), count)
            table.add_row(f"{cost.tasks:,}", f"{cost.rss_mb:,.0f}", f"{cost.connections}")
    Console().print(table)


def _in_flight(app: Any) -> int:
    answer = app.control.inspect(timeout=10, limit=1).stats() or {}
    return next((int(stats["pool"]["in-flight"]) for stats in answer.values()), -1)


def _connections(client: redis.Redis, worker: Worker) -> int:
    """Count those that the server knows and that are the worker's."""
    sockets = psutil.Process(worker.pid).net_connections(kind="tcp")
    ports = {each.laddr.port for each in sockets if each.raddr}
    listed: Any = client.client_list()
    return sum(int(each["addr"].rpartition(":")[2]) in ports for each in listed)


def _wait(reached: Callable[[], bool], what: str, worker: Worker) -> None:
    give_up_at_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < give_up_at_s, f"not {what}; the worker's log:\n{worker.log()[-4000:]}"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
