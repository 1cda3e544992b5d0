"""Read a run's source: one row at a time, and only when a puller is free to run it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from functools import partial
from time import monotonic

from asyncworker.errors import RunChanged, SourceError
from asyncworker.iterate.checkpoint import Recorder
from asyncworker.iterate.item import Item
from asyncworker.iterate.keys import check_key, digest_of
from asyncworker.iterate.outcome import error_text
from asyncworker.iterate.retry import Work
from asyncworker.iterate.source import Row, Source
from asyncworker.iterate.turns import Turns

__all__ = ["Intake", "is_being_closed"]

Refuse = Callable[[Item, Row, Exception], None]


def is_being_closed() -> bool:
    """Return whether a GeneratorExit comes from the garbage collector: then no task is running."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return True


class Intake:
    """The reading end of a run's source.

    Attributes:
        pulled: How many rows were read; at the source's end, with those that only earlier attempts of the run have met.
        exhausted: There are no more.
        error: What the source raised.
        readable: A sync source that has more: `next` may be called.
    """

    def __init__(self, source: Source, key: str | None, recorder: Recorder, turns: Turns, refuse: Refuse) -> None:
        names = [column.name for column in source.columns]
        if key is not None and source.kind != "rows":
            check_key(key, names)
        self.pulled = 0
        self.exhausted = False
        self.error: SourceError | RunChanged | None = None
        self.readable = False
        self._source = source
        self._first_index = source.first_index
        self._run_id = recorder.run_id
        self._finished = recorder.finished if recorder.has_past or key is not None else None
        self._key = key
        self._recorder = recorder
        self._compared = source.can_change and key is None
        self._turns = turns
        self._refuse = refuse
        self._rows: Iterator[Row] | None = None
        self._next: Callable[[], Row] | None = None
        self._stopped = False
        self._feeder: asyncio.Task[None] | None = None

    def open(self, may_pull: Callable[[], bool], give: Callable[[Work], None]) -> None:
        """Begin. An async source is read by a task of its own, which hands out a row to each idle puller.

        Args:
            may_pull: Whether more may be in hand than is.
            give: Takes what was read.
        """
        opened = self._source.open()
        if isinstance(opened, AsyncIterator):
            self._feeder = asyncio.create_task(self._feed(opened, may_pull, give), name="iterate-source")
        else:
            self._rows = opened
            # Code of the caller's does not run in the context of whichever item was here last.
            self._next = partial(copy_context().run, next, opened) if self._source.one_shot else opened.__next__
            self.readable = True

    def next(self) -> Work | None:
        """Read a sync source once; ``None`` where that gave nothing to run."""
        assert self._next is not None
        try:
            row = self._next()
        except StopIteration:
            self._end(None)
            return None
        except BaseException as exc:
            self._end(exc)
            return None
        return self._admit(row)

    def stop(self) -> asyncio.Task[None] | None:
        """Read no more, and close a sync source; what closes an async one is returned, to be waited for."""
        self.readable = False
        self._stopped = True
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()
        if self._feeder is None or self._feeder.done():
            return None
        self._feeder.cancel()
        return self._feeder

    async def _feed(self, rows: AsyncIterator[Row], may_pull: Callable[[], bool], give: Callable[[Work], None]) -> None:
        # One task from beginning to end: a cancel scope within the generator must be left in the task that entered it.
        turns = self._turns
        try:
            while not self.exhausted:
                while not turns.demand or not may_pull():
                    await turns.wait_for_demand()
                if monotonic() >= turns.slice_ends:
                    await turns.give_way()
                work = self._admit(await anext(rows))
                if work is not None:
                    give(work)
        except StopAsyncIteration:
            self._end(None)
        except BaseException as exc:
            if self._stopped or (isinstance(exc, GeneratorExit) and is_being_closed()):
                raise
            # By a source that has its own task cancelled, too: nobody would read on.
            self._end(exc)
        finally:
            close = getattr(rows, "aclose", None)
            if close is not None:
                await close()

    def _end(self, exc: BaseException | None) -> None:
        self.readable = False
        self.exhausted = True
        if exc is None:
            try:
                self.pulled += self._recorder.source_ended(self.pulled)
            except RunChanged as changed:
                exc = changed
        if isinstance(exc, SourceError | RunChanged):
            self.error = exc
        elif exc is not None:
            self.error = SourceError(f"{self._source.name} raised after {self.pulled} items: {error_text(exc)}")
            self.error.__cause__ = exc
        self._turns.wake_all()

    def _admit(self, row: Row) -> Work | None:
        """Give a row its index and key; ``None`` where it is not to be run."""
        index = self._first_index + self.pulled
        key = digest = None
        if self._key is not None:
            try:
                key = row[self._key]
                digest = digest_of(key)
            except (LookupError, TypeError, ValueError, RecursionError) as exc:
                self._end(SourceError(f"item {index} has no usable key {self._key!r}: {error_text(exc)}"))
                return None
            if not self._recorder.wanted(digest):
                return None
        elif self._compared:
            try:
                self._recorder.compare(index, row)
            except RunChanged as exc:
                self._end(exc)
                return None
        self.pulled += 1
        item = Item(index, key, 1, self._run_id)
        if self._finished is None:
            return item, row, digest
        try:
            if self._finished(index, digest):
                return None
        except SourceError as exc:
            self._refuse(item, row, exc)
            return None
        return item, row, digest
