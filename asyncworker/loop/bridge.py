"""The greenlet bridge: synchronous code runs on the event loop and gives way to it where it waits.

A synchronous function (Celery's tracer) is started in a greenlet of the loop thread. Where it calls a coroutine, the
coroutine is driven inside that greenlet; each future it waits for is handed to the loop by switching to the parent.
To asyncio all of it is one task: ``current_task()``, ``timeout()``, ``TaskGroup`` and ``cancel()`` behave. This file
alone knows the trick; the idea is SQLAlchemy's ``greenlet_spawn``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

import greenlet

from asyncworker.loop.cancel import Interrupt
from asyncworker.loop.thread import hook_executor, io_executor, waiting_executor

__all__ = [
    "Bridge",
    "await_",
    "in_bridge",
    "off_loop",
    "off_loop_async",
    "off_loop_in_context",
    "off_loop_to_wait",
]

T = TypeVar("T")


class Bridge(greenlet.greenlet):  # type: ignore[misc]
    """A synchronous function as a coroutine: of an asyncio task, or to be awaited.

    It is the greenlet that it runs in: a coroutine around that would be one more for each of ten thousand that wait.

    Args:
        interrupt: Where exceptions for the function's coroutine are left.
        fn: Called with ``args`` in the context of whoever awaits it; inside it, and inside it only, :func:`await_`
            works.
    """

    __slots__ = ("args", "context", "depth", "interrupt")

    def __init__(self, interrupt: Interrupt, fn: Callable[..., Any], args: tuple[Any, ...] = ()) -> None:
        super().__init__(fn)
        self.interrupt = interrupt
        self.args: tuple[Any, ...] | None = args
        self.depth = 0
        self.context: contextvars.Context | None = None

    def own_context(self) -> contextvars.Context:
        """Return a context that is the function's alone from here on; called by the function.

        The asyncio task enters its own for each step, which may come while a thread is in this one.
        """
        if self.context is None:
            self.context = contextvars.copy_context()
            self.gr_context = self.context  # type: ignore[misc]  # the class above has it
        return self.context

    def send(self, value: Any) -> Any:
        """Begin, or go on with what was waited for; returns what is waited for next."""
        args, self.args = self.args, None
        if args is None:
            return self.go_on(self.switch, (value,))
        self.gr_context = greenlet.getcurrent().gr_context  # type: ignore[misc]  # the class above has it
        return self.go_on(self.switch, args)

    def throw(self, *exception: Any) -> Any:
        """Go on with an exception."""
        return self.go_on(super().throw, exception)

    def close(self) -> None:
        """End it, as a coroutine is ended that nobody awaits any more."""
        with contextlib.suppress(GeneratorExit, StopIteration):
            self.throw(GeneratorExit)

    def go_on(self, switch: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Switch to the function; returns what it waits for next, or raises ``StopIteration`` with what it returned."""
        result = switch(*args)
        if self.dead:
            raise StopIteration(result)
        return result

    def __await__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.send(None)


Coroutine.register(Bridge)


def in_bridge() -> bool:
    """Tell whether the caller may wait for the loop without ``await``: it runs in a bridge's own greenlet."""
    return isinstance(greenlet.getcurrent(), Bridge)


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable from synchronous code inside a bridge. Other tasks of the loop go on meanwhile.

    Raises:
        RuntimeError: The caller is not in a bridge.
    """
    bridge = greenlet.getcurrent()
    if not isinstance(bridge, Bridge):
        raise RuntimeError("await_() is for synchronous code that a Bridge has started")
    coro = awaitable if isinstance(awaitable, Coroutine) else _wrap(awaitable)
    bridge.depth += 1
    try:
        future = coro.send(None)
        while True:
            try:
                value = _give_way(bridge.parent, future)
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


# A switch makes an object of the frame that calls it, as large as that frame, which lives as long.


def _give_way(parent: Any, future: Any) -> Any:
    return parent.switch(future)


def off_loop(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call something that blocks: on an I/O thread while the bridge waits, or at once where there is no bridge.

    A call that has begun is always waited for, so that what it did is known. A cancellation that arrives meanwhile
    is raised afterwards inside a coroutine, and dropped where the coroutine has already ended.
    """
    return _off_loop(io_executor, fn, *args, **kwargs)


def off_loop_to_wait(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Do the same for a call that may wait for a server: on threads that nothing else depends on."""
    return _off_loop(waiting_executor, fn, *args, **kwargs)


def off_loop_async(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]:
    """Call something that blocks on an I/O thread, in a copy of the context; await the future on the running loop."""
    return _on_thread(io_executor, fn, *args, **kwargs)


def _off_loop(executor: Callable[[], Executor], fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    bridge = greenlet.getcurrent()
    if not isinstance(bridge, Bridge):
        return fn(*args, **kwargs)
    inside_coroutine = bridge.depth > 0
    return await_(_finish(_on_thread(executor, fn, *args, **kwargs), inside_coroutine))


def _on_thread(
    executor: Callable[[], Executor], fn: Callable[..., T], /, *args: Any, **kwargs: Any
) -> asyncio.Future[T]:
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(executor(), lambda: context.run(fn, *args, **kwargs))


def off_loop_in_context(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a hook that may block: as :func:`off_loop`, in the caller's own context, and on a thread for hooks."""
    bridge = greenlet.getcurrent()
    if not isinstance(bridge, Bridge):
        return fn(*args, **kwargs)
    context = bridge.own_context()
    call = functools.partial(context.run, fn, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(hook_executor(), call)
    return await_(_finish(future, bridge.depth > 0))


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
