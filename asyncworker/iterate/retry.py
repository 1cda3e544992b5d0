"""Which failures are tried again, and when: items wait here, for that or for a permit, without holding a puller."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

from tenacity import RetryCallState, wait_random_exponential

from asyncworker.clock import Clock
from asyncworker.errors import ArgumentError
from asyncworker.iterate.exception_names import ExceptionNames
from asyncworker.iterate.item import Item, RetryItem
from asyncworker.iterate.options import IterateOptions

__all__ = ["RetryPolicy", "Waiting", "Work"]

Work = tuple[Item, dict[str, Any], bytes | None]
"""An item, the keyword arguments it is called with, and the digest of its key."""


class RetryPolicy:
    """Answers whether an item that failed is tried again, and after how long.

    One whose arguments are wrong is not: they are the same the next time.
    """

    def __init__(self, options: IterateOptions) -> None:
        self._retries = options.retries
        self._retry_on = ExceptionNames(options.retry_on or ("builtins:Exception",))
        self._fail_on = ExceptionNames(options.fail_on)
        # The window doubles from [b, 2b]; wait_exponential_jitter would say the same, but renamed its argument.
        self._wait = wait_random_exponential(
            multiplier=2 * options.backoff_s,
            min=min(options.backoff_s, options.backoff_max_s),
            max=options.backoff_max_s,
        )
        self._state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]

    def delay_s(self, attempt: int, exc: BaseException) -> float | None:
        """Seconds until the next attempt; ``None``: the item has failed for good."""
        if attempt > self._retries:
            return None
        if isinstance(exc, RetryItem):
            if exc.delay_s is not None:
                return exc.delay_s
        elif isinstance(exc, ArgumentError) or exc in self._fail_on or exc not in self._retry_on:
            return None
        self._state.attempt_number = attempt
        return self._wait(self._state)


class Waiting:
    """Items whose next attempt is not due yet, and the one timer that watches over them.

    Attributes:
        count: How many there are.
    """

    def __init__(self, clock: Clock, due: Callable[[Work], None]) -> None:
        self.count = 0
        self._closed = False
        self._clock = clock
        self._due = due
        self._heap: list[tuple[float, int, Work]] = []
        self._timer: asyncio.Task[None] | None = None
        self._parked: set[asyncio.Task[None]] = set()

    def push(self, work: Work, delay_s: float) -> None:
        """Let an item wait; `due` is called with it after so many seconds."""
        item = work[0]
        entry = (self._clock.monotonic() + delay_s, item.index, work)
        heapq.heappush(self._heap, entry)
        self.count += 1
        if self._heap[0] is entry:
            # Due before all others: the timer that sleeps would wake too late.
            if self._timer is not None:
                self._timer.cancel()
            self._watch_on()

    def park(self, work: Work, until: Coroutine[Any, Any, None]) -> None:
        """Let an item wait; `due` is called with it when a coroutine, which does not raise, has come to its end."""

        def ended(task: asyncio.Task[None]) -> None:
            self._parked.discard(task)
            self.count -= 1
            if not self._closed:
                # Also where somebody has cancelled it: an item that waits is never lost.
                self._due(work)

        task = asyncio.create_task(until, name="iterate-parked")
        self._parked.add(task)
        self.count += 1
        task.add_done_callback(ended)

    def cancel(self) -> None:
        """Let nothing come back any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._parked:
            task.cancel()

    def _watch_on(self) -> None:
        self._timer = asyncio.create_task(self._watch(), name="iterate-retries")
        self._timer.add_done_callback(self._watched)

    def _watched(self, timer: asyncio.Task[None]) -> None:
        if timer is self._timer and self._heap and not self._closed:
            self._watch_on()  # somebody has cancelled it

    async def _watch(self) -> None:
        while self._heap:
            remaining_s = self._heap[0][0] - self._clock.monotonic()
            if remaining_s > 0:
                await self._clock.sleep(remaining_s)
                continue
            work = heapq.heappop(self._heap)[2]
            self.count -= 1
            self._due(work)
