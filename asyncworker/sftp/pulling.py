"""A bounded number of tasks over many things, the next one taken as soon as a task is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar

from asyncworker.sftp.batch import each

__all__ = ["run_each"]

T = TypeVar("T")

#: Requests of one caller that are worth having under way, whatever the round trip.
_AT_ONCE = 64


async def run_each(
    things: AsyncIterable[T] | Iterable[T], run: Callable[[T], Awaitable[object]], at_once: int = _AT_ONCE
) -> None:
    """Run a function for each thing, so many at the same time; none of them runs on when this returns.

    Raises:
        Exception: The first one that ``run`` or ``things`` raised; the others are cancelled.
    """
    running: set[asyncio.Future[object]] = set()
    source = each(things)
    try:
        async for thing in source:
            running.add(asyncio.ensure_future(run(thing)))
            if len(running) >= at_once:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for error in [future.exception() for future in done]:  # of all: the first one ends the loop
                    if error is not None:
                        raise error
        await asyncio.gather(*running)
    finally:
        await source.aclose()
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)
