"""The bridge: synchronous code that gives way to the loop, and stays one asyncio task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from asyncworker.loop import Bridge, Interrupt, await_, in_bridge, off_loop

VALUE: contextvars.ContextVar[str] = contextvars.ContextVar("VALUE", default="unset")


class Stop(asyncio.CancelledError, ValueError):
    """An interrupt that user code may catch as an ordinary exception."""


async def test_sync_code_waits_and_others_go_on() -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async def body() -> int:
        order.append("waits")
        await gate.wait()
        return 7

    def tracer() -> int:
        assert in_bridge()
        return await_(body()) + 1

    bridged = asyncio.ensure_future(Bridge(Interrupt(), tracer))
    await asyncio.sleep(0)
    order.append("others")
    gate.set()
    assert await bridged == 8
    assert order == ["waits", "others"]


async def test_it_is_one_asyncio_task() -> None:
    seen: list[Any] = []

    async def body() -> None:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        seen.append(asyncio.current_task())

    task = asyncio.ensure_future(Bridge(Interrupt(), lambda: await_(body())))
    await task
    assert seen == [task, task]


async def test_it_can_be_awaited_and_closed_like_a_coroutine() -> None:
    ended: list[str] = []

    async def body() -> str:
        try:
            await asyncio.sleep(0)
            return "slept"
        finally:
            ended.append("body")

    assert await Bridge(Interrupt(), lambda: await_(body())) == "slept"

    closed = Bridge(Interrupt(), lambda: await_(body()))
    closed.send(None)
    closed.close()
    assert closed.dead
    assert ended == ["body", "body"]

    not_begun = Bridge(Interrupt(), lambda: ended.append("begun"))
    not_begun.close()
    with pytest.raises(asyncio.CancelledError):
        Bridge(Interrupt(), lambda: ended.append("begun")).throw(asyncio.CancelledError())
    assert not_begun.dead
    assert ended == ["body", "body"]


async def test_exceptions_and_timeouts_pass_through() -> None:
    async def times_out() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(30)
        except TimeoutError:
            return "timed out"
        return "never"

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    def tracer() -> str:
        with pytest.raises(KeyError, match="mine"):
            await_(fails())
        return await_(times_out())

    assert await Bridge(Interrupt(), tracer) == "timed out"


async def test_the_context_is_the_callers_own() -> None:
    async def body() -> str:
        seen = VALUE.get()
        VALUE.set("inside")
        await asyncio.sleep(0)
        return seen + " " + VALUE.get()

    VALUE.set("outside")
    assert await Bridge(Interrupt(), lambda: await_(body())) == "outside inside"
    assert VALUE.get() == "inside"


async def test_an_exception_is_raised_where_the_coroutine_waits() -> None:
    interrupt = Interrupt()
    waiting = asyncio.Event()
    children: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            children.append("cancelled")
            raise

    async def body() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                waiting.set()
        except ValueError as exc:
            await asyncio.sleep(0)  # cleaning up may wait
            return f"stopped: {exc}"
        return "never"

    task = asyncio.ensure_future(Bridge(interrupt, lambda: await_(body())))
    await waiting.wait()
    await asyncio.sleep(0)
    interrupt.throw(task, Stop("enough"))
    assert await task == "stopped: enough"
    assert children == ["cancelled"]
    assert task.cancelling() == 0


async def test_a_cancellation_wins_over_an_interrupt() -> None:
    interrupt = Interrupt()
    task = asyncio.ensure_future(Bridge(interrupt, lambda: await_(asyncio.sleep(30))))
    await asyncio.sleep(0)
    interrupt.throw(task, Stop())
    interrupt.cancel(task)
    interrupt.throw(task, Stop())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not isinstance(caught.value, Stop)


async def test_off_loop_leaves_the_loop_free() -> None:
    entered, leave = threading.Event(), threading.Event()

    def blocks() -> str:
        entered.set()
        assert leave.wait(120)
        return threading.current_thread().name

    task = asyncio.ensure_future(Bridge(Interrupt(), lambda: off_loop(blocks)))
    while not entered.is_set():
        await asyncio.sleep(0)
    leave.set()
    assert (await task).startswith("asyncworker-io")


async def test_off_loop_after_the_coroutine_outlives_a_cancellation() -> None:
    """A result that is being written is written to the end."""
    entered, leave = threading.Event(), threading.Event()
    interrupt = Interrupt()

    def writes() -> str:
        entered.set()
        assert leave.wait(120)
        return "written"

    task = asyncio.ensure_future(Bridge(interrupt, lambda: off_loop(writes)))
    while not entered.is_set():
        await asyncio.sleep(0)
    interrupt.cancel(task)
    await asyncio.sleep(0)
    leave.set()
    assert await task == "written"


async def test_off_loop_inside_a_coroutine_raises_the_cancellation_once_it_is_done() -> None:
    entered, leave, done = threading.Event(), threading.Event(), threading.Event()
    interrupt = Interrupt()

    def sends() -> None:
        entered.set()
        assert leave.wait(120)
        done.set()

    async def body() -> None:
        off_loop(sends)

    task = asyncio.ensure_future(Bridge(interrupt, lambda: await_(body())))
    while not entered.is_set():
        await asyncio.sleep(0)
    interrupt.cancel(task)
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


def test_without_a_bridge() -> None:
    assert not in_bridge()
    assert off_loop(lambda: threading.current_thread()) is threading.current_thread()
    coro = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Bridge"):
        await_(coro)
    coro.close()
