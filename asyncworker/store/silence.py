"""How long somebody has shown no sign of life, as seen by who may have been away as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asyncworker.clock import SYSTEM_CLOCK, Clock

__all__ = ["Silence"]


class Silence:
    """Measures how long a heartbeat has not changed. Heartbeats are only compared: clocks need not agree.

    Time counts only while it was looked for signs: a process that is frozen for a minute finds the same sign
    afterwards, but so it would if the other one was frozen with it, as the same process is.

    Args:
        every_s: How often it is looked.
        clock: Time.
    """

    __slots__ = ("_clock", "_looked_at_s", "_seconds", "_sign", "every_s")

    def __init__(self, every_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.every_s = every_s
        self._clock = clock
        self._sign: Any = None
        self.begin()

    @classmethod
    def of_lease(cls, lease_s: float, clock: Clock = SYSTEM_CLOCK) -> Silence:
        """Measure the silence of a lease's holder, and look often enough for that."""
        return cls(min(1.0, lease_s / 5), clock)

    @property
    def pause_s(self) -> float:
        """How long one who waits for it sleeps between two looks, however seldom others look."""
        return min(1.0, self.every_s)

    def begin(self) -> None:
        """Count from now on."""
        self._seconds = 0.0
        self._looked_at_s = self._clock.monotonic()

    def lasts_s(self, sign: Any) -> float:
        """Return how long that sign has been the last one, now that it was looked."""
        since_s = self._looked_at_s
        if sign != self._sign:
            self._sign = sign
            self.begin()
            return 0.0
        self._looked_at_s = self._clock.monotonic()
        self._seconds += min(self._looked_at_s - since_s, 2 * self.every_s)
        return self._seconds

    async def outlasts(self, lease_s: float, sign: Any, wait_writable: Callable[[], Awaitable[None]]) -> bool:
        """Tell whether that sign has been the last one for a lease, in which it could have left another.

        Args:
            lease_s: How long.
            sign: The last one.
            wait_writable: Returns once somebody may write to the store.
        """
        if self.lasts_s(sign) < lease_s:
            return False
        asked_at_s = self._clock.monotonic()
        await wait_writable()
        if self._clock.monotonic() - asked_at_s < lease_s / 3:
            return True
        # Nobody could write, and it neither: now it may.
        self.begin()
        return False
