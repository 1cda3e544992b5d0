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
from typing import TYPE_CHECKING, Any, TypeVar

from asyncworker.errors import LimitError
from asyncworker.limits.keeper import USED_PART
from asyncworker.limits.permit import Permit
from asyncworker.limits.scripts import SEMAPHORE, keys_of

if TYPE_CHECKING:
    from asyncworker.limits.cluster import Cluster

__all__ = ["ClusterSemaphore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Permits = dict[str, Permit]

#: The most that one step asks for.
STEP_PERMITS = 500


class ClusterSemaphore:
    """Asks, waits and renews for the tasks of this process. A step of its own: one at a time is on its way."""

    script = SEMAPHORE

    def __init__(self, cluster: Cluster, name: str, key: str, permits: int, lease_s: float) -> None:
        self._cluster = cluster
        self._name = name
        self._key = key
        self.permits = permits
        self.lease_s = lease_s
        self.keys = keys_of(name, key)
        self._waiting: dict[str, tuple[Permit, asyncio.Future[None]]] = {}
        self._held: _Permits = {}
        #: What the next step tells: permits to give back, to renew, and to wait for.
        self._to_release: dict[str, None] = {}
        self._to_renew: _Permits = {}
        self._to_wait: _Permits = {}
        #: What the one that is on its way renews and waits for.
        self._sent: tuple[_Permits, _Permits] = {}, {}
        self._stepping = False

    @property
    def held_keys(self) -> list[str]:
        """The keys in Redis of what is held."""
        return self.keys[1:3]

    @property
    def idle(self) -> bool:
        """Whether nothing is held, waited for, or on its way."""
        return not self._held and not self._waiting and not self._stepping

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
            self._cluster.keeper.leave(permit, self.lease_s)
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

    def ask_again(self, permit: Permit) -> None:
        """See whether it was granted, and keep its place in the queue."""
        if permit.id in self._waiting:
            self._to_wait[permit.id] = permit
            self._step_soon()

    def renew(self, permit: Permit) -> None:
        """Ask for a permit that Redis does not know any more; it may have lost its data."""
        if self._held.get(permit.id) is permit:
            self._to_renew[permit.id] = permit
            self._step_soon()

    def lose(self, permit: Permit) -> None:
        """Take that a permit could not be renewed in time."""
        if self._held.pop(permit.id, None) is not None:
            self._cluster.keeper.drop(permit, self.lease_s)
            self._to_renew.pop(permit.id, None)
            permit.lose()

    def give_all_back(self) -> None:
        """Give back all that is held; those who wait are cancelled."""
        self._to_release.update(dict.fromkeys([*self._held, *self._waiting]))
        self._held.clear()
        for _, future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        self._step_soon()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _step_soon(self) -> None:
        if not self._stepping:
            self._stepping = True
            self._cluster.active[self._name, self._key] = self
            self._cluster.declare(self._name, {"kind": "semaphore", "permits": self.permits, "lease_s": self.lease_s})
            self._cluster.steps.submit(self)

    def _step_on(self) -> None:
        if self._to_release or self._to_renew or self._to_wait:
            self._step_soon()
        elif self.idle and self._cluster.active.get((self._name, self._key)) is self:
            del self._cluster.active[self._name, self._key]

    def write(self) -> tuple[list[str], list[Any]]:
        """Return the keys and the arguments of the next step."""
        # What is asked for again while the step is on its way is asked for again.
        release, renew, wait = _cut(self._to_release), _cut(self._to_renew), _cut(self._to_wait)
        self._sent = renew, wait
        asked = {
            "release": list(release),
            "renew": [[id, _described(permit)] for id, permit in renew.items()],
            "wait": [[id, _described(permit)] for id, permit in wait.items()],
        }
        lease_ms = int(self.lease_s * 1000)
        return self.keys, [self._name, self._key, self.permits, lease_ms, self._cluster.process, json.dumps(asked)]

    def answered(self, sent_at_s: float, reply: Any) -> None:
        """Take what was granted and what was lost; then send what has gathered."""
        granted, lost = ([id.decode() for id in ids] for ids in reply)
        renewed, asked = self._sent
        self._sent = {}, {}
        self._take(sent_at_s + USED_PART * self.lease_s, granted, lost, renewed, asked)
        self._stepping = False
        self._step_on()

    def refused(self, error: LimitError) -> None:
        """Fail all who wait, but those that a later step asks for: this one says nothing of them."""
        logger.error("limit %s: %s", self._name, error)
        self._stepping = False
        self._sent = {}, {}
        for id in [id for id in self._waiting if id not in self._to_wait]:
            permit, future = self._waiting.pop(id)
            self._cluster.keeper.leave(permit, self.lease_s)
            if not future.done():
                future.set_exception(LimitError(f"limit {self._name}: {error}"))
        self._step_on()

    def _take(
        self, valid_until_s: float, granted: list[str], lost: list[str], renewed: _Permits, asked: _Permits
    ) -> None:
        for id in renewed.keys() - set(lost):
            if id in self._held:
                self._cluster.keeper.hold(renewed[id], self, valid_until_s)
        for id in granted:
            self._grant(id, valid_until_s)
        for id in lost:
            permit = self._held.get(id)
            if permit is not None:
                logger.error("limit %s: another has the place of %s, whose permit Redis had lost", self._name, permit)
                self.lose(permit)
        for id in asked:
            if id in self._waiting:
                self._cluster.keeper.wait(asked[id], self)
                asked[id].queued()

    def _grant(self, id: str, valid_until_s: float) -> None:
        if id not in self._waiting:
            if id not in self._held:  # its waiter has gone meanwhile
                self._to_release[id] = None
        elif valid_until_s <= time.monotonic():
            # This process was stopped while the answer was on its way.
            self._to_wait[id] = self._waiting[id][0]
        else:
            permit, future = self._waiting.pop(id)
            permit.since_s = time.time()
            self._held[id] = permit
            self._cluster.keeper.leave(permit, self.lease_s)
            self._cluster.keeper.hold(permit, self, valid_until_s)
            if not future.done():  # else its waiter was cancelled, and is about to give it back
                future.set_result(None)


def _cut(asked: dict[str, T]) -> dict[str, T]:
    """Take the first ones out."""
    taken = dict(itertools.islice(asked.items(), STEP_PERMITS))
    for id in taken:
        del asked[id]
    return taken


def _described(permit: Permit) -> str:
    return json.dumps({"holder": permit.holder, "since": round(permit.since_s or time.time(), 3)})
