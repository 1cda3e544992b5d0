"""Run an item's call on a thread, which nothing can stop: who waits for it keeps its place until it returns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from asyncworker.iterate.item import item_here
from asyncworker.iterate.puller import Puller

__all__ = ["run_on_thread"]

logger = logging.getLogger(__name__)


async def run_on_thread(call: Callable[[], Any]) -> Any:
    """Call a function on a thread of the running loop's executor, in a copy of the context.

    Cancelled, by the item's time limit above all, it returns once the thread has: else more calls would run than the
    run's ``concurrency``, and an item could be tried again beside itself. A call that has not begun is skipped. A run
    that stops does not wait.
    """
    begun = given_up = False

    def on_thread() -> Any:
        nonlocal begun
        begun = True
        return None if given_up else call()

    running = asyncio.get_running_loop().run_in_executor(None, copy_context().run, on_thread)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # In this order: either the thread sees that it is given up, or it has begun and is waited for.
        given_up = True
        item = item_here()
        index = "?" if item is None else item.index
        try:
            if begun and not running.done() and not _stopped():
                logger.warning(
                    "item %s is past its time limit or was cancelled, on a thread, which cannot be stopped; its slot "
                    "stays taken until that returns",
                    index,
                )
                await asyncio.wait([running])
        finally:
            if begun and not running.done():
                logger.warning(
                    "item %s still runs on a thread, which cannot be stopped; its run stopped without it, and what it "
                    "returns is ignored",
                    index,
                )
            running.add_done_callback(_seen)
        raise


def _stopped() -> bool:
    task = asyncio.current_task()
    return isinstance(task, Puller) and task.stopped


def _seen(running: asyncio.Future[Any]) -> None:
    if not running.cancelled():
        running.exception()
