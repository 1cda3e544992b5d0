"""The daemon thread pool: calls are run once, by few threads, and a stuck one does not keep the process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from asyncworker.loop.threads import DaemonExecutor


def test_calls_are_run_and_threads_reused() -> None:
    pool = DaemonExecutor(4, "test")
    try:
        assert list(pool.map(lambda n: n * 2, range(100))) == [n * 2 for n in range(100)]
        names = {pool.submit(lambda: threading.current_thread().name).result(120) for _ in range(20)}
        assert names <= {f"test_{n}" for n in range(4)}
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0).result(120)
    finally:
        pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(print)


def test_as_many_run_at_once_as_there_are_threads() -> None:
    pool = DaemonExecutor(3, "test")
    together = threading.Barrier(3, timeout=120)
    try:
        futures = [pool.submit(together.wait) for _ in range(3)]
        assert sorted(future.result(120) for future in futures) == [0, 1, 2]
    finally:
        pool.shutdown()


async def test_a_call_that_raises_stop_iteration_ends_for_who_awaits_it() -> None:
    pool = DaemonExecutor(1, "test")
    try:
        awaiting = asyncio.get_running_loop().run_in_executor(pool, next, iter(()))
        with pytest.raises(RuntimeError, match="StopIteration") as raised:
            await asyncio.wait_for(awaiting, 120)
        assert isinstance(raised.value.__cause__, StopIteration)
    finally:
        pool.shutdown()


def test_queued_calls_can_be_cancelled() -> None:
    pool = DaemonExecutor(1, "test")
    leave = threading.Event()
    running = pool.submit(leave.wait, 120)
    queued = pool.submit(print)
    while not running.running():
        time.sleep(0)
    pool.shutdown(wait=False, cancel_futures=True)
    leave.set()
    assert queued.cancelled()
    assert running.result(120)


def test_a_stuck_call_does_not_keep_the_process() -> None:
    code = (
        "import time; from asyncworker.loop.threads import DaemonExecutor; "
        "DaemonExecutor(1, 'stuck').submit(time.sleep, 600); print('leaving')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert ended.stdout.strip() == "leaving"
    assert ended.returncode == 0
