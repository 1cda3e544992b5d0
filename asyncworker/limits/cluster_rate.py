"""One key of a cluster-wide rate, as one process sees it.

Tokens are taken from Redis for those who wait, a moment ahead of when they are due: a process that dies takes no more
than that moment's tokens with it, and those who wait in another one are not far behind in the line.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from asyncworker.clock import first_of
from asyncworker.limits.local import Line
from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import AMOUNTS, key_of

if TYPE_CHECKING:
    from asyncworker.limits.cluster import Cluster

__all__ = ["ClusterRate"]

#: How far ahead tokens are taken.
AHEAD_S = 0.25


class ClusterRate:
    """Takes tokens for the tasks of this process."""

    def __init__(self, cluster: Cluster, name: str, key: str, amount: float, per_s: float, burst: int) -> None:
        self._cluster = cluster
        self.name = name
        self._amount = amount
        self._per_s = per_s
        self._burst = burst
        self._keys = [AMOUNTS, key_of("last", name, key)]
        self._line = Line()
        self._asking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return len(self._line)

    @property
    def idle(self) -> bool:
        """Whether nobody waits; what was taken is known to Redis."""
        return not self._line

    def look_again(self) -> None:
        """Ask at once: the number may have changed."""
        self._changed.set()

    def holders(self) -> list[Permit]:
        """Nobody holds a token."""
        return []

    def try_acquire(self, permit: Permit) -> bool:
        """Redis has to be asked."""
        return False

    def release(self, permit: Permit) -> None:
        """Nothing: what was done was done."""

    async def acquire(self, permit: Permit) -> None:
        """Wait for a token; in order of arrival within the process, and nearly so in the cluster."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        await self._line.wait(permit, _let_go)

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # the first one is not in line yet
        self._cluster.rates.add(self)
        try:
            while self._line:
                self._changed.clear()
                self._cluster.declare(
                    self.name, {"kind": "rate", "amount": self._amount, "per_s": self._per_s, "burst": self._burst}
                )
                taken, first_s, interval_s, again_s = await self._cluster.rate_step(
                    self._keys,
                    [self.name, self._amount, self._per_s, self._burst, len(self._line), int(AHEAD_S * 1e6)],
                )
                await self._hand_out(taken, first_s, interval_s)
                if not taken and self._line:
                    self._line.tell_queued()
                    # Not at the same moment as all others who were told the same.
                    await first_of(self._changed, max(0.0, again_s - AHEAD_S * random.random()))
        except Exception as exc:
            self._line.fail(exc)
        finally:
            self._cluster.rates.discard(self)

    async def _hand_out(self, taken: int, first_s: float, interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + first_s
        for _ in range(taken):
            delay_s = due_s - loop.time()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            self._line.serve_first()
            due_s += interval_s


def _let_go(permit: Permit) -> None:
    """A token that nobody wants any more is not given back: that would be late, and then too soon for another."""
