"""Waiting for outcomes in a coroutine: on Redis by one subscription for all, elsewhere by asking on a thread."""

from __future__ import annotations

import asyncio
import builtins
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import TimeoutError

from asyncworker.tasks.watch_polling import PollingWatch
from asyncworker.tasks.watch_redis import RedisWatch
from asyncworker.worker.backend import stock_backend
from asyncworker.worker.redis_client import async_client

__all__ = ["settle"]

Watch = RedisWatch | PollingWatch


async def settle(results: Sequence[Any], fatal: Iterable[Any], *, timeout_s: float | None) -> Any | None:
    """Wait until all results have their outcome, which they keep; then nothing about them blocks any more.

    Args:
        results: Results of tasks, of one app.
        fatal: Those of which one that fails ends the waiting; they need not be among the others.
        timeout_s: How long; ``None``: for ever.

    Returns:
        The one that ended it; ``None`` where all have their outcome.

    Raises:
        celery.exceptions.TimeoutError: Not all of them have it in time.
        Exception: The backend cannot be asked.
    """
    settling, patience = _Settling(results, fatal), asyncio.timeout(timeout_s)
    try:
        settling.begin()
        async with patience:
            return await settling.done
    except builtins.TimeoutError:
        if not patience.expired():
            raise
        raise TimeoutError("The operation timed out.") from None
    finally:
        settling.end()


class _Settling:
    def __init__(self, results: Sequence[Any], fatal: Iterable[Any]) -> None:
        self.done: asyncio.Future[Any | None] = asyncio.get_running_loop().create_future()
        self._fatal = {id(result): result for result in fatal}
        self._left = {id(result): result for result in results}
        self._ends: list[Callable[[], None]] = []

    def begin(self) -> None:
        for result in (self._left | self._fatal).values():
            if result._cache:
                self._take(result, result._cache)
            else:
                self._ends.append(_watch_of(result).add(result.id, functools.partial(self._told, result)))
        self._check()

    def end(self) -> None:
        for end in self._ends:
            end()

    def _told(self, result: Any, outcome: Mapping[str, Any] | Exception) -> None:
        if self.done.done():
            return
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
            return
        # Not more than that: what Celery does besides, for those who wait by its own means, would block.
        result._set_cache(dict(outcome))
        self._take(result, outcome)
        self._check()

    def _take(self, result: Any, outcome: Mapping[str, Any]) -> None:
        self._left.pop(id(result), None)
        if id(result) in self._fatal and outcome["status"] in states.PROPAGATE_STATES and not self.done.done():
            self.done.set_result(result)

    def _check(self) -> None:
        if not self._left and not self.done.done():
            self.done.set_result(None)


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, str], Watch]] = (
    weakref.WeakKeyDictionary()
)


def _watch_of(result: Any) -> Watch:
    """Return the running loop's watch over the backend of a result."""
    backend = stock_backend(result.backend)
    of_loop = _by_loop.setdefault(asyncio.get_running_loop(), {})
    key = (id(result.app), repr(backend.url))
    watch = of_loop.get(key)
    if watch is None:
        watch = of_loop[key] = _new_watch(result.app, backend)
    return watch


def _new_watch(app: Any, backend: Any) -> Watch:
    if isinstance(backend, DisabledBackend):
        raise NotImplementedError("no result backend is configured: there is no result to wait for")
    if isinstance(backend, RPCBackend):
        raise NotImplementedError("results of rpc:// are for the thread that has sent the task: get() there")
    connect: Any = functools.partial(async_client, backend, connections=2)
    if connect() is not None:
        return RedisWatch(backend, connect)

    def here() -> Any:
        # Celery keeps a backend a thread, but for the one that was given to the result alone.
        own = stock_backend(app.backend)
        return own if type(own) is type(backend) and own.url == backend.url else backend

    return PollingWatch(here)
