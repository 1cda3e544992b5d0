"""The loop thread: runs coroutines for other threads, and ends whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator

import pytest

from asyncworker.errors import LoopError
from asyncworker.loop import LoopThread


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread(threads=2)
    thread.start()
    yield thread
    assert thread.stop(timeout_s=60)


def test_runs_a_coroutine_and_passes_its_outcome(loop_thread: LoopThread) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fails() -> None:
        raise KeyError("mine")

    assert loop_thread.run(where()) == "asyncworker-loop"
    with pytest.raises(KeyError, match="mine"):
        loop_thread.run(fails())


def test_waiting_for_itself_is_refused(loop_thread: LoopThread) -> None:
    async def waits_for_itself() -> None:
        loop_thread.run(asyncio.sleep(0))

    with pytest.raises(LoopError, match="await its async twin"):
        loop_thread.run(waits_for_itself())


def test_a_timeout_cancels(loop_thread: LoopThread) -> None:
    cancelled = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop_thread.run(waits(), timeout_s=0.01)
    assert cancelled.wait(120)


def test_system_exit_in_a_child_task_does_not_end_the_loop(
    loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def leaves() -> None:
        raise SystemExit(3)

    async def starts_one() -> None:
        asyncio.get_running_loop().create_task(leaves())

    loop_thread.run(starts_one())
    loop_thread.run(asyncio.sleep(0.01))
    assert loop_thread.alive
    assert "tried to end the event loop" in caplog.text


def test_closers_run_in_reverse_and_one_that_fails_stops_no_other() -> None:
    thread = LoopThread(threads=1)
    thread.start()
    closed: list[str] = []

    def closer(name: str, fails: bool = False):  # type: ignore[no-untyped-def]
        async def close() -> None:
            closed.append(name)
            if fails:
                raise OSError(name)

        return close

    for name, fails in (("first", False), ("second", True), ("third", False)):
        thread.on_stop(closer(name, fails))
    assert thread.stop()
    assert closed == ["third", "second", "first"]
    with pytest.raises(LoopError, match="was stopped"):
        thread.run(asyncio.sleep(0))


def test_stop_cancels_what_still_runs() -> None:
    thread = LoopThread(threads=1)
    thread.start()
    ended = threading.Event()

    async def runs() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    asyncio.run_coroutine_threadsafe(runs(), thread.loop)
    thread.run(asyncio.sleep(0))
    assert thread.stop()
    assert ended.is_set()


def test_what_is_cut_off_when_it_stops_is_told_in_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread(threads=1)
    thread.start()
    left: list[asyncio.Task[None]] = []

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError("cut off") from None

    async def fails_unseen() -> None:
        raise KeyError("unseen")

    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def main() -> None:
        left.extend(asyncio.create_task(each(), name=each.__name__) for each in (fails_when_cancelled, stubborn))
        await asyncio.sleep(0)

    async def close() -> None:
        left.append(asyncio.create_task(fails_unseen(), name="fails_unseen"))
        await asyncio.sleep(0)
        left.pop()
        gc.collect()

    thread.on_stop(close)
    thread.run(main())
    thread.stop(timeout_s=4)
    thread._thread.join()  # on a busy machine later than stop() waits for
    left.clear()
    gc.collect()
    assert "Traceback" not in caplog.text
    assert "fails_when_cancelled failed while the event loop stopped: KeyError('cut off')" in caplog.text
    assert "stubborn did not end when the event loop stopped" in caplog.text
    assert "KeyError('unseen')" in caplog.text
    assert "destroyed" not in caplog.text
