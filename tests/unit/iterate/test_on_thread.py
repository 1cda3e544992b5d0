"""Items on threads: a slot is taken for as long as its thread is, whatever time limits say."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from asyncworker.errors import ItemTimeout, RunTimeout
from asyncworker.iterate import RunOutcome, execute_run, make_options, run_on_thread, source_of

LIMIT_S = 0.1


async def run(call: Any, count: int, **options: Any) -> RunOutcome:
    async def on_thread(row: dict[str, Any]) -> Any:
        return await run_on_thread(partial(call, **row))

    return await execute_run(on_thread, source_of({"n": range(count)}), make_options(backoff_s=0.0, **options))


@pytest.mark.promise("item-that-cannot-be-stopped-keeps-its-slot")
async def test_an_item_past_its_limit_keeps_its_slot_until_its_thread_returns(caplog: pytest.LogCaptureFixture) -> None:
    lock, running, most, runs = threading.Lock(), Counter[int](), 0, Counter[int]()

    def call(n: int) -> None:
        nonlocal most
        with lock:
            running[n] += 1
            runs[n] += 1
            most = max(most, running.total())
            assert running[n] == 1
        time.sleep(4 * LIMIT_S)
        with lock:
            running[n] -= 1

    outcome = await run(call, 4, concurrency=2, retries=1, item_timeout_s=LIMIT_S)

    assert most <= 2
    assert max(runs.values()) <= 2  # fewer where a thread was not there in time
    assert all(isinstance(exc, ItemTimeout) for exc in outcome.exceptions)
    assert outcome.progress.failed == 4
    assert "its slot stays taken until that returns" in caplog.text


async def test_a_call_that_has_not_begun_in_time_is_never_made() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    go_on, ran = threading.Event(), []

    def call(n: int) -> None:
        ran.append(n)
        go_on.wait(120)

    async def release() -> None:
        # Both limits have passed by then; if they have not, the second call is made, and its outcome the same.
        await asyncio.sleep(10 * LIMIT_S)
        go_on.set()

    releasing = asyncio.create_task(release())
    outcome = await run(call, 2, concurrency=2, item_timeout_s=LIMIT_S)
    await releasing

    assert outcome.progress.failed == 2
    assert ran == [0]


async def test_a_run_that_stops_does_not_wait_for_a_thread_and_names_what_still_runs_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()
    try:
        with pytest.raises(RunTimeout):
            await run(lambda n: go_on.wait(120), 1, item_timeout_s=LIMIT_S, total_timeout_s=10 * LIMIT_S)
        assert not go_on.is_set()
        assert "item 0 still runs on a thread, which cannot be stopped; its run stopped without it" in caplog.text
    finally:
        go_on.set()


async def test_values_errors_and_the_context_come_through() -> None:
    from asyncworker.iterate import current_item

    def call(n: int) -> int:
        if n == 1:
            raise ValueError(n)
        return current_item().index

    outcome = await run(call, 3)

    assert outcome.results == [(0, 0), (2, 2)]
    assert isinstance(outcome.exceptions[0], ValueError)
