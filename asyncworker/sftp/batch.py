"""Many files at once without a task for each: jobs start as a source gives them, results come as they are there."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import Struct

from asyncworker.errors import (
    SFTPAuthError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPFileNotFound,
    SFTPHostKeyError,
)
from asyncworker.sftp.calls import Awaited
from asyncworker.sftp.connections import CLEAN_UP_S, Connections
from asyncworker.sftp.file_end import gone_since
from asyncworker.sftp.open_files import OPEN_FILES, out_of_descriptors
from asyncworker.sftp.transfer import Download, Transfer

__all__ = ["Batch", "FileResult", "Order", "Outcome", "Patience", "each", "next_attempt"]

T = TypeVar("T")

#: Waits before a file whose connection was lost, or could not be made, is tried again.
_PAUSES_S = (0.2, 1.0, 3.0)


Outcome = Literal["moved", "failed", "skipped", "deleted", "would_move", "would_delete"]


class FileResult(Struct, frozen=True):
    """How one file of many ended.

    Attributes:
        remote: Its path on the server.
        local: Its path here.
        transfer: What arrived; ``None`` if nothing did.
        error: Why it failed; ``None`` if it did not.
        reason: Why it was left out, in a few words; in a dry run, why it would not be.
        deletes: Whether it was to be deleted, not moved.
        planned: Whether it is only said what would be done, in a dry run.
        known_bytes: Its size as far as it was known before.
    """

    remote: str
    local: str
    transfer: Transfer | None = None
    error: Exception | None = None
    reason: str | None = None
    deletes: bool = False
    planned: bool = False
    known_bytes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return self.error is None

    @property
    def outcome(self) -> Outcome:
        """Outcome in a word; ``would_move`` and ``would_delete`` in a dry run."""
        if self.error is not None:
            return "failed"
        if self.planned:
            return "would_delete" if self.deletes else "would_move"
        if self.reason is not None:
            return "skipped"
        return "deleted" if self.deletes else "moved"

    @property
    def size_bytes(self) -> int | None:
        """Its size, where it is known."""
        return self.known_bytes if self.transfer is None else self.transfer.size_bytes


class Order(Struct, frozen=True):
    """A file to be moved: its two paths, and what makes a job for it, once for each try."""

    remote: str
    local: str
    make: Callable[[], Awaited[Transfer]]


class Patience:
    """How often a file is tried whose connection is lost or cannot be made; once the server has been given up, once.

    Args:
        tries: While there is hope.
    """

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._hope = True

    def pause_s(self, attempt: int, error: SFTPError | OSError) -> float | None:
        """Seconds until the next try; ``None``: there is none. A login that was refused is never tried again."""
        if isinstance(error, SFTPAuthError | SFTPHostKeyError):  # servers count them, and block who has too many
            return None
        if next_attempt(attempt, error) > self._tries or not self._hope:
            return None
        return _PAUSES_S[min(attempt, len(_PAUSES_S)) - 1] * random.uniform(0.5, 1.5)

    def see(self, result: FileResult) -> None:
        """Learn from how a file ended."""
        if result.error is None:
            self._hope = True
        elif isinstance(result.error, SFTPConnectError):
            self._hope = False


def next_attempt(attempt: int, error: SFTPError | OSError) -> int:
    """Return the number of the next try: a loss that made the pool reduce its load does not count as one."""
    return attempt if isinstance(error, SFTPConnectionLost) and error.eased else attempt + 1


class Batch:
    """The files of one caller that are under way. Used on one loop.

    Args:
        connections: Where the jobs run.
        limit: How many at once.
        patience: How often a file is tried whose connection is lost.
    """

    def __init__(self, connections: Connections, limit: int, patience: Patience | None = None) -> None:
        self._connections = connections
        self._limit = limit
        self._patience = patience or Patience(2)
        self._running: dict[Awaited[Transfer], None] = {}
        self._resting: set[asyncio.TimerHandle] = set()
        self._results: deque[FileResult] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._feeder: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # one for all callbacks, which never run inside one another

    @property
    def in_flight(self) -> int:
        """How many files are under way."""
        return len(self._running) + len(self._resting)

    async def results(
        self, orders: AsyncIterable[Order | FileResult] | Iterable[Order | FileResult]
    ) -> AsyncGenerator[FileResult, None]:
        """Run all orders and give out each result as it comes; what is a result already is passed through.

        Raises:
            Exception: What the source raised, after the results of what it had given until then.
        """
        self._feeder = asyncio.create_task(self._feed(orders))
        self._feeder.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._results:
                    yield self._results.popleft()
                    if not self._room.is_set():
                        self._make_room()
                if self._feeder.done() and not self.in_flight:
                    await self._feeder  # raises what the source raised
                    if not self._results:
                        return
                    continue
                self._news.clear()
                await self._news.wait()
        finally:
            await self._stop()

    async def _feed(self, orders: AsyncIterable[Order | FileResult] | Iterable[Order | FileResult]) -> None:
        async for order in each(orders):
            if isinstance(order, FileResult):
                self._give_out(order)
            else:
                self._begin(order, 1, False)
            while self.in_flight >= self._limit or len(self._results) >= 4 * self._limit:
                self._room.clear()
                await self._room.wait()

    def _begin(self, order: Order, attempt: int, lost: bool) -> None:
        try:
            job = order.make()
        except Exception as error:
            self._finish(FileResult(order.remote, order.local, error=error))
            return
        self._running[job] = None
        ended = partial(self._ended, job, order, attempt, lost)
        job.future.add_done_callback(ended, context=self._context)
        self._connections.submit(job)

    def _ended(
        self, job: Awaited[Transfer], order: Order, attempt: int, lost: bool, future: asyncio.Future[Transfer]
    ) -> None:
        self._running.pop(job, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._finish(FileResult(order.remote, order.local, transfer=future.result()))
        elif isinstance(error, SFTPConnectionLost | SFTPConnectError | OSError) and self._again(
            order, attempt, error, lost or isinstance(error, SFTPConnectionLost)
        ):
            pass
        else:
            assert isinstance(error, Exception)
            if lost and isinstance(error, SFTPFileNotFound) and isinstance(job, Download):
                error = gone_since(error)
            self._finish(FileResult(order.remote, order.local, error=error))

    def _again(self, order: Order, attempt: int, error: SFTPError | OSError, lost: bool) -> bool:
        if isinstance(error, OSError):
            if not out_of_descriptors(error):
                return False
            OPEN_FILES.shrink()
        pause = self._patience.pause_s(attempt, error)
        if pause is None:
            return False

        def begin() -> None:
            self._resting.discard(timer)
            self._begin(order, next_attempt(attempt, error), lost)

        timer = self._loop.call_later(pause, begin)
        self._resting.add(timer)
        return True

    def _finish(self, result: FileResult) -> None:
        self._patience.see(result)
        self._give_out(result)
        if not self._room.is_set():
            self._make_room()

    def _give_out(self, result: FileResult) -> None:
        self._results.append(result)
        if len(self._results) == 1:
            self._news.set()

    def _make_room(self) -> None:
        if self.in_flight < self._limit and len(self._results) < 4 * self._limit:
            self._room.set()

    async def _stop(self) -> None:
        for timer in self._resting:
            timer.cancel()
        jobs = list(self._running)
        for job in jobs:
            self._connections.withdraw(job)
            job.abandon()
        self._running.clear()
        feeder = self._feeder
        if feeder is not None and not feeder.done():
            feeder.cancel()
            await asyncio.wait([feeder])
        await self._connections.released(jobs, CLEAN_UP_S)


async def each(source: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T, None]:
    """Give out what a source of either kind gives."""
    if isinstance(source, AsyncIterable):
        iterator: Any = source
        try:
            async for value in iterator:
                yield value
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
    else:
        for value in source:
            yield value
