"""A limit of bytes a second over all connections of a pool: a token bucket that may run into debt.

What is sent is paid when it leaves, what a READ asks for likewise; when the answer comes, what it asked for is given
back, and what has arrived is paid. So a READ that brings less than it asked for costs what it has brought, and a
listing what it is long.
"""

from __future__ import annotations

from asyncworker.clock import SYSTEM_CLOCK, Clock

__all__ = ["Bandwidth"]

#: What may leave at once after a rest, and how long a session that was held waits at least: twenty timers a second.
_BURST_S = 0.25
_WAIT_S = 0.05
#: A single READ or WRITE: so many of them a second, so that the rate is even.
_REQUESTS_PER_S = 8
_REQUEST_BYTES_MIN = 1024
#: Room in the bucket for what is around the bytes of a request: a path, say.
_HEAD_BYTES = 8 * 1024


class Bandwidth:
    """The bucket. Used on one loop.

    Args:
        bytes_per_s: How much goes over the wire in both directions together, before encryption.
        clock: What time it is.

    Attributes:
        request_bytes: How large a single READ or WRITE may be.
    """

    def __init__(self, bytes_per_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.request_bytes = max(_REQUEST_BYTES_MIN, int(bytes_per_s / _REQUESTS_PER_S))
        self._rate = bytes_per_s
        self._clock = clock
        self._most = max(bytes_per_s * _BURST_S, self.request_bytes + _HEAD_BYTES)
        self._tokens = self._most
        self._filled_at = clock.monotonic()

    def room(self) -> int:
        """How many bytes may leave now; negative where there is a debt."""
        now = self._clock.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return int(self._tokens)

    def spend(self, size: int) -> None:
        """Pay for bytes."""
        self._tokens -= size

    def give_back(self, size: int) -> None:
        """Take back what was paid too much."""
        self._tokens = min(self._most, self._tokens + size)

    def wait_s(self) -> float:
        """How long until there is room for any request, and no less than is worth a timer."""
        missing = self.request_bytes + _HEAD_BYTES - self.room()
        return max(_WAIT_S, missing / self._rate)
