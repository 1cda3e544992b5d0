"""Threads that never hold up the end of the process."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["DaemonExecutor", "clean_threads_with"]

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_cleaners: list[Callable[[], object]] = []


def clean_threads_with(clean: Callable[[], object]) -> None:
    """Have something called on each thread of these pools, before and after each of its calls."""
    _cleaners.append(clean)


def _clean_thread() -> None:
    for clean in _cleaners:
        try:
            clean()
        except Exception:
            logger.exception("a thread could not be cleaned up")


def _carried(exc: BaseException) -> BaseException:
    """Return what a future of asyncio's takes: it refuses a ``StopIteration``, and who awaits it would never know."""
    if not isinstance(exc, StopIteration):
        return exc
    carried = RuntimeError(f"what was called on a thread raised {exc!r:.200}")
    carried.__cause__ = exc
    return carried


class DaemonExecutor(ThreadPoolExecutor):
    """A thread pool whose threads are daemons.

    The interpreter waits for the standard pool's threads before it exits: one task stuck in a system call would keep a
    worker that was told to end alive for ever. asyncio takes no other class for its default executor.
    """

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        super().__init__(max_workers, thread_name_prefix)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = 0
        self._daemons: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; a thread is started for it where none is idle and the limit allows one.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[T] = Future()
        with self._guard:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._calls.put((future, lambda: fn(*args, **kwargs)))
            if self._idle:
                self._idle -= 1
            elif len(self._daemons) < self._max_workers:
                name = f"{self._thread_name_prefix}_{len(self._daemons)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._daemons.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait`` return once all threads have ended."""
        with self._guard:
            if not self._closed:
                self._closed = True
                if cancel_futures:
                    self._cancel_queued()
                for _ in self._daemons:
                    self._calls.put(None)
        if wait:
            for thread in self._daemons:
                thread.join()

    def _cancel_queued(self) -> None:
        while not self._calls.empty():
            call = self._calls.get_nowait()
            if call is not None:
                call[0].cancel()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, fn = call
            if future.set_running_or_notify_cancel():
                _clean_thread()
                try:
                    future.set_result(fn())
                except BaseException as exc:
                    future.set_exception(_carried(exc))
                _clean_thread()
            del call, future, fn
            with self._guard:
                self._idle += 1
