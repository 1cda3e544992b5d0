"""A thread that reads a source which is not async: what it does between two values blocks nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextvars import copy_context
from time import monotonic
from typing import Any

from asyncworker.loop.threads import DaemonExecutor

__all__ = ["call_source"]

#: Values are read ahead for so long, and so many at the most, so that quick ones do not cost a thread's turn each.
BATCH_S = 0.002
BATCH_ITEMS = 1000


async def call_source(call: Callable[[], Any]) -> Any:
    """Call a function on a thread of its own; an iterator that it returns is read there, lazily, to its end.

    One thread from beginning to end: cursors and connections are often bound to the one that made them.
    """
    thread = _Thread()
    try:
        value = await thread.run(call)
    except BaseException:
        thread.end()
        raise
    if isinstance(value, Iterator):
        return thread.read(value)
    thread.end()
    return value


class _Thread:
    def __init__(self) -> None:
        self._executor = DaemonExecutor(1, "asyncworker-source")
        self._context = copy_context()

    async def run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._executor.submit(self._context.run, _caught, call))

    async def read(self, values: Iterator[Any]) -> AsyncGenerator[Any, None]:
        try:
            while True:
                batch, error = await self.run(lambda: _batch(values))
                for value in batch:
                    yield value
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                # Behind what the thread may still be at, which nobody waits for.
                self._executor.submit(self._context.run, close)
            self.end()

    def end(self) -> None:
        self._executor.shutdown(wait=False)


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StopIteration as exc:
        # A future does not take one: whoever waits for it would wait for ever.
        raise RuntimeError("the source raised StopIteration") from exc


def _batch(values: Iterator[Any]) -> tuple[list[Any], BaseException | None]:
    batch: list[Any] = []
    until_s = monotonic() + BATCH_S
    try:
        while not batch or (len(batch) < BATCH_ITEMS and monotonic() < until_s):
            batch.append(next(values))
    except BaseException as exc:
        # What came before it is run.
        return batch, exc
    return batch, None
