"""The limits of one process: nothing but queues, and a timer for the rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from asyncworker.clock import SYSTEM_CLOCK, Clock, first_of
from asyncworker.limits.permit import Permit

__all__ = ["Line", "LocalRate", "LocalSemaphore"]


class Line:
    """Those who wait, in order of arrival; any of them may leave at any time."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Permit, asyncio.Future[None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, permit: Permit, give_back: Callable[[Permit], None]) -> None:
        """Wait until :meth:`serve_first` has chosen this one.

        Args:
            permit: What is waited for.
            give_back: Called where it was chosen in the moment in which its waiter was cancelled.
        """
        future = self._waiting[permit] = asyncio.get_running_loop().create_future()
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                give_back(permit)
            raise
        finally:
            self._waiting.pop(permit, None)

    def tell_queued(self) -> None:
        """Let all know that they have to wait."""
        for permit in self._waiting:
            permit.queued()

    def fail(self, error: Exception) -> None:
        """End the wait of all by an error."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def serve_first(self) -> Permit | None:
        """Choose the first who still waits; ``None`` where nobody does."""
        while self._waiting:
            permit, future = self._waiting.popitem(last=False)
            if not future.done():
                future.set_result(None)
                return permit
        return None


class LocalSemaphore:
    """At most so many at once, of one key.

    Args:
        permits: Tells how many; may change.
    """

    def __init__(self, permits: Callable[[], int]) -> None:
        self._permits = permits
        self._held: dict[Permit, None] = {}
        self._line = Line()

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""
        return len(self._line)

    def try_acquire(self, permit: Permit) -> bool:
        """Take it at once, or not."""
        if self._line or len(self._held) >= self._permits():
            return False
        self._hold(permit)
        return True

    async def acquire(self, permit: Permit) -> None:
        """Wait for it, in order of arrival."""
        if not self.try_acquire(permit):
            await self._line.wait(permit, self.release)

    def release(self, permit: Permit) -> None:
        """Give it back; more than once is once."""
        if permit in self._held:
            del self._held[permit]
            self.changed()

    def holders(self) -> list[Permit]:
        """Return the permits that are held."""
        return list(self._held)

    @property
    def idle(self) -> bool:
        """Whether nobody holds a permit, or waits for one."""
        return not self._held and not self._line

    def changed(self) -> None:
        """Hand out what is free."""
        while len(self._held) < self._permits():
            served = self._line.serve_first()
            if served is None:
                return
            self._hold(served)

    def _hold(self, permit: Permit) -> None:
        permit.since_s = time.time()
        self._held[permit] = None


class LocalRate:
    """At most so often, of one key. Evenly spaced, but for a burst after a pause.

    The n-th token has a time, one interval after that of the one before; a pause lets the next ones have the same, as
    many as the burst allows. (This is the generic cell rate algorithm: no more than ``burst + t / interval`` in any
    time ``t``.)

    Args:
        interval_s: Tells the seconds from one to the next; may change.
        burst: How many may come at once after a pause.
        clock: Time.
    """

    def __init__(self, interval_s: Callable[[], float], burst: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._clock = clock
        #: When the last token that was taken was due; the next one is an interval later, as long as that is then.
        self._last_s = -math.inf
        self._line = Line()
        self._watcher: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._line)

    def try_acquire(self, permit: Permit) -> bool:
        """Take a token at once, or not."""
        return not self._line and self._take(permit)

    async def acquire(self, permit: Permit) -> None:
        """Wait for a token, in order of arrival."""
        if self.try_acquire(permit):
            return
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.ensure_future(self._watch())
        await self._line.wait(permit, self._put_back)

    def release(self, permit: Permit) -> None:
        """Nothing: what was done was done."""

    def holders(self) -> list[Permit]:
        """Nobody holds a token."""
        return []

    def changed(self) -> None:
        """Count with the new interval, from the last token on: those who wait as well."""
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether nobody waits, and a new one would hand out no token sooner."""
        return not self._line and self._last_s + self._burst * self._interval_s() <= self._clock.monotonic()

    def _take(self, permit: Permit) -> bool:
        now_s, interval_s = self._clock.monotonic(), self._interval_s()
        due_s = max(self._last_s + interval_s, now_s - (self._burst - 1) * interval_s)
        if due_s > now_s:
            return False
        self._last_s = due_s
        permit.since_s = time.time()
        return True

    def _put_back(self, permit: Permit) -> None:
        self._last_s -= self._interval_s()

    async def _watch(self) -> None:
        await asyncio.sleep(0)  # the first one is not in line yet
        while self._line:
            self._changed.clear()
            delay_s = self._last_s + self._interval_s() - self._clock.monotonic()
            if delay_s > 0:
                await first_of(self._changed, delay_s, self._clock)
            token = Permit(self, "", "", "-")
            while self._line and self._take(token):
                if self._line.serve_first() is None:
                    self._put_back(token)
