"""Bulk transfers in either direction: all small files together, a few large ones beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from msgspec import Struct

from asyncworker.errors import SettingsError, SFTPConnectError, SFTPConnectionLost
from asyncworker.loop import running_loop_thread
from asyncworker.sftp.batch import Batch, FileResult, Order, Patience, next_attempt
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.listing import BadNames, Entry
from asyncworker.sftp.pool import SFTPPool, pool
from asyncworker.sftp.progress import Stopped, Tracker
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.transfer_options import TransferOptions
from asyncworker.sftp.urls import is_url, parse_url

__all__ = [
    "LARGE_AT_ONCE",
    "LARGE_BYTES",
    "Large",
    "Orders",
    "listed",
    "located",
    "patiently",
    "the_pool",
    "tracker_of",
    "transfer_all",
]

T = TypeVar("T")

#: Larger files go into the lane of the large ones.
LARGE_BYTES = 1024 * 1024
#: Large files at once: a bound on memory, as each has a window of megabytes.
LARGE_AT_ONCE = 8
#: Large files that are found and wait for their turn, at most; then the listing rests.
_LARGE_AHEAD = 10_000
#: Tries of a listing whose connection is lost, or cannot be made.
_TRIES = 4
_TELL_EVERY_S = 0.2


class Large(Struct, frozen=True):
    """A large file to be moved.

    Attributes:
        remote: Its path on the server.
        local: Its path here.
        run: Moves it, once for each try; returns what became of it if it was not moved.
        counts_itself: Whether it tells its bytes while they come.
    """

    remote: str
    local: str
    run: Callable[[], Awaitable[Transfer | FileResult]]
    counts_itself: bool = False


Orders = AsyncGenerator[Order | Large | FileResult, None]


async def transfer_all(
    pool: SFTPPool,
    orders: Orders,
    tracker: Tracker,
    at_once: int | None,
    retries: int,
    large_at_once: int = LARGE_AT_ONCE,
) -> None:
    """Move what is ordered, and tell the tracker of each; returns when all have ended, or too many have failed.

    Raises:
        Exception: What the orders raised.
    """
    large: asyncio.Queue[Large | None] = asyncio.Queue()
    room = asyncio.Semaphore(_LARGE_AHEAD)
    patience = Patience(retries + 1)

    async def small() -> AsyncIterator[Order | FileResult]:
        try:
            async for order in orders:
                if isinstance(order, Large):
                    await room.acquire()
                    large.put_nowait(order)
                else:
                    yield order
            tracker.listed = True
        finally:
            await orders.aclose()
            for _ in range(large_at_once):
                large.put_nowait(None)

    async def crowd() -> None:
        results = Batch(pool._connections, pool._limit(at_once), patience).results(small())
        try:
            async for result in results:
                tracker.finish(result)
        finally:
            await results.aclose()

    async def lane() -> None:
        while (order := await large.get()) is not None:
            room.release()
            result = await _tried(order, patience)
            patience.see(result)
            tracker.finish(result, 0 if order.counts_itself else None)

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            await tracker.tell()

    telling = asyncio.create_task(tell())
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd())
            for _ in range(large_at_once):
                group.create_task(lane())
    except BaseExceptionGroup as several:
        if not isinstance(several.exceptions[0], Stopped):
            raise several.exceptions[0] from None
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
    await tracker.tell()


async def _tried(order: Large, patience: Patience) -> FileResult:
    try:
        done = await patiently(order.run, patience)
    except Exception as error:
        return FileResult(order.remote, order.local, error=error)
    return done if isinstance(done, FileResult) else FileResult(order.remote, order.local, transfer=done)


async def patiently(run: Callable[[], Awaitable[T]], patience: Patience | None = None) -> T:
    """Run it, and again after a pause while the connection is lost or cannot be made: for what may be done twice.

    Raises:
        SFTPError: As it does; of several losses the last one.
    """
    patience = patience or Patience(_TRIES)
    attempt = 1
    while True:
        try:
            return await run()
        except (SFTPConnectionLost, SFTPConnectError) as error:
            pause = patience.pause_s(attempt, error)
            if pause is None:
                raise
            attempt = next_attempt(attempt, error)
        await asyncio.sleep(pause)


async def listed(
    pool: SFTPPool, folder: str, bad_names: BadNames, *, local_names: bool = True
) -> AsyncGenerator[Entry, None]:
    """List a folder, from its beginning again if the connection is lost on the way; each name is given out once.

    Raises:
        SFTPError: As for :meth:`SFTPPool.list`.
    """
    patience = Patience(_TRIES)
    seen: set[str] = set()
    attempt = 1
    while True:
        entries = pool.list(folder, bad_names=bad_names, local_names=local_names)
        try:
            async for entry in entries:
                if entry.name not in seen:
                    seen.add(entry.name)
                    yield entry
            return
        except (SFTPConnectionLost, SFTPConnectError) as error:
            pause = patience.pause_s(attempt, error)
            if pause is None:
                raise
            attempt = next_attempt(attempt, error)
        finally:
            await entries.aclose()
        await asyncio.sleep(pause)


@asynccontextmanager
async def the_pool(where: str | SFTPPool, options: dict[str, Any]) -> AsyncIterator[SFTPPool]:
    """The caller's pool; in a worker the process's own for that host; elsewhere one that is closed at the end.

    Raises:
        SettingsError: A pool that exists, and options for one.
    """
    if isinstance(where, SFTPPool):
        if options:
            raise SettingsError(f"{', '.join(options)}: options of a pool, which is there already")
        yield where
        return
    thread = running_loop_thread()
    if thread is not None and thread.ident == threading.get_ident():
        yield await pool(where, **options)
        return
    async with SFTPPool(where, **options) as made:
        yield made


def tracker_of(wishes: TransferOptions) -> Tracker:
    """Return a tracker that calls the caller's functions."""
    return Tracker(wishes.on_progress, wishes.on_file, wishes.on_skipped, wishes.max_failures)


def located(
    where: str | SFTPPool, path: PathLike | Iterable[PathLike] | None, options: dict[str, Any]
) -> tuple[str | SFTPPool, list[str], dict[str, Any]]:
    """Return host or pool, remote paths and options of what a caller wrote: a URL with the path in it, or both apart.

    Raises:
        SettingsError: No path, or two; or a URL that is none.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path or ())
    if not is_url(where):
        if not paths:
            raise SettingsError("a remote path is needed: as an argument of its own, or in sftp://user@host:port/path")
        return where, [os.fspath(one) for one in paths], options
    assert isinstance(where, str)
    location = parse_url(where)
    if not paths:
        if not location.path:
            raise SettingsError(f"a remote path is needed in the URL of {location.host}: sftp://user@host:port/path")
        return location.host, [location.path], location.login(options)
    if location.path not in ("", "/"):
        raise SettingsError(f"two remote paths: {os.fspath(paths[0])!a}, and {location.path!a} in the URL")
    return location.host, [os.fspath(one) for one in paths], location.login(options)
