"""Files compared by their contents: by digests of the server, else its files are read, and nothing is kept of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial

from asyncworker.sftp.batch import FileResult, Order
from asyncworker.sftp.bulk import Large
from asyncworker.sftp.open_files import opened
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.server_digests import same_digests
from asyncworker.sftp.transfer import Transfer

__all__ = ["COMPARED_AT_ONCE", "compared", "same_contents"]

#: Files that are compared at the same time: each waits for a few round trips.
COMPARED_AT_ONCE = 32
_WINDOW_BYTES = 512 * 1024


def compared(pool: SFTPPool, order: Order | Large | FileResult, size_bytes: int, tracker: Tracker) -> Large:
    """Return an order that is carried out only if the two files differ; a dry run's result likewise.

    Args:
        pool: The connections.
        order: What is to be done.
        size_bytes: The size of both files.
        tracker: Counts the file as found once it is known to differ.
    """
    differs = False

    async def run() -> Transfer | FileResult:
        nonlocal differs
        if not differs:  # else this is another try
            if await same_contents(pool, order.remote, order.local, size_bytes):
                return FileResult(order.remote, order.local, reason="same contents", known_bytes=size_bytes)
            differs = True
            tracker.find(size_bytes)
        if isinstance(order, FileResult):
            return order
        carry_out: Callable[[], Awaitable[Transfer | FileResult]]
        carry_out = order.run if isinstance(order, Large) else lambda: pool._run(order.make())
        return await carry_out()

    return Large(order.remote, order.local, run, isinstance(order, Large) and order.counts_itself)


async def same_contents(pool: SFTPPool, remote: str, local: str, size_bytes: int) -> bool:
    """Compare a file of the server with a local one, up to the first difference.

    Args:
        pool: The connections.
        remote: The path on the server.
        local: The local path.
        size_bytes: The size of both, as it was listed.

    Raises:
        SFTPError: The one on the server cannot be read.
        OSError: The local one cannot be read.
    """
    opening = partial(asyncio.to_thread, os.open, local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    async with opened(opening) as fd:
        try:
            same = await same_digests(pool, remote, fd, size_bytes)
            if same is not None:
                return same
            offset = 0
            async with pool.open(remote, window_bytes=_WINDOW_BYTES) as file:
                async for block in file:
                    if await asyncio.to_thread(os.pread, fd, len(block), offset) != block:
                        return False
                    offset += len(block)
            return not await asyncio.to_thread(os.pread, fd, 1, offset)
        finally:
            os.close(fd)
