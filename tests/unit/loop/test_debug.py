"""In debug mode an object of the loop that is used off the loop's thread is a violation, and its use on it is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncworker.loop import LoopThread
from asyncworker.loop.debug import VIOLATION, violations


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread(threads=1)
    thread.start()
    yield thread
    thread.stop()


async def a_timer() -> Any:
    return asyncio.get_running_loop().call_later(60, print)


async def a_future() -> Any:
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: None)
    return future


async def a_task() -> Any:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    return task


def close(coroutine: Any) -> None:
    coroutine.close()


USES: dict[str, tuple[Callable[[], Any] | None, Callable[[Any, Any], Any]]] = {
    "a timer that is cancelled": (a_timer, lambda loop, timer: timer.cancel()),
    "a future that is set": (a_future, lambda loop, future: future.set_result(1)),
    "a future that is cancelled": (a_future, lambda loop, future: future.cancel()),
    "a task that is cancelled": (a_task, lambda loop, task: task.cancel()),
    "a timer that is set": (None, lambda loop, _: loop.call_later(60, print)),
    "a callback": (None, lambda loop, _: loop.call_soon(lambda: None)),
    "a future that is made": (None, lambda loop, _: loop.create_future()),
}


@pytest.mark.parametrize("what", USES)
def test_used_off_the_loops_thread(loop_thread: LoopThread, caplog: pytest.LogCaptureFixture, what: str) -> None:
    make, use = USES[what]
    made = loop_thread.run(make()) if make is not None else None
    use(loop_thread.loop, made)
    assert violations
    assert VIOLATION in caplog.text
    assert "test_used_off_the_loops_thread" in caplog.text
    violations.clear()


@pytest.mark.parametrize("what", USES)
def test_used_on_it(loop_thread: LoopThread, what: str) -> None:
    make, use = USES[what]

    async def main() -> None:
        use(loop_thread.loop, await make() if make is not None else None)
        async with asyncio.timeout(120):
            await asyncio.sleep(0)

    loop_thread.run(main())
    assert not violations
