"""Renews what this process holds and waits for in Redis, and ends what it could not renew in time: of all semaphores.

Permits of one lease stand in the order in which they end, so that a look at the first tells whether there is anything
to do, however many there are. However many are due, they are renewed by a few calls at a time.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asyncworker.errors import LimitError
from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import AMOUNTS, KEEP_PLACE, RENEW

if TYPE_CHECKING:
    from asyncworker.limits.cluster_semaphore import ClusterSemaphore
    from asyncworker.limits.steps import Steps

__all__ = ["USED_PART", "Keeper"]

logger = logging.getLogger(__name__)

#: What part of a lease a permit is used for without having been renewed.
USED_PART = 0.9
#: How often a lease is renewed.
RENEWALS = 3
#: How often it is looked, in a lease.
LOOKS = 12
#: The most permits that one call renews, and the most calls that are made together.
CALL_PERMITS = 250
CALLS = 8
#: The most that are lost in one pass of the loop, which cancels their blocks.
LOST_TOGETHER = 250

#: With the time when Redis was last asked.
_Waiting = OrderedDict[Permit, tuple["ClusterSemaphore", float]]


class _ByEnd:
    """Permits in the order in which they end. Those of one call end together, so there are few ends."""

    def __init__(self) -> None:
        self._groups: dict[float, dict[Permit, ClusterSemaphore]] = {}
        self._ends_s: list[float] = []

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __contains__(self, permit: Permit) -> bool:
        return permit in self._groups.get(permit.valid_until_s, ())

    def put(self, permit: Permit, semaphore: ClusterSemaphore) -> None:
        group = self._groups.get(permit.valid_until_s)
        if group is None:
            group = self._groups[permit.valid_until_s] = {}
            bisect.insort(self._ends_s, permit.valid_until_s)
        group[permit] = semaphore

    def pop(self, permit: Permit) -> None:
        end_s = permit.valid_until_s
        group = self._groups.get(end_s)
        if group is not None and group.pop(permit, None) is not None and not group:
            del self._groups[end_s]
            del self._ends_s[bisect.bisect_left(self._ends_s, end_s)]

    def until(self, end_s: float) -> Iterator[tuple[Permit, ClusterSemaphore]]:
        """Return those that end by then; not to be changed meanwhile."""
        ends_s = itertools.takewhile(lambda each_s: each_s <= end_s, self._ends_s)
        return itertools.chain.from_iterable(self._groups[each_s].items() for each_s in ends_s)

    def leases_s(self) -> set[float]:
        """Return the leases of the first ones that end together."""
        return {semaphore.lease_s for semaphore in self._groups[self._ends_s[0]].values()} if self else set()


class Keeper:
    """The permits that are held and waited for, by lease. Used on one event loop.

    Args:
        steps: By which permits are renewed.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._held: dict[float, _ByEnd] = {}
        #: Held, and unknown to Redis at the last renewal: their semaphores ask for them.
        self._unknown = _ByEnd()
        self._waiting: dict[float, _Waiting] = {}
        #: What was renewed, or asked for, before that is due.
        self._renew_before_s = self._ask_before_s = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self._losing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, permit: Permit, semaphore: ClusterSemaphore, until_s: float) -> None:
        """Keep a permit, which was granted or renewed just now, until then, by the monotonic clock."""
        self.drop(permit, semaphore.lease_s)
        permit.valid_until_s = max(permit.valid_until_s, until_s)
        self._held.setdefault(semaphore.lease_s, _ByEnd()).put(permit, semaphore)
        self._look_later()

    def drop(self, permit: Permit, lease_s: float) -> None:
        """Keep a permit no longer."""
        self._unknown.pop(permit)
        held = self._held.get(lease_s)
        if held is not None:
            held.pop(permit)

    def wait(self, permit: Permit, semaphore: ClusterSemaphore) -> None:
        """Keep the place in the queue of a permit that Redis was asked for just now."""
        waiting = self._waiting.setdefault(semaphore.lease_s, OrderedDict())
        waiting[permit] = semaphore, time.monotonic()
        waiting.move_to_end(permit)
        self._look_later()

    def leave(self, permit: Permit, lease_s: float) -> None:
        """Keep its place in the queue no longer."""
        waiting = self._waiting.get(lease_s)
        if waiting is not None:
            waiting.pop(permit, None)

    def renew_all(self) -> None:
        """Renew all that is held and waited for, now: Redis may have lost it."""
        self._renew_before_s = time.monotonic()
        self.ask_all()

    def ask_all(self) -> None:
        """Ask for all that is waited for, now: there may be more of it."""
        self._ask_before_s = time.monotonic()
        self._renew_soon()

    def close(self) -> None:
        """Renew nothing more."""
        for each in (self._timer, self._renewing, self._losing):
            if each is not None:
                each.cancel()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        if self._timer is None:
            leases_s = [lease_s for group in (self._held, self._waiting) for lease_s, its in group.items() if its]
            leases_s += self._unknown.leases_s()
            if leases_s:
                self._timer = asyncio.get_running_loop().call_later(min(leases_s) / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._losing is None and self._ended(1):
            self._losing = asyncio.ensure_future(self._lose())
        self._renew_soon()
        self._look_later()

    def _ended(self, count: int) -> list[tuple[Permit, ClusterSemaphore]]:
        """Return the first permits that have ended by now."""
        now_s = time.monotonic()
        orders = [self._unknown, *self._held.values()]
        return list(itertools.islice(itertools.chain.from_iterable(order.until(now_s) for order in orders), count))

    async def _lose(self) -> None:
        count, named = 0, ""
        try:
            while ended := self._ended(LOST_TOGETHER):
                for permit, semaphore in ended:
                    self.drop(permit, semaphore.lease_s)
                    semaphore.lose(permit)
                    count += 1
                    named = named or f"{permit.limit}, of {permit}"
                await asyncio.sleep(0)
        finally:
            self._losing = None
            logger.error("limits: %d permits could not be renewed in time and are lost, among them of %s", count, named)

    # -- renewing ------------------------------------------------------------------------------------------------------

    def _renew_soon(self) -> None:
        if self._renewing is None and (any(self._held.values()) or any(self._waiting.values())):
            self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        try:
            while calls := self._next_calls():
                await asyncio.gather(*calls)
        finally:
            self._renewing = None

    def _next_calls(self) -> list[Any]:
        """Return some calls for each lease: the short ones cannot wait for all of the long ones."""
        calls = [call for lease_s in self._held for call in self._next_held(lease_s)]
        if len(calls) < CALLS:  # else there is much to do: what is held comes first
            calls += [call for lease_s in self._waiting for call in self._next_waiting(lease_s)]
        return calls

    def _next_held(self, lease_s: float) -> list[Any]:
        held = self._held.get(lease_s)
        if held is None:
            return []
        before_s = max(time.monotonic() - lease_s / RENEWALS, self._renew_before_s)
        # When it ends tells when it was last renewed.
        due = list(itertools.islice(held.until(before_s + USED_PART * lease_s), CALLS * CALL_PERMITS))
        return [self._renew_some(part, lease_s) for part in _parts(due)]

    def _next_waiting(self, lease_s: float) -> list[Any]:
        waiting = self._waiting.get(lease_s, OrderedDict())
        before_s = max(time.monotonic() - lease_s / RENEWALS, self._ask_before_s)
        first = itertools.islice(waiting.items(), CALLS * CALL_PERMITS)
        due = [(permit, semaphore) for permit, (semaphore, at_s) in first if at_s <= before_s]
        for permit, semaphore in due:
            self.wait(permit, semaphore)
        return [self._keep_places(part, lease_s) for part in _parts(due)]

    async def _renew_some(self, due: Sequence[tuple[Permit, ClusterSemaphore]], lease_s: float) -> None:
        held = self._held[lease_s]
        keys = [key for _, semaphore in due for key in semaphore.held_keys]
        ids = [permit.id for permit, _ in due]
        try:
            sent_at_s, kept = await self._steps.call(RENEW, keys, [int(lease_s * 1000), *ids], urgent=True)
        except LimitError:
            kept, sent_at_s = [0] * len(due), 0.0  # each asks for itself
        for (permit, semaphore), found in zip(due, kept, strict=True):
            if permit not in held:
                continue
            if found:
                self.hold(permit, semaphore, sent_at_s + USED_PART * lease_s)
            else:
                held.pop(permit)
                self._unknown.put(permit, semaphore)
                semaphore.renew(permit)

    async def _keep_places(self, due: Sequence[tuple[Permit, ClusterSemaphore]], lease_s: float) -> None:
        keys = [AMOUNTS, *(key for _, semaphore in due for key in semaphore.keys[1:])]
        asked = [part for permit, semaphore in due for part in (permit.limit, semaphore.permits, permit.id)]
        try:
            _, kept = await self._steps.call(KEEP_PLACE, keys, [int(lease_s * 1000), *asked], urgent=True)
        except LimitError:
            kept = [0] * len(due)
        for (permit, semaphore), found in zip(due, kept, strict=True):
            if not found:
                semaphore.ask_again(permit)


def _parts(due: Sequence[tuple[Permit, ClusterSemaphore]]) -> list[Sequence[tuple[Permit, ClusterSemaphore]]]:
    return [due[first : first + CALL_PERMITS] for first in range(0, len(due), CALL_PERMITS)]
