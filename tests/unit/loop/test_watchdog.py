"""The watchdog names what blocks the loop, with its stack, once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from asyncworker.loop import LiveJob, LoopThread, Watchdog, current_job, live_jobs
from asyncworker.loop.debug import violations

#: Longer than a busy machine keeps a thread from running.
BLOCKED_AFTER_S = 2.0


@pytest.fixture
def watched() -> Iterator[tuple[LoopThread, Watchdog]]:
    thread = LoopThread(threads=1)
    thread.start()
    watchdog = Watchdog(thread, blocked_after_s=BLOCKED_AFTER_S)
    watchdog.start()
    yield thread, watchdog
    watchdog.stop()
    thread.stop()


def test_names_the_task_and_shows_its_stack(
    watched: tuple[LoopThread, Watchdog], caplog: pytest.LogCaptureFixture
) -> None:
    thread, watchdog = watched
    released = threading.Event()
    job = LiveJob("the-id", "the.task")

    async def hogs_the_loop() -> None:
        released.wait(120)

    async def runs_as_the_job() -> None:
        current_job.set(job)
        job.task = asyncio.current_task()
        await hogs_the_loop()

    live_jobs[1] = job
    try:
        running = asyncio.run_coroutine_threadsafe(runs_as_the_job(), thread.loop)
        until = time.monotonic() + 120
        while not watchdog.stalls and time.monotonic() < until:
            time.sleep(0.01)
        released.set()
        running.result(120)
    finally:
        del live_jobs[1]
    assert "by task the.task[the-id]" in caplog.text
    assert "in hogs_the_loop: released.wait(120)" in caplog.text
    assert watchdog.stalls == 1
    # What it waits for is another thread's: in debug mode that is a fault, and fails a test.
    assert "the event loop's thread waits for another one" in violations.pop()


def test_a_free_loop_is_left_alone(watched: tuple[LoopThread, Watchdog], caplog: pytest.LogCaptureFixture) -> None:
    thread, _ = watched
    thread.run(asyncio.sleep(2 * BLOCKED_AFTER_S))
    assert "blocked" not in caplog.text


async def test_a_waiting_job_shows_where_it_waits() -> None:
    job = LiveJob("the-id", "the.task")

    async def inner() -> None:
        await asyncio.sleep(30)

    async def outer() -> None:
        await inner()

    job.coroutine = outer()
    task = asyncio.create_task(job.coroutine)
    await asyncio.sleep(0)
    stack = job.stack()
    assert "in outer: await inner()" in stack[0]
    assert "in inner: await asyncio.sleep(30)" in stack[1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
