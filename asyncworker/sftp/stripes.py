"""Workers on one large file, each on a connection of its own: one that loses its connection is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost
from asyncworker.sftp.files import Files

__all__ = ["run_stripes"]

#: How often to look whether there is one more connection to use.
_LOOK_S = 0.05
#: Lost connections in a row, without a byte between them.
_TRIES = 3
_PAUSE_S = 0.5


async def run_stripes(
    pool: Files,
    stripe: Callable[[], Coroutine[Any, Any, None]],
    *,
    work_left: Callable[[], int],
    done: Callable[[], bool],
    moved: Callable[[], int],
) -> None:
    """Run as many stripes as there are connections, until there is nothing left that nobody has.

    Args:
        pool: The connections; more are asked for, as far as the options allow and the work suffices.
        stripe: Does its share until nothing is left to take; gives back what it could not do.
        work_left: How many stripes would find something to do.
        done: Whether every byte has been moved.
        moved: How many bytes all have moved until now.

    Raises:
        SFTPConnectionLost, SFTPConnectError: So often in a row that there is no sense in going on.
        Exception: Whatever else a stripe raises; the others are stopped.
    """
    running: set[asyncio.Task[None]] = set()
    failures = moved_before = 0
    try:
        while True:
            for _ in range(_wanted(pool, work_left()) - len(running)):
                running.add(asyncio.create_task(stripe()))
            if not running:
                if not done():  # a fault of ours; a file with a hole in it must never appear
                    raise RuntimeError("a part of a large file was lost sight of")
                return
            ended, running = await asyncio.wait(running, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            errors = [task.exception() for task in ended]  # of all: the first one may end the loop
            for error in filter(None, errors):
                if not isinstance(error, SFTPConnectionLost | SFTPConnectError):
                    raise error
                failures = failures + 1 if moved_before == moved() else 1
                moved_before = moved()
                if failures >= _TRIES and not running:
                    raise error
                await asyncio.sleep(_PAUSE_S)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
            for task in running:
                if not task.cancelled():
                    task.exception()  # read: another's error was first


def _wanted(pool: Files, work_left: int) -> int:
    if work_left:
        pool._connections.want(min(pool.options.connections, work_left))
    return min(max(1, pool._connections.count), work_left)
