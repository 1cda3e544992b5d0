"""The seam for time: engines take a clock, tests give them one that they move by hand."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock", "first_of"]


class Clock(Protocol):
    """Time source of an engine."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""

    async def sleep(self, delay_s: float) -> None:
        """Wait for that many seconds."""


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(delay_s)


SYSTEM_CLOCK = SystemClock()


async def first_of(event: asyncio.Event, at_most_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
    """Wait for an event, or until the time has passed."""
    sleep = asyncio.ensure_future(clock.sleep(at_most_s))
    happened = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([sleep, happened], return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleep.cancel()
        happened.cancel()
