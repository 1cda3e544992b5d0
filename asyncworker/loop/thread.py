"""The loop thread: one event loop a process, started on first use, owned by asyncworker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from asyncworker.errors import LoopError
from asyncworker.loop.debug import checked_loop, debugging
from asyncworker.loop.threads import DaemonExecutor

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

__all__ = [
    "LoopThread",
    "get_loop_thread",
    "hook_executor",
    "io_executor",
    "on_loop_thread",
    "running_loop_thread",
    "set_io_threads",
    "waiting_executor",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LoopThread:
    """An event loop that runs on a thread of its own until it is stopped.

    Args:
        threads: Size of the loop's default executor: what ``asyncio.to_thread`` uses.
    """

    def __init__(self, *, threads: int = 32) -> None:
        self.loop = checked_loop(new_event_loop()) if debugging() else new_event_loop()
        self.loop.set_default_executor(DaemonExecutor(threads, "asyncworker-thread"))
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="asyncworker-loop", daemon=True)

    @property
    def ident(self) -> int | None:
        """The thread's ident; ``None`` before it was started."""
        return self._thread.ident

    @property
    def alive(self) -> bool:
        """Whether the loop takes calls."""
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Start the thread; returns once the loop runs."""
        ready = threading.Event()
        self.loop.call_soon(ready.set)
        self._thread.start()
        ready.wait()

    def on_stop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have ``close`` awaited on the loop before it stops; the last one given is the first one called."""
        self._closers.append(close)

    def run(self, coro: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it, in a copy of the caller's context.

        Raises:
            LoopError: Called on the loop's own thread, where waiting would never end.
            TimeoutError: It was not done in time; it was cancelled.
        """
        if threading.get_ident() == self.ident:
            coro.close()
            raise LoopError("this call waits for the event loop and was made on it: await its async twin instead")
        if not self.alive:
            coro.close()
            raise LoopError("the event loop was stopped")
        context = contextvars.copy_context()
        waiter: concurrent.futures.Future[T] = concurrent.futures.Future()
        started: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self.loop.create_task(coro, context=context)
            started.append(task)
            task.add_done_callback(lambda done: _copy_outcome(done, waiter))

        self.loop.call_soon_threadsafe(start)
        try:
            return waiter.result(timeout_s)
        except BaseException:
            self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in started])
            raise

    def stop(self, *, timeout_s: float = 5.0) -> bool:
        """Close what was registered, cancel what still runs, stop the loop.

        Returns:
            Whether all ended in time; a blocked loop is left behind on its daemon thread.
        """
        if not self._thread.is_alive():
            return True
        asyncio.run_coroutine_threadsafe(self._wind_down(timeout_s), self.loop)
        self._thread.join(timeout_s + 1)
        return not self._thread.is_alive()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException:
                # SystemExit or KeyboardInterrupt from a child task: it must not take the other tasks down.
                logger.exception("a task tried to end the event loop")
        self.loop.close()

    async def _wind_down(self, timeout_s: float) -> None:
        self.loop.set_exception_handler(_say_in_a_line)
        for close in reversed(self._closers):
            try:
                await asyncio.wait_for(close(), timeout_s)
            except (Exception, asyncio.CancelledError):  # a closer may await what was cancelled
                logger.exception("while stopping the event loop")
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        if rest:
            ended, left = await asyncio.wait(rest, timeout=timeout_s / 2)
            _say_how_they_ended(ended, left)
        await self.loop.shutdown_asyncgens()
        self._stopping = True
        self.loop.stop()


def _say_in_a_line(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio has to say of a loop that stops, without a traceback: what was cut off fails as it likes."""
    who = context.get("task") or context.get("future") or context.get("handle") or ""
    logger.warning("while the event loop stopped: %s: %r %s", context.get("message"), context.get("exception"), who)


def _say_how_they_ended(ended: set[asyncio.Task[Any]], left: set[asyncio.Task[Any]]) -> None:
    """Log a line for each task that did not end well when the loop did, in the place of asyncio's own tracebacks."""
    for task in ended:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.warning("%s failed while the event loop stopped: %r", task.get_name(), exc)
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        logger.warning("%s did not end when the event loop stopped, and is left behind", task.get_name())


def _copy_outcome(task: asyncio.Task[T], waiter: concurrent.futures.Future[T]) -> None:
    if waiter.done():
        if not task.cancelled():
            task.exception()
        return
    if task.cancelled():
        waiter.set_exception(asyncio.CancelledError())
    elif (exc := task.exception()) is not None:
        waiter.set_exception(exc)
    else:
        waiter.set_result(task.result())


_lock = threading.Lock()
_loop_thread: LoopThread | None = None
#: Thread pools beside the loop, by name; each is made when it is first used.
_executors: dict[str, DaemonExecutor] = {}
_io_threads = 8
#: Fewer than Celery has connections by default: those that wait leave some to others.
WAITING_THREADS = 4


def get_loop_thread(**options: Any) -> LoopThread:
    """Return the process's loop thread, started on first use; ``options`` count for the first call only."""
    global _loop_thread
    with _lock:
        if _loop_thread is None or not _loop_thread.alive:
            _loop_thread = LoopThread(**options)
            _loop_thread.start()
        return _loop_thread


def running_loop_thread() -> LoopThread | None:
    """Return the process's loop thread where one runs."""
    return _loop_thread if _loop_thread is not None and _loop_thread.alive else None


def on_loop_thread() -> bool:
    """Tell whether the caller runs on the loop's thread, in a bridge or not."""
    return _loop_thread is not None and threading.get_ident() == _loop_thread.ident


def io_executor() -> DaemonExecutor:
    """Return the threads for what is blocking inside Celery: result writes and publishing."""
    return _executor("asyncworker-io", _io_threads)


def hook_executor() -> DaemonExecutor:
    """Return the threads for the hooks of async tasks, which hold up nothing of Celery's own."""
    return _executor("asyncworker-hook", _io_threads)


def waiting_executor() -> DaemonExecutor:
    """Return the threads for what may wait inside Celery until a server is back. The end of the process ends them."""
    return _executor("asyncworker-waiting", WAITING_THREADS)


def _executor(name: str, threads: int) -> DaemonExecutor:
    with _lock:
        if name not in _executors:
            _executors[name] = DaemonExecutor(threads, name)
        return _executors[name]


def set_io_threads(count: int) -> None:
    """Set the number of I/O threads, and of those for hooks; counts until the first is used."""
    global _io_threads
    _io_threads = count


def _forget_after_fork() -> None:
    # A forked child has the object but not the thread.
    global _loop_thread, _executors, _lock
    _loop_thread, _executors, _lock = None, {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
