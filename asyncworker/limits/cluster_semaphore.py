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

from asyncworker.errors import LimitError
from asyncworker.limits.keeper import USED_PART
from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import keys_of

if TYPE_CHECKING:
    from asyncworker.limits.cluster import Cluster

__all__ = ["ClusterSemaphore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Permits = dict[str, Permit]

#: The most that one step asks for.
STEP_PERMITS = 500


class ClusterSemaphore:
    """Asks, waits and renews for the tasks of this process."""

    def __init__(self, cluster: Cluster, name: str, key: str, permits: int, lease_s: float) -> None:
        self._cluster = cluster
        self._name = name
        self._key = key
        self._permits = permits
        self.lease_s = lease_s
        self._keys = keys_of(name, key)
        self._waiting: dict[str, tuple[Permit, asyncio.Future[None]]] = {}
        self._held: dict[str, Permit] = {}
        #: What the next step tells: permits to give back, to renew, and to wait for.
        self._to_release: dict[str, None] = {}
        self._to_renew: dict[str, Permit] = {}
        self._to_wait: dict[str, Permit] = {}
        self._stepping: asyncio.Task[None] | None = None

    @property
    def held_keys(self) -> list[str]:
        """The keys in Redis of what is held."""
        return self._keys[1:3]

    @property
    def idle(self) -> bool:
        """Whether nothing is held, waited for, or on its way."""
        return not self._held and not self._waiting and self._stepping is None

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
        if self._held.pop(permit.id, None) is not None:
            self._cluster.keeper.drop(permit, self.lease_s)
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

    def ask_again(self) -> None:
        """See what was granted to those who wait, and keep their places in the queue."""
        self._to_wait.update((id, permit) for id, (permit, _) in self._waiting.items())
        self._step_soon()

    def renew(self, permit: Permit) -> None:
        """Ask for a permit that Redis does not know any more; it may have lost its data."""
        if self._held.get(permit.id) is permit:
            self._to_renew[permit.id] = permit
            self._step_soon()

    def lose(self, permit: Permit) -> None:
        """Take that a permit could not be renewed in time."""
        self._lose(permit.id)

    async def close(self) -> None:
        """Give back all that is held; those who wait are left to their own end."""
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
        try:
            while self._to_release or self._to_renew or self._to_wait:
                await self._step()
        except Exception as exc:
            self._fail(exc)
        finally:
            self._stepping = None
        if not self._held and not self._waiting:
            self._rest()

    def _fail(self, exc: Exception) -> None:
        """Let all who wait know that they do so in vain."""
        logger.error("limit %s: %s", self._name, exc, exc_info=not isinstance(exc, LimitError))
        self._to_release.clear()
        self._to_renew.clear()
        self._to_wait.clear()
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(LimitError(f"limit {self._name}: {exc}"))

    async def _step(self) -> None:
        # What is asked for again while the step is on its way is asked for again.
        release, renew, wait = _cut(self._to_release), _cut(self._to_renew), _cut(self._to_wait)
        asked = {
            "release": list(release),
            "renew": [[id, _described(permit)] for id, permit in renew.items()],
            "wait": [[id, _described(permit)] for id, permit in wait.items()],
        }
        await self._cluster.declare(
            self._name, {"kind": "semaphore", "permits": self._permits, "lease_s": self.lease_s}
        )
        arguments = [self._name, self._key, self._permits, int(self.lease_s * 1000), json.dumps(asked)]
        sent_at_s, granted, lost = await self._cluster.semaphore_step(self._keys, arguments)
        self._take(sent_at_s, granted, lost, renew, wait)

    def _take(
        self,
        sent_at_s: float,
        granted: list[str],
        lost: list[str],
        renewed: dict[str, Permit],
        asked: dict[str, Permit],
    ) -> None:
        valid_until_s = sent_at_s + USED_PART * self.lease_s
        for id in renewed.keys() - set(lost):
            renewed[id].valid_until_s = valid_until_s
            if id in self._held:
                self._cluster.keeper.hold(renewed[id], self)
        for id in granted:
            self._grant(id, valid_until_s)
        for id in lost:
            self._lose(id)
        for id in asked:
            if id in self._waiting:
                asked[id].queued()
        if self._waiting:
            self._cluster.keeper.ask_for(self)

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
            self._cluster.keeper.hold(permit, self)
            if not future.done():  # else its waiter was cancelled, and is about to give it back
                future.set_result(None)

    def _rest(self) -> None:
        if self._cluster.active.get((self._name, self._key)) is self:
            del self._cluster.active[self._name, self._key]

    def _lose(self, id: str) -> None:
        permit = self._held.pop(id, None)
        if permit is not None:
            self._cluster.keeper.drop(permit, self.lease_s)
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
