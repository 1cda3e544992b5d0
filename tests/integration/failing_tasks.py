"""Tasks that fail in every way, and what they leave in memory."""

from __future__ import annotations

import asyncio
import functools
import gc
import resource
import threading
import traceback
import weakref
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore, Reject

from asyncworker.loop.thread import hook_executor, io_executor, waiting_executor
from asyncworker.worker import failure_backlog

#: However slow the machine is, its servers are there.
failure_backlog.STALLED_S = 3600.0


@shared_task(name="f.ends", bind=True, max_retries=1, default_retry_delay=0)
async def ends(self: Any, how: str) -> int:
    """Return, or raise in that way, as deep as tasks usually do."""
    await asyncio.sleep(0.01)
    return await _deeper(self, how, 5)


@shared_task(name="f.ends_sync", bind=True, max_retries=1, default_retry_delay=0)
def ends_sync(self: Any, how: str) -> int:
    return _raise(self, how)


async def _deeper(task: Any, how: str, left: int) -> int:
    await asyncio.sleep(0)
    return await _deeper(task, how, left - 1) if left else _raise(task, how)


def _raise(task: Any, how: str) -> int:
    if how == "failure":
        raise ValueError(how)
    if how == "caused":
        try:
            raise KeyError(how)
        except KeyError as exc:
            raise ValueError(how) from exc
    if how == "retry":
        try:
            raise KeyError(how)
        except KeyError as exc:
            raise task.retry(exc=exc) from None
    if how == "ignore":
        raise Ignore(how)
    if how == "reject":
        raise Reject(how, requeue=False)
    return 1


@shared_task(name="f.tracked")
async def tracked() -> int:
    """Count what is left that the garbage collector would have to find; from now on it is off."""
    gc.disable()
    return len(gc.get_objects())


@shared_task(name="f.peak")
async def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


#: Calls that were left to threads since the first question.
_calls: list[str] = []


@shared_task(name="f.thread_calls")
async def thread_calls() -> int:
    """Return how many calls were given to I/O threads since they were first asked for; the first answer is 0."""
    for executor in (io_executor(), waiting_executor(), hook_executor()):
        if "submit" not in vars(executor):
            executor.submit = functools.partial(_count, executor.submit)  # type: ignore[method-assign]
    return len(_calls)


def _count(submit: Any, /, *args: Any, **kwargs: Any) -> Any:
    _calls.append(threading.current_thread().name)
    return submit(*args, **kwargs)


#: Tracebacks that were formatted since the first question.
_formatted: list[str] = []


@shared_task(name="f.formatted")
async def formatted() -> int:
    """Return how many tracebacks were formatted since that was first asked; the first answer is 0."""
    if not hasattr(traceback.TracebackException, "_stock_init"):
        stock: Any = traceback.TracebackException.__init__

        def counting(self: Any, kind: Any, value: Any, tb: Any, **options: Any) -> None:
            if tb is not None:
                _formatted.append(repr(value))
            stock(self, kind, value, tb, **options)

        traceback.TracebackException._stock_init = stock  # type: ignore[attr-defined]
        traceback.TracebackException.__init__ = counting  # type: ignore[method-assign]
    return len(_formatted)


class Unfolded(Exception):
    """A failure that is counted while it has its frames."""


_unfolded: weakref.WeakSet[Unfolded] = weakref.WeakSet()
#: The most of them at once.
_most = 0


@shared_task(name="f.fails_at_once", bind=True, max_retries=1, default_retry_delay=0)
async def fails_at_once(self: Any, how: str) -> int:
    """Fail, or be retried once, without having waited for anything; count those that do so at the same time."""
    global _most
    if how == "success" or self.request.retries:
        return 1
    try:
        raise Unfolded(how)
    except Unfolded as exc:
        _unfolded.add(exc)
        _most = max(_most, sum(each.__traceback__ is not None for each in _unfolded))
        if how == "retry":
            raise self.retry(exc=exc) from None
        raise


@shared_task(name="f.most_unfolded")
async def most_unfolded() -> int:
    return _most
