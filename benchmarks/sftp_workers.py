"""Real Celery workers that fetch over SFTP: a message a file with either worker, and one fan-out with ours."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.environment import celery_command, client_variables, use_variables
from asyncworker.cli.processes import Child
from benchmarks.sftp_job import Job, Login, Spent

__all__ = ["Workers", "running_workers"]

ROOT = Path(__file__).parents[1]

#: Files at once: processes of the stock worker (4 was the best of 2, 4 and 8 on two cores), items of the fan-out.
PROCESSES = 4
CONCURRENCY = 1000

_START_S = 60.0
_RUN_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Workers:
    """Two workers that run, and what can be asked of them."""

    stock: Any
    ours: Any
    listed: Any
    list_files: Any
    stock_pid: int
    ours_pid: int

    def fetch_by_stock_messages(self, job: Job) -> Spent:
        """Stock Celery, a message a file."""
        with _measuring(self.stock_pid) as spent:
            _send_and_wait(self.stock, job)
        return spent[0]

    def fetch_by_messages(self, job: Job) -> Spent:
        """Our worker, a message a file."""
        with _measuring(self.ours_pid) as spent:
            _send_and_wait(self.ours, job)
        return spent[0]

    def fetch_by_iterate(self, job: Job) -> Spent:
        """Our worker, one fan-out with its checkpoint, over a listing that the worker reads."""
        partial = self.listed.partial(server=_server(job), remote=job.remote, local=job.local)
        partial = partial.options(concurrency=CONCURRENCY)
        with _measuring(self.ours_pid) as spent:
            result = partial.iterate(file=self.list_files.s(_server(job), job.remote)).delay()
            result.get(timeout=_RUN_S)
        del result
        gc.collect()  # it unsubscribes when it is collected, for which the broker must still be there
        return spent[0]


@contextlib.contextmanager
def running_workers(folder: Path, logins: Mapping[str, Login], warm_up: Sequence[Job]) -> Iterator[Workers]:
    """Start a broker and both workers; end them at the end.

    Args:
        folder: For their files.
        logins: The servers: ``near``, and ``far`` if there is one behind the link.
        warm_up: A few files of each server, so that connections stand before anything is measured.
    """
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedServer(folder / "broker", share=False))
        options = {
            name: {
                "host": login.host,
                "port": login.port,
                "username": login.username,
                "client_keys": login.client_key,
                "known_hosts": login.known_hosts,
            }
            for name, login in logins.items()
        }
        use_variables(client_variables(broker, folder / "state") | {"ASYNCWORKER_INCLUDE": "benchmarks.sftp_tasks"})
        os.environ.update(
            BENCHMARK_SFTP_LOGINS=json.dumps(options),
            BENCHMARK_BROKER_URL=broker.broker_url,
            BENCHMARK_RESULT_URL=broker.result_url,
            PYTHONPATH=str(ROOT),
        )
        ours = celery_command(sys.executable, name="ours@%h", loglevel="WARNING")
        stock = [sys.executable, "-m", "celery", "-A", "benchmarks.sftp_stock_tasks", "worker"]
        stock += ["-c", str(PROCESSES), "-n", "stock@%h", "--loglevel", "WARNING", "--without-mingle"]
        stock += ["-Q", "stock"]
        children = [
            stack.enter_context(Child(command, log=folder / f"{name}.log", env=dict(os.environ), cwd=ROOT))
            for name, command in (("stock", stock), ("ours", ours))
        ]
        # Only now: the default app reads the environment when it is made.
        modules = [importlib.import_module(f"benchmarks.{name}") for name in ("sftp_stock_tasks", "sftp_tasks")]
        for module, child in zip(modules, children, strict=True):
            _wait_until_it_works(module.fetch.app, child)
        workers = Workers(
            modules[0].fetch,
            modules[1].fetch,
            modules[1].fetch_listed,
            modules[1].list_files,
            children[0].pid,
            children[1].pid,
        )
        for job in warm_up:
            for fetch in (workers.fetch_by_stock_messages, workers.fetch_by_messages, workers.fetch_by_iterate):
                fetch(job)
        yield workers


def _server(job: Job) -> str:
    return "far" if job.distant else "near"


@contextlib.contextmanager
def _measuring(pid: int) -> Iterator[list[Spent]]:
    """Measure a worker, with its child processes, during the block; the result is there after it."""
    spent: list[Spent] = []
    began_at, cpu_before = time.perf_counter(), _usage(pid)[0]
    yield spent
    wall_s = time.perf_counter() - began_at
    cpu_s, memory_bytes = _usage(pid)
    spent.append(Spent(wall_s, cpu_s - cpu_before, memory_bytes))


def _usage(pid: int) -> tuple[float, float]:
    worker = psutil.Process(pid)
    cpu_s = memory_bytes = 0.0
    for process in (worker, *worker.children(recursive=True)):
        times = process.cpu_times()
        cpu_s += times.user + times.system
        memory_bytes = max(memory_bytes, float(process.memory_info().rss))
    return cpu_s, memory_bytes


def _wait_until_it_works(app: Any, child: Child) -> None:
    for _ in range(int(_START_S)):
        if app.control.ping(timeout=1.0):
            return
        if child.returncode is not None:
            break
    raise RuntimeError(f"a worker did not start:\n{child.log_tail(20)}")


def _send_and_wait(task: Any, job: Job) -> None:
    """Send a message a file, without results (they would make either worker slower), and wait for the files."""
    from celery import group

    wanted = {path.name: path.stat().st_size for path in Path(job.remote).iterdir()}  # the server is this machine
    group(task.s(_server(job), job.remote, job.local, name).set(ignore_result=True) for name in wanted)()
    deadline = time.monotonic() + _RUN_S
    while not _all_there(Path(job.local), len(wanted), sum(wanted.values())):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{task.name}: not all files arrived within {_RUN_S:g} s")
        time.sleep(_POLL_S)


def _all_there(local: Path, files: int, wanted_bytes: int) -> bool:
    paths = list(local.iterdir())
    if sum(not path.name.startswith(".") for path in paths) < files:
        return False
    # paramiko writes under the final name: the last file may be there and not be whole.
    return sum(path.stat().st_size for path in paths if path.exists()) == wanted_bytes
