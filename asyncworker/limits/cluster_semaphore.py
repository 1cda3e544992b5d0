"""One key of a cluster-wide semaphore, as one process sees it.

All that its tasks ask for is sent in one step; while that is on its way, the next one gathers. Here, a permit counts
from when the step that granted or renewed it was sent: so it ends here before it ends in Redis, by any clock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import keys_of

if TYPE_CHECKING:
    from asyncworker.limits.cluster import Cluster

__all__ = ["ClusterSemaphore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What part of a lease a permit is used for without having been renewed.
USED_PART = 0.9
#: How often a lease is renewed.
RENEWALS = 3
#: After a step that Redis did not answer; doubles.
PAUSE_S = 0.1
PAUSE_MAX_S = 2.0
#: The most that one step asks for.
STEP_PERMITS = 500


class ClusterSemaphore:
    """Asks, waits and renews for the tasks of this process."""

    def __init__(self, cluster: Cluster, name: str, key: str, permits: int, lease_s: float) -> None:
        self._cluster = cluster
        self._name = name
        self._key = key
        self._permits = permits
        self._lease_s = lease_s
        self._keys = keys_of(name, key)
        self._waiting: dict[str, tuple[Permit, asyncio.Future[None]]] = {}
        self._held: dict[str, Permit] = {}
        #: What the next step tells: permits to give back, to renew, and to wait for.
        self._to_release: dict[str, None] = {}
        self._to_renew: dict[str, Permit] = {}
        self._to_wait: dict[str, Permit] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._told = False

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return len(self._waiting)

    def holders(self) -> list[Permit]:
        """Return the permits that this process holds."""
        return list(self._held.values())

    def try_acquire(self, permit: Permit) -> bool:
        """Redis has to be asked."""
        return False

    async def acquire(self, permit: Permit) -> None:
        """Wait for it, in order of arrival at Redis."""
        permit.id = self._cluster.new_id()
        future = asyncio.get_running_loop().create_future()
        self._waiting[permit.id] = (permit, future)
        self._to_wait[permit.id] = permit
        self._step_soon()
        try:
            await future
        except BaseException:
            # Granted already or not: Redis forgets it.
            self._waiting.pop(permit.id, None)
            self.release(permit)
            raise

    def release(self, permit: Permit) -> None:
        """Give it back; Redis knows a moment later."""
        self._held.pop(permit.id, None)
        self._to_wait.pop(permit.id, None)
        self._to_renew.pop(permit.id, None)
        self._to_release[permit.id] = None
        self._step_soon()

    def confirm(self, id: str) -> None:
        """Take that another process' step has granted a permit; from when it counts is known once it is renewed."""
        waiter = self._waiting.get(id)
        if waiter is not None:
            self._to_wait[id] = waiter[0]
            self._step_soon()
        elif id not in self._held:
            self._to_release[id] = None
            self._step_soon()

    def look_again(self) -> None:
        """Renew what is held, and see what was granted to those who wait."""
        self._to_renew.update(self._held)
        self._to_wait.update((id, permit) for id, (permit, _) in self._waiting.items())
        self._step_soon()

    async def close(self) -> None:
        """Give back all that is held; those who wait are left to their own end."""
        for timer in (self._renewal, self._expiry):
            if timer is not None:
                timer.cancel()
        self._to_release.update(dict.fromkeys([*self._held, *self._waiting]))
        self._held.clear()
        for _, future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        self._step_soon()
        stepping = self._stepping
        if stepping is not None:
            await asyncio.wait([stepping], timeout=1.0)
            stepping.cancel()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _step_soon(self) -> None:
        if self._stepping is None:
            self._cluster.active[self._name, self._key] = self
            self._stepping = asyncio.ensure_future(self._step_until_done())

    async def _step_until_done(self) -> None:
        pause_s = PAUSE_S
        try:
            while self._to_release or self._to_renew or self._to_wait:
                try:
                    await self._step()
                except (RedisError, OSError) as exc:
                    if not self._told:
                        self._told = True
                        logger.warning("limit %s: Redis does not answer, permits wait for it: %r", self._name, exc)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
                else:
                    pause_s, self._told = PAUSE_S, False
        finally:
            self._stepping = None
        if not self._held and not self._waiting:
            self._rest()

    async def _step(self) -> None:
        # What is asked for again while the step is on its way is asked for again.
        release, renew, wait = _cut(self._to_release), _cut(self._to_renew), _cut(self._to_wait)
        asked = {
            "release": list(release),
            "renew": [[id, _described(permit)] for id, permit in renew.items()],
            "wait": [[id, _described(permit)] for id, permit in wait.items()],
        }
        sent_at_s = time.monotonic()
        try:
            declaration = {"kind": "semaphore", "permits": self._permits, "lease_s": self._lease_s}
            await self._cluster.declare(self._name, declaration)
            arguments = [self._name, self._key, self._permits, int(self._lease_s * 1000), json.dumps(asked)]
            granted, lost = await self._cluster.semaphore_step(self._keys, arguments)
        except BaseException:
            # Whether it was done is not known; each part of it may be done twice.
            self._to_release.update(release)
            self._to_renew.update((id, permit) for id, permit in renew.items() if id in self._held)
            self._to_wait.update((id, permit) for id, permit in wait.items() if id in self._waiting)
            raise
        self._take(sent_at_s, granted, lost, renew)

    def _take(self, sent_at_s: float, granted: list[str], lost: list[str], renewed: dict[str, Permit]) -> None:
        valid_until_s = sent_at_s + USED_PART * self._lease_s
        for id in renewed.keys() - set(lost):
            renewed[id].valid_until_s = valid_until_s
        for id in granted:
            self._grant(id, valid_until_s)
        for id in lost:
            self._lose(id)
        self._set_timers()

    def _grant(self, id: str, valid_until_s: float) -> None:
        if id not in self._waiting:
            if id not in self._held:  # its waiter has gone meanwhile
                self._to_release[id] = None
        elif valid_until_s <= time.monotonic():
            # This process was stopped while the answer was on its way.
            self._to_wait[id] = self._waiting[id][0]
        else:
            permit, future = self._waiting.pop(id)
            permit.valid_until_s, permit.since_s = valid_until_s, time.time()
            self._held[id] = permit
            if not future.done():  # else its waiter was cancelled, and is about to give it back
                future.set_result(None)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _set_timers(self) -> None:
        loop = asyncio.get_running_loop()
        if self._renewal is None and (self._held or self._waiting):
            self._renewal = loop.call_later(self._lease_s / RENEWALS, self._renew)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._held:
            first_s = min(permit.valid_until_s for permit in self._held.values())
            self._expiry = loop.call_later(max(0.0, first_s - time.monotonic()), self._expire)

    def _rest(self) -> None:
        for timer in (self._renewal, self._expiry):
            if timer is not None:
                timer.cancel()
        self._renewal = self._expiry = None
        if self._cluster.active.get((self._name, self._key)) is self:
            del self._cluster.active[self._name, self._key]

    def _renew(self) -> None:
        self._renewal = None
        if self._held or self._waiting:
            self._renewal = asyncio.get_running_loop().call_later(self._lease_s / RENEWALS, self._renew)
            self.look_again()

    def _expire(self) -> None:
        self._expiry = None
        for id in [id for id, permit in self._held.items() if not permit.held]:
            self._lose(id)
        self._set_timers()

    def _lose(self, id: str) -> None:
        permit = self._held.pop(id, None)
        if permit is not None:
            self._to_renew.pop(id, None)
            logger.error("limit %s: the permit of %s is lost", self._name, permit)
            permit.lose()


def _cut(asked: dict[str, T]) -> dict[str, T]:
    """Take the first ones out."""
    taken = dict(itertools.islice(asked.items(), STEP_PERMITS))
    for id in taken:
        del asked[id]
    return taken


def _described(permit: Permit) -> str:
    return json.dumps({"holder": permit.holder, "since": round(permit.since_s or time.time(), 3)})
