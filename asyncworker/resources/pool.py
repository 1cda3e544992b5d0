"""A pool of connections of any kind: bounded, checked, safe to cancel anywhere, closed cleanly, used again.

Connections are opened, checked and closed by tasks of the pool's own. Who wants one takes it from the idle ones, or
waits in line for the next that is ready; so whoever is cancelled has nothing half-done in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import LoopError, PoolClosed, PoolConnectError, PoolTimeout
from asyncworker.resources.slots import Slot, Statistics, Waiter, holders_of, make_pool_options
from asyncworker.resources.supply import Supply

__all__ = ["Pool", "is_transport_fault", "pools"]

logger = logging.getLogger(__name__)

C = TypeVar("C")

#: How long to stay with what there is after a connection could not be made.
RETREAT_S = 1.0

#: The pools of this process, for its metrics.
pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def is_transport_fault(exc: BaseException) -> bool:
    """Tell whether a connection that raised this, or whose use was cut short by it, is not to be used again.

    True for what the operating system or a stream raises, and for a cancellation: an answer may still be on its way.
    Everything else is taken for an error of the application, which leaves the connection as it was.
    """
    return isinstance(exc, OSError | EOFError) or not isinstance(exc, Exception)


class Pool(Generic[C]):
    """Connections to one server, each lent to one user at a time, the one used last first.

    ::

        async def connection():
            async with connect("db.example.com") as transport:
                async with transport.channel() as channel:
                    yield channel

        pool = Pool(connection, name="db", size=10)
        async with pool.connection() as channel:
            ...

    A connection is an async generator, like a resource: what it has opened before it fails or is cancelled is closed by
    its own ``async with`` and ``finally``. Used on one event loop.

    Args:
        open: Opens a connection, yields it, and closes it.
        name: For errors, the log and metrics.
        check: Raises where a connection has died; awaited before one is lent that was idle for a while.
        is_fault: Whether an exception that left the block means that the connection is not to be used again.
        clock: Time, for ages.
        **options: The fields of :class:`asyncworker.resources.PoolOptions`.

    Raises:
        SettingsError: An option is unknown or its value not allowed.
    """

    def __init__(
        self,
        open: Callable[[], AsyncIterator[C]],
        *,
        name: str = "",
        check: Callable[[C], Coroutine[Any, Any, Any]] | None = None,
        is_fault: Callable[[BaseException], bool] = is_transport_fault,
        clock: Clock = SYSTEM_CLOCK,
        **options: Any,
    ) -> None:
        self.name = name or str(getattr(open, "__qualname__", open))
        self.options = make_pool_options(self.name, options)
        self._statistics = Statistics(size=self.options.size)
        self._make_supply = partial(Supply[C], self.name, open, check, self.options, self._statistics, clock, self)
        self._has_check = check is not None
        self._is_fault = is_fault
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin_anew()
        pools.add(self)

    def _begin_anew(self) -> None:
        self._supply: Supply[C] = self._make_supply()
        #: The one that was given back last is at the end.
        self._idle: list[Slot[C]] = []
        self._lent: dict[Slot[C], None] = {}
        self._waiting: OrderedDict[Waiter[C], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._retreat_ends_s = self._clock.monotonic()
        self._closer: asyncio.Task[None] | None = None
        self._none_lent = asyncio.Event()

    def _check_loop(self) -> None:
        """See that this is the pool's event loop. That of a loop that was closed begins anew: its connections are gone.

        Raises:
            LoopError: It belongs to another one, which is open.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise LoopError(f"pool {self.name} belongs to another event loop: make one for each")
            if self._loop is not None:
                self._begin_anew()
            self._loop = loop

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {len(self._lent)} of {self.options.size} lent, {len(self._waiting)} wait>"

    # -- using it ------------------------------------------------------------------------------------------------------

    def connection(self, *, holder: str = "", timeout_s: float | None = -1) -> Lending[C]:
        """Lend a connection for the length of an ``async with`` block.

        Args:
            holder: Who has it, for whoever waits in vain; without one, the name of the asyncio task.
            timeout_s: How long to wait, in place of ``acquire_timeout_s``.

        Raises:
            PoolTimeout: None came free in time.
            PoolConnectError: None lives, and none could be opened.
            PoolClosed: The pool is being closed.
            LoopError: It is used on another event loop.
        """
        return Lending(self, holder, self.options.acquire_timeout_s if timeout_s == -1 else timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Close every connection. What waits is refused; then the pool is as new, and opens again when it is used.

        Args:
            grace_s: How long to wait for connections that are lent. Those that are still lent are closed under their
                users' hands.
        """
        self._check_loop()
        if self._closer is None:
            self._closer = asyncio.ensure_future(self._close_all(grace_s))
        # Whoever is cancelled here does not leave it half closed.
        await asyncio.shield(self._closer)

    def holders(self) -> list[str]:
        """Return who has a connection and for how long, the longest first."""
        return holders_of(self._lent, self._clock.monotonic())

    def statistics(self) -> Statistics:
        """Return how things stand now, and the sums since the pool was made; the same object at each call."""
        now = self._statistics
        now.idle, now.lent = len(self._idle), len(self._lent)
        now.waiting, now.opening = len(self._waiting), len(self._supply.opening)
        return now

    def tend(self) -> None:
        """Close what is too old or idle for too long, and open what is missing; done by itself every so often."""
        options, now_s = self.options, self._clock.monotonic()
        kept: list[Slot[C]] = []
        for slot in reversed(self._idle):
            too_long = options.idle_s is not None and now_s - slot.idle_since_s >= options.idle_s
            if self._is_too_old(slot) or (too_long and len(kept) >= options.min_idle):
                self._supply.end(slot)
            else:
                kept.append(slot)
        self._idle = kept[::-1]
        self.changed()

    # -- lending -------------------------------------------------------------------------------------------------------

    async def acquire(self, holder: str, timeout_s: float | None) -> Slot[C]:
        """Take a connection; :meth:`connection` is how to."""
        self._check_loop()
        if self._closer is not None:
            raise PoolClosed(f"pool {self.name} is being closed")
        self._statistics.acquired += 1
        self._watch()
        if not self._waiting and self._idle and self._is_fresh(self._idle[-1]):
            return self._lend(self._idle.pop(), holder)
        loop = asyncio.get_running_loop()
        waiter: Waiter[C] = Waiter(holder, loop.create_future(), self._clock.monotonic())
        self._waiting[waiter] = None
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, waiter, timeout_s)
        self.changed()
        try:
            return await waiter.future
        except BaseException:
            if waiter.has_got():
                # It was given in the moment in which its user was cancelled, who has not touched it.
                self.give_back(waiter.future.result(), None)
            raise
        finally:
            self._waiting.pop(waiter, None)
            self._statistics.waited_s += self._clock.monotonic() - waiter.since_s
            if timer is not None:
                timer.cancel()

    def give_back(self, slot: Slot[C], exc: BaseException | None) -> None:
        """Give a connection back, with what left the block that used it."""
        self._lent.pop(slot, None)
        if not self._lent:
            self._none_lent.set()
        if slot.ended:  # closed under its user's hands, or by itself
            return
        faulty = exc is not None and self._judge(exc)
        self._statistics.dropped += faulty
        if faulty or self._closer is not None or self._is_too_old(slot):
            self._supply.end(slot)
        else:
            slot.idle_since_s = self._clock.monotonic()
            self.ready(slot)

    def _lend(self, slot: Slot[C], holder: str) -> Slot[C]:
        slot.holder, slot.lent_at_s, slot.fresh = holder, self._clock.monotonic(), False
        self._lent[slot] = None
        return slot

    def _judge(self, exc: BaseException) -> bool:
        try:
            return bool(self._is_fault(exc))
        except Exception:
            logger.exception("pool %s: is_fault failed; the connection is not used again", self.name)
            return True

    def _expire(self, waiter: Waiter[C], timeout_s: float) -> None:
        if waiter.future.done():
            return
        self._statistics.timeouts += 1
        names = self.holders()
        held = f"; held by {', '.join(names)}" if names else ""
        waiter.future.set_exception(
            PoolTimeout(
                f"pool {self.name}: none of its {self.options.size} connections came free within {timeout_s:g} s, "
                f"{len(self._waiting)} wait{held}"
            )
        )

    # -- what the supply tells -----------------------------------------------------------------------------------------

    def ready(self, slot: Slot[C]) -> None:
        """Take a connection that may be lent."""
        if self._closer is not None:
            self._supply.end(slot)
        else:
            self._idle.append(slot)
            self.changed()
            slot.fresh = False

    def could_not_open(self, exc: BaseException) -> None:
        """Take that a connection could not be opened; those who wait are told when no other can come."""
        told = f"pool {self.name}: no connection could be opened: {type(exc).__name__}: {exc}"
        self._retreat_ends_s = self._clock.monotonic() + RETREAT_S
        asyncio.get_running_loop().call_later(RETREAT_S * 1.01, self.changed)
        if self._supply.used:
            logger.warning("%s; %d others have to do", told, self._supply.used)
            return
        for waiter in self._waiting:
            if not waiter.future.done():
                error = PoolConnectError(told)
                error.__cause__ = exc
                waiter.future.set_exception(error)

    def ended(self, slot: Slot[C]) -> None:
        """Take that a connection has ended by itself."""
        if slot in self._idle:
            self._idle.remove(slot)

    def changed(self) -> None:
        """Hand out what is ready, and see to it that enough more will be."""
        if self._closer is not None:
            return
        while self._waiting:
            waiter = next(iter(self._waiting))
            if waiter.future.done():
                del self._waiting[waiter]
            elif not self._idle:
                break
            elif self._is_too_old(self._idle[-1]):
                self._supply.end(self._idle.pop())
            elif self._is_fresh(self._idle[-1]):
                del self._waiting[waiter]
                waiter.future.set_result(self._lend(self._idle.pop(), waiter.holder))
            elif self._supply.coming < len(self._waiting):
                self._supply.check(self._idle.pop())
            else:
                break
        self._open_missing()

    def _open_missing(self) -> None:
        retreating = self._clock.monotonic() < self._retreat_ends_s
        wanted = len(self._waiting)
        if not retreating:
            wanted += max(0, self.options.min_idle - len(self._idle))
        while self._supply.coming < wanted and self._supply.used < self.options.size:
            if retreating and self._supply.used:
                return  # those that live have to do
            self._supply.open()

    def _is_too_old(self, slot: Slot[C]) -> bool:
        most_s = self.options.max_age_s
        return not slot.fresh and most_s is not None and self._clock.monotonic() - slot.made_at_s >= most_s

    def _is_fresh(self, slot: Slot[C]) -> bool:
        """Return whether a connection may be lent without a check."""
        if self._is_too_old(slot):
            return False
        return (
            slot.fresh
            or not self._has_check
            or self._clock.monotonic() - slot.idle_since_s < self.options.check_after_s
        )

    # -- the pool's own affairs ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        limits = [limit for limit in (self.options.idle_s, self.options.max_age_s) if limit is not None]
        if self._timer is None and (limits or self.options.min_idle):
            every_s = max(0.5, min([*limits, 60.0]) / 4)
            self._timer = asyncio.get_running_loop().call_later(every_s, self._tend_again)

    def _tend_again(self) -> None:
        self._timer = None
        self.tend()
        if self._supply.used or self.options.min_idle:
            self._watch()

    async def _close_all(self, grace_s: float) -> None:
        try:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for waiter in self._waiting:
                if not waiter.future.done():
                    waiter.future.set_exception(PoolClosed(f"pool {self.name} was closed"))
            self._supply.cancel_openings()
            while self._idle:
                self._supply.end(self._idle.pop())
            if self._lent and grace_s > 0:
                self._none_lent.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._none_lent.wait(), grace_s)
            for slot in self._lent:
                self._supply.end(slot)
            self._lent.clear()
            await self._supply.settle()
        finally:
            self._closer = None


class Lending(Generic[C]):
    """One use of a connection: an async context manager."""

    __slots__ = ("_holder", "_pool", "_slot", "_timeout_s")

    def __init__(self, pool: Pool[C], holder: str, timeout_s: float | None) -> None:
        self._pool = pool
        self._holder = holder
        self._timeout_s = timeout_s
        self._slot: Slot[C]

    async def __aenter__(self) -> C:
        holder = self._holder
        if not holder:
            task = asyncio.current_task()
            holder = task.get_name() if task is not None else "?"
        self._slot = await self._pool.acquire(holder, self._timeout_s)
        return self._slot.living.value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.give_back(self._slot, error)
