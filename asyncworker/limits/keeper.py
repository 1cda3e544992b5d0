"""Renews what this process holds in Redis, and ends what it could not renew in time: of all semaphores together.

Permits of one lease stand in the order in which they were last renewed, so that a look at the first tells whether there
is anything to do, however many there are.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from asyncworker.errors import LimitError
from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import RENEW

if TYPE_CHECKING:
    from asyncworker.limits.cluster_semaphore import ClusterSemaphore
    from asyncworker.limits.steps import Steps

__all__ = ["USED_PART", "Keeper"]

#: What part of a lease a permit is used for without having been renewed.
USED_PART = 0.9
#: How often a lease is renewed.
RENEWALS = 3
#: How often it is looked, in a lease.
LOOKS = 12
#: The most permits that one call renews.
MOST = 500


class Keeper:
    """The permits that are held, and the semaphores that are waited for, by lease. Used on one event loop.

    Args:
        steps: By which permits are renewed.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._held: dict[float, OrderedDict[Permit, ClusterSemaphore]] = {}
        self._asked: dict[float, OrderedDict[ClusterSemaphore, float]] = {}
        #: On their way to be renewed.
        self._renewing: set[Permit] = set()
        self._renewals: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, permit: Permit, semaphore: ClusterSemaphore) -> None:
        """Keep a permit from now on, which was granted or renewed just now."""
        held = self._held.setdefault(semaphore.lease_s, OrderedDict())
        held[permit] = semaphore
        held.move_to_end(permit)
        self._look_later()

    def drop(self, permit: Permit, lease_s: float) -> None:
        """Keep a permit no longer."""
        held = self._held.get(lease_s)
        if held is not None:
            held.pop(permit, None)

    def ask_for(self, semaphore: ClusterSemaphore) -> None:
        """Ask again a third of a lease later for those who wait, as long as anybody does."""
        asked = self._asked.setdefault(semaphore.lease_s, OrderedDict())
        asked.setdefault(semaphore, time.monotonic())
        self._look_later()

    def renew_all(self) -> None:
        """Renew all that is held, now: Redis may have lost it."""
        for lease_s, held in self._held.items():
            self._renew(list(held), lease_s)

    def close(self) -> None:
        """Renew nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._renewals:
            task.cancel()

    def _look_later(self) -> None:
        if self._timer is None:
            leases_s = [lease_s for group in (self._held, self._asked) for lease_s, its in group.items() if its]
            if leases_s:
                self._timer = asyncio.get_running_loop().call_later(min(leases_s) / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        for lease_s, held in self._held.items():
            self._look_at(held, lease_s, now_s)
        for lease_s, asked in self._asked.items():
            while asked and next(iter(asked.values())) <= now_s - lease_s / RENEWALS:
                semaphore, _ = asked.popitem(last=False)
                if semaphore.waiting:
                    semaphore.ask_again()
                    asked[semaphore] = now_s
        self._look_later()

    def _look_at(self, held: OrderedDict[Permit, ClusterSemaphore], lease_s: float, now_s: float) -> None:
        while held:
            permit, semaphore = next(iter(held.items()))
            if now_s < permit.valid_until_s:
                break
            del held[permit]
            semaphore.lose(permit)
        due = []
        for permit in held:
            if permit.valid_until_s - now_s > lease_s * (USED_PART - 1 / RENEWALS):
                break
            due.append(permit)
        self._renew(due, lease_s)

    def _renew(self, permits: list[Permit], lease_s: float) -> None:
        due = [permit for permit in permits if permit not in self._renewing]
        self._renewing.update(due)
        for first in range(0, len(due), MOST):
            task = asyncio.ensure_future(self._renew_some(due[first : first + MOST], lease_s))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew_some(self, permits: list[Permit], lease_s: float) -> None:
        held = self._held[lease_s]
        try:
            asked = [(permit, held[permit]) for permit in permits if permit in held]
            keys = [key for _, semaphore in asked for key in semaphore.held_keys]
            ids = [permit.id for permit, _ in asked]
            sent_at_s, kept = await self._steps.call(RENEW, keys, [int(lease_s * 1000), *ids])
        except LimitError:
            kept, sent_at_s = [0] * len(asked), 0.0  # each asks for itself
        finally:
            self._renewing.difference_update(permits)
        for (permit, semaphore), found in zip(asked, kept, strict=True):
            if held.get(permit) is not semaphore:
                continue
            if found:
                permit.valid_until_s = max(permit.valid_until_s, sent_at_s + USED_PART * lease_s)
                held.move_to_end(permit)
            else:
                semaphore.renew(permit)
