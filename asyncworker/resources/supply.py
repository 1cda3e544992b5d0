"""Open, check and close a pool's connections, each in a task of the pool's own, and count those that exist."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from asyncworker.clock import Clock
from asyncworker.resources.living import Living
from asyncworker.resources.slots import PoolOptions, Slot, Statistics

__all__ = ["Supply"]

logger = logging.getLogger(__name__)

C = TypeVar("C")


class Taker(Protocol[C]):
    """The pool, as its supply sees it."""

    def ready(self, slot: Slot[C]) -> None:
        """Take a connection that was opened, or that was checked and lives."""

    def could_not_open(self, exc: BaseException) -> None:
        """Take that a connection could not be opened."""

    def ended(self, slot: Slot[C]) -> None:
        """Take that a connection has ended by itself."""

    def changed(self) -> None:
        """Look again: a place may be free."""


class Supply(Generic[C]):
    """The connections of one pool, whoever has them.

    Attributes:
        used: Connections that exist: those being opened, those not yet closed, and all between.
        coming: Connections that will be ready in a moment: being opened or checked.
        opening: Those being opened alone.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], AsyncIterator[C]],
        check: Callable[[C], Coroutine[Any, Any, Any]] | None,
        options: PoolOptions,
        statistics: Statistics,
        clock: Clock,
        taker: Taker[C],
    ) -> None:
        self.used = 0
        self.coming = 0
        self.opening: set[asyncio.Task[Slot[C]]] = set()
        self._name = name
        self._open = open
        self._check = check
        self._options = options
        self._statistics = statistics
        self._clock = clock
        self._taker = taker
        self._tasks: set[asyncio.Task[Any]] = set()

    # What is counted is counted when a task is made, and in its callback: one that is cancelled before its first step
    # runs no line of its own.

    def open(self) -> None:
        """Begin to open a connection."""
        self.used += 1
        self.coming += 1
        task = self._spawn(self._opened(), self._has_opened)
        self.opening.add(task)

    def check(self, slot: Slot[C]) -> None:
        """Begin to find out whether a connection lives."""
        self.coming += 1
        self._spawn(self._checked(slot), lambda task: self._has_checked(slot, task))

    def end(self, slot: Slot[C]) -> None:
        """Begin to close a connection; its place is free when it is closed."""
        if not slot.ended:
            slot.ended = True
            self._spawn(slot.living.close(self._options.close_timeout_s), self._has_closed)

    def cancel_openings(self) -> None:
        """Open no further what is being opened."""
        for task in self.opening:
            task.cancel()

    async def settle(self) -> None:
        """Wait until nothing is being opened, checked or closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(
        self, coroutine: Coroutine[Any, Any, Any], done: Callable[[asyncio.Task[Any]], None]
    ) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"pool-{self._name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(done)
        return task

    # -- opening -------------------------------------------------------------------------------------------------------

    async def _opened(self) -> Slot[C]:
        slot: Slot[C] = Slot(self._clock.monotonic())

        async def begin() -> AsyncIterator[C]:
            return self._open()

        # Not in the context of whoever happens to need it first.
        slot.living = Living(
            f"a connection of pool {self._name}",
            begin,
            on_end=lambda exc: self._has_ended(slot, exc),
            context=contextvars.Context(),
        )
        async with asyncio.timeout(self._options.connect_timeout_s):
            await slot.living.start()
        return slot

    def _has_opened(self, task: asyncio.Task[Slot[C]]) -> None:
        self.opening.discard(task)
        self.coming -= 1
        if task.cancelled():
            self.used -= 1
            self._taker.changed()
        elif (exc := task.exception()) is not None:
            self.used -= 1
            self._statistics.failed += 1
            self._taker.could_not_open(exc)
        elif not task.result().ended:  # in the same moment
            self._statistics.opened += 1
            task.result().fresh = True
            self._taker.ready(task.result())

    # -- checking ------------------------------------------------------------------------------------------------------

    async def _checked(self, slot: Slot[C]) -> None:
        assert self._check is not None
        async with asyncio.timeout(self._options.connect_timeout_s):
            await self._check(slot.living.value)

    def _has_checked(self, slot: Slot[C], task: asyncio.Task[None]) -> None:
        self.coming -= 1
        if not task.cancelled() and task.exception() is None:
            if not slot.ended:
                slot.idle_since_s, slot.fresh = self._clock.monotonic(), True
                self._taker.ready(slot)
            return
        if not slot.ended:
            self._statistics.dropped += 1
            logger.info("pool %s: a connection has died while it was idle: %r", self._name, _reason(task))
            self.end(slot)
        self._taker.changed()

    # -- closing -------------------------------------------------------------------------------------------------------

    def _has_closed(self, task: asyncio.Task[None]) -> None:
        self.used -= 1
        self._statistics.closed += 1
        if _reason(task) is not None:
            logger.warning("pool %s: a connection could not be closed: %r", self._name, _reason(task))
        self._taker.changed()

    def _has_ended(self, slot: Slot[C], exc: BaseException | None) -> None:
        if slot.ended:
            return
        slot.ended = True
        self.used -= 1
        self._statistics.dropped += 1
        self._statistics.closed += 1
        self._taker.ended(slot)
        if exc is not None:  # else the loop is ending
            logger.info("pool %s: a connection has ended: %r", self._name, exc)
            self._taker.changed()


def _reason(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
