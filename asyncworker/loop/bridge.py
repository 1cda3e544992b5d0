"""The greenlet bridge: synchronous code runs on the event loop and gives way to it where it waits.

A synchronous function (Celery's tracer) is started in a greenlet of the loop thread. Where it calls a coroutine, the
coroutine is driven inside that greenlet; each future it waits for is handed to the loop by switching to the parent.
To asyncio all of it is one task: ``current_task()``, ``timeout()``, ``TaskGroup`` and ``cancel()`` behave. This file
alone knows the trick; the idea is SQLAlchemy's ``greenlet_spawn``.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

import greenlet

from asyncworker.loop.cancel import Interrupt
from asyncworker.loop.thread import io_executor

__all__ = ["await_", "in_bridge", "off_loop", "off_loop_async", "run_in_bridge"]

T = TypeVar("T")


class _Bridge(greenlet.greenlet):  # type: ignore[misc]
    """A greenlet that the pump below started."""

    __slots__ = ("depth", "interrupt")

    interrupt: Interrupt
    depth: int


def in_bridge() -> bool:
    """Tell whether the caller may wait for the loop without ``await``: it runs in a bridge's own greenlet."""
    return isinstance(greenlet.getcurrent(), _Bridge)


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable from synchronous code inside a bridge. Other tasks of the loop go on meanwhile.

    Raises:
        RuntimeError: The caller is not in a bridge.
    """
    bridge = greenlet.getcurrent()
    if not isinstance(bridge, _Bridge):
        raise RuntimeError("await_() is for synchronous code that run_in_bridge() started")
    coro = awaitable if isinstance(awaitable, Coroutine) else _wrap(awaitable)
    bridge.depth += 1
    try:
        future = coro.send(None)
        while True:
            try:
                value = bridge.parent.switch(future)
            except BaseException as arrived:
                future = coro.throw(bridge.interrupt.take(arrived))
            else:
                future = coro.send(value)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        bridge.depth -= 1


async def _wrap(awaitable: Awaitable[T]) -> T:
    return await awaitable


@types.coroutine
def run_in_bridge(interrupt: Interrupt, fn: Callable[..., T], /, args: tuple[Any, ...] = ()) -> Generator[Any, Any, T]:
    """Run a synchronous function in a bridge; inside it, and inside it only, :func:`await_` works.

    To be awaited. A generator, since one more coroutine would be one more for each of ten thousand that wait.

    Args:
        interrupt: Where exceptions for the function's coroutine are left.
        fn: Called with ``args`` in the caller's own context.
    """
    bridge = _Bridge(fn)
    bridge.interrupt = interrupt
    bridge.depth = 0
    bridge.gr_context = greenlet.getcurrent().gr_context
    result = _switch(bridge, args)
    while not bridge.dead:
        try:
            value = yield result
        except BaseException as exc:
            result = _throw(bridge, exc)
        else:
            result = _switch(bridge, (value,))
    return cast(T, result)


# A switch makes an object of the frame that calls it, which lives as long as the frame does.


def _switch(bridge: _Bridge, args: tuple[Any, ...]) -> Any:
    return bridge.switch(*args)


def _throw(bridge: _Bridge, exc: BaseException) -> Any:
    return bridge.throw(exc)


def off_loop(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call something that blocks: on an I/O thread while the bridge waits, or at once where there is no bridge.

    A call that has begun is always waited for, so that what it did is known. A cancellation that arrives meanwhile
    is raised afterwards inside a coroutine, and dropped where the coroutine has already ended.
    """
    bridge = greenlet.getcurrent()
    if not isinstance(bridge, _Bridge):
        return fn(*args, **kwargs)
    inside_coroutine = bridge.depth > 0
    return await_(_finish(off_loop_async(fn, *args, **kwargs), inside_coroutine))


def off_loop_async(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]:
    """Call something that blocks on an I/O thread, in a copy of the context; await the future on the running loop."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(io_executor(), lambda: context.run(fn, *args, **kwargs))


async def _finish(future: asyncio.Future[T], raise_cancelled: bool) -> T:
    cancelled: BaseException | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except BaseException as exc:
            cancelled = exc
    if cancelled is not None and raise_cancelled:
        if not future.cancelled():
            future.exception()
        raise cancelled
    return future.result()
