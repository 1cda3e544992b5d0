"""Operations that an outage must not lose: retried until they succeed, without a thread held meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import RetryCallState, wait_random_exponential

from asyncworker.loop import Bridge, Interrupt, await_, current_job, in_bridge, off_loop, running_loop_thread
from asyncworker.worker.job import Job

__all__ = ["Temporary", "flush_settlements", "log_wait", "settle", "until_done", "waits", "waits_for_server"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Tells whether an exception says that a server is away, and nothing about the call itself.
Temporary = Callable[[Exception], bool]

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
#: A thousand tasks may wait for the same server: one line tells it.
LOG_AGAIN_S = 5.0

#: Reports of the main thread that are not written yet. The loop thread's.
_settlements: set[asyncio.Task[None]] = set()


def until_done(
    call: Callable[[], T], temporary: Temporary, what: str, leave: Callable[[Callable[[], T]], T] = off_loop
) -> T:
    """Call something that blocks until it succeeds, or fails for a reason of its own.

    In a bridge the call runs on an I/O thread and the loop waits between two attempts, so that a thousand tasks that
    wait for a server hold no thread. Elsewhere the calling thread waits.

    Args:
        call: Safe to repeat.
        temporary: Which of its exceptions to wait out.
        what: For the log.
        leave: Makes the call on the thread that it is for.

    Raises:
        Exception: One that is not temporary; or, of an abandoned job, any.
    """
    with waits_for_server(_running_job()):
        for wait_s in waits():
            try:
                return leave(call)
            except Exception as exc:
                if not temporary(exc) or _abandoned():
                    raise
                log_wait(what, exc)
            _wait(wait_s)
    raise AssertionError("not reached")


@contextlib.contextmanager
def waits_for_server(job: Job | None) -> Iterator[None]:
    """Have a job's hard time limit wait for what it would spoil: the job's code has ended in time."""
    if job is None:
        yield
        return
    job.servers_awaited += 1
    try:
        yield
    finally:
        job.servers_awaited -= 1


def settle(write: Callable[[], object], what: str) -> None:
    """Do it for the main thread, which may not wait: it goes on, and hears nothing of it again.

    Args:
        write: Called in a bridge.
        what: For the log.
    """
    loop_thread = running_loop_thread()
    if loop_thread is None:
        write()
        return
    loop_thread.loop.call_soon_threadsafe(_start_settling, write, what)


async def flush_settlements() -> None:
    """Wait until all that was settled is written."""
    while _settlements:
        await asyncio.wait(_settlements)


def _start_settling(write: Callable[[], object], what: str) -> None:
    task = asyncio.get_running_loop().create_task(_settle(write, what), name=f"settle {what}")
    _settlements.add(task)
    task.add_done_callback(_settlements.discard)


async def _settle(write: Callable[[], object], what: str) -> None:
    try:
        await Bridge(Interrupt(), write)
    except Exception:
        logger.exception("%s failed", what)


def waits() -> Iterator[float]:
    """Yield seconds to wait after each attempt, for ever."""
    wait = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    while True:
        yield wait(state)
        state.attempt_number += 1


def _wait(wait_s: float) -> None:
    if not in_bridge():
        time.sleep(wait_s)
        return
    try:
        await_(asyncio.sleep(wait_s))
    except asyncio.CancelledError:
        # Where the coroutine has ended, a cancellation comes too late, unless the outcome was reported without us.
        job = _running_job()
        if job is None or job.coroutine is not None or job.abandoned:
            raise


def _running_job() -> Job | None:
    job = current_job.get()
    return job if isinstance(job, Job) else None


def _abandoned() -> bool:
    job = _running_job()
    return job is not None and job.abandoned


_warned_at_s = -LOG_AGAIN_S


def log_wait(what: str, exc: Exception) -> None:
    """Tell that a server is away; once for all that wait for it."""
    global _warned_at_s
    if time.monotonic() - _warned_at_s >= LOG_AGAIN_S:
        _warned_at_s = time.monotonic()
        logger.warning("%s failed and is tried again, like others until the server is back: %s", what, exc)
