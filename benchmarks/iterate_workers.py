"""Real workers on a private Valkey: one fan-out of ours, and a message an item with ours and with others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.environment import celery_command, client_variables, use_variables
from asyncworker.cli.processes import Child

__all__ = ["FAN_OUT", "NOT_INSTALLED", "running_workers"]

ROOT = Path(__file__).parents[1]
FAN_OUT = "asyncworker, one fan-out through a worker"
NOT_INSTALLED = "not installed: pip install -e '.[bench]'"

Run = Callable[[int], None]

_START_S = 60.0
_RUN_S = 600.0
_POLL_S = 0.005
_TASKIQ_DB, _ARQ_DB = 2, 3

#: Which module each of the others needs.
_MISSING = {name: NOT_INSTALLED for name in ("taskiq_redis", "arq") if find_spec(name) is None}


@contextlib.contextmanager
def running_workers(folder: Path) -> Iterator[dict[str, Run | str]]:
    """Start a broker and the workers; give what runs so many items on each, or why that cannot be."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "broker", share=False))
        use_variables(client_variables(server, folder / "state") | {"ASYNCWORKER_INCLUDE": "benchmarks.iterate_tasks"})
        os.environ.update(
            BENCHMARK_BROKER_URL=server.broker_url,
            BENCHMARK_RESULT_URL=server.result_url,
            BENCHMARK_TASKIQ_URL=server.redis_url.replace("db=0", f"db={_TASKIQ_DB}"),
            BENCHMARK_SOCKET=str(server.socket_path),
            BENCHMARK_ARQ_DB=str(_ARQ_DB),
            PYTHONPATH=str(ROOT),
        )

        def start(name: str, command: list[str]) -> Child:
            return stack.enter_context(Child(command, log=folder / f"{name}.log", env=dict(os.environ), cwd=ROOT))

        stock = [sys.executable, "-m", "celery", "-A", "benchmarks.iterate_celery_tasks", "worker", "-Q", "stock"]
        workers = {
            "iterate_tasks": start("ours", celery_command(sys.executable, name="ours@%h", loglevel="WARNING")),
            "iterate_celery_tasks": start("stock", [*stock, "-c", "2", "-n", "stock@%h", "-l", "WARNING"]),
        }
        modules = {name: importlib.import_module(f"benchmarks.{name}") for name in workers}
        for name, child in workers.items():
            _wait_until_it_works(modules[name].app, child)
        ours, stocks = modules["iterate_tasks"].item, modules["iterate_celery_tasks"].item
        runs: dict[str, Run | str] = {
            FAN_OUT: lambda count: _fan_out(ours, count),
            "asyncworker, a message an item (.expand)": lambda count: _wait(ours.expand(number=range(count))),
            "Celery group, prefork x 2, a message an item": lambda count: _group(stocks, count),
            "taskiq, a message an item": _MISSING.get("taskiq_redis", ""),
            "arq, a message an item": _MISSING.get("arq", ""),
        }
        if "taskiq_redis" not in _MISSING:
            start("taskiq", [_script("taskiq"), "worker", "benchmarks.iterate_taskiq_tasks:broker", "--workers", "1"])
            runs["taskiq, a message an item"] = lambda count: _taskiq(server, count)
        if "arq" not in _MISSING:
            start("arq", [_script("arq"), "benchmarks.iterate_arq_tasks.WorkerSettings"])
            runs["arq, a message an item"] = lambda count: asyncio.run(_arq(count))
        for run in runs.values():
            if not isinstance(run, str):
                run(10)
        yield runs


def _script(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


def _wait_until_it_works(app: Any, child: Child) -> None:
    for _ in range(int(_START_S)):
        if app.control.ping(timeout=1.0):
            return
        if child.returncode is not None:
            break
    raise RuntimeError(f"a worker did not start:\n{child.log_tail(20)}")


def _fan_out(task: Any, count: int) -> None:
    result = task.partial().options(concurrency=100).iterate(number=range(count)).delay()
    done = result.get(timeout=_RUN_S)["done"]
    if done != count:
        raise SystemExit(f"{FAN_OUT}: {done} of {count} items were done")
    del result
    gc.collect()  # it unsubscribes when it is collected, for which the broker must still be there


def _group(task: Any, count: int) -> None:
    from celery import group

    _wait(group(task.s(number) for number in range(count)))


def _wait(group: Any) -> None:
    count = len(group.tasks)
    result = group.delay()
    if result.get(timeout=_RUN_S) != list(range(count)):
        raise SystemExit("a group gave other results than it should")
    result.forget()
    del result
    gc.collect()


def _taskiq(server: EmbeddedServer, count: int) -> None:
    tasks = importlib.import_module("benchmarks.iterate_taskiq_tasks")
    with redis.Redis.from_url(os.environ["BENCHMARK_TASKIQ_URL"]) as client:
        client.flushdb()
        asyncio.run(_send_taskiq(tasks, count))
        # A key each: its result.
        _until(lambda: client.dbsize() >= count)


async def _send_taskiq(tasks: Any, count: int) -> None:
    await tasks.broker.startup()
    for start in range(0, count, 100):
        await asyncio.gather(*(tasks.item.kiq(number) for number in range(start, min(count, start + 100))))
    await tasks.broker.shutdown()


async def _arq(count: int) -> None:
    tasks = importlib.import_module("benchmarks.iterate_arq_tasks")
    arq = importlib.import_module("arq")
    pool = await arq.create_pool(tasks.SETTINGS)
    try:
        await pool.flushdb()
        for start in range(0, count, 100):
            await asyncio.gather(
                *(pool.enqueue_job("item", number) for number in range(start, min(count, start + 100)))
            )
        deadline = time.monotonic() + _RUN_S
        while len(await pool.keys("arq:result:*")) < count:
            if time.monotonic() > deadline:
                raise SystemExit("arq: not all items were done")
            await asyncio.sleep(0.02)
    finally:
        await pool.aclose()


def _until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _RUN_S
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("not all items were done")
        time.sleep(_POLL_S)
