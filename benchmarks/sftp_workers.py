"""Real Celery workers that fetch over SFTP: a message a file with either worker, and one fan-out with ours."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.environment import celery_command, client_variables, use_variables
from asyncworker.cli.processes import Child
from benchmarks.sftp_clients import Job
from tests.servers.sshd import Sshd

__all__ = ["Workers", "running_workers"]

ROOT = Path(__file__).parents[1]

#: Files at once: processes of the stock worker (4 was the best of 2, 4 and 8 on two cores), items of the fan-out.
PROCESSES = 4
CONCURRENCY = 256

_START_S = 60.0
_RUN_S = 600.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Workers:
    """Two workers that run, and what can be asked of them."""

    stock: Any
    ours: Any

    def fetch_by_stock_messages(self, job: Job) -> None:
        """Stock Celery, a message a file."""
        _send_and_wait(self.stock, job)

    def fetch_by_messages(self, job: Job) -> None:
        """Our worker, a message a file."""
        _send_and_wait(self.ours, job)

    def fetch_by_iterate(self, job: Job) -> None:
        """Our worker, one fan-out with its checkpoint."""
        partial = self.ours.partial(remote=str(job.remote), local=str(job.local))
        result = partial.options(concurrency=CONCURRENCY).iterate(name=list(job.names)).delay()
        result.get(timeout=_RUN_S)
        del result
        gc.collect()  # it unsubscribes when it is collected, for which the broker must still be there


@contextlib.contextmanager
def running_workers(folder: Path, server: Sshd, warm_up: Job) -> Iterator[Workers]:
    """Start a broker and both workers; end them at the end.

    Args:
        folder: For their files.
        server: From where they fetch.
        warm_up: A few files, so that their connections stand before anything is measured.
    """
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedServer(folder / "broker", share=False))
        login = {
            "host": server.host,
            "port": server.port,
            "username": server.username,
            "client_keys": str(server.client_key),
            "known_hosts": str(server.known_hosts),
        }
        use_variables(client_variables(broker, folder / "state") | {"ASYNCWORKER_INCLUDE": "benchmarks.sftp_tasks"})
        os.environ.update(
            BENCHMARK_SFTP_SERVER=json.dumps(login),
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
        tasks = [importlib.import_module(f"benchmarks.{name}").fetch for name in ("sftp_stock_tasks", "sftp_tasks")]
        for task, child in zip(tasks, children, strict=True):
            _wait_until_it_works(task.app, child)
        workers = Workers(*tasks)
        for fetch in (workers.fetch_by_stock_messages, workers.fetch_by_messages, workers.fetch_by_iterate):
            fetch(warm_up)
        yield workers


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

    group(task.s(str(job.remote), str(job.local), name).set(ignore_result=True) for name in job.names)()
    wanted = sum((job.remote / name).stat().st_size for name in job.names)
    deadline = time.monotonic() + _RUN_S
    while not _all_there(job, wanted):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{task.name}: not all files arrived within {_RUN_S:g} s")
        time.sleep(_POLL_S)


def _all_there(job: Job, wanted_bytes: int) -> bool:
    paths = list(job.local.iterdir())
    if sum(not path.name.startswith(".") for path in paths) < len(job.names):
        return False
    # paramiko writes under the final name: the last file may be there and not be whole.
    return sum(path.stat().st_size for path in paths if path.exists()) == wanted_bytes
