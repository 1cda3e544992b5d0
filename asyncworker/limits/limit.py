"""Declared limits: a name, a number, and one set of permits per key."""

from __future__ import annotations

import asyncio
import math
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import partial
from weakref import WeakKeyDictionary

from asyncworker.errors import LimitError, LimitTimeout, SettingsError
from asyncworker.limits.cluster import Cluster, shared_cluster
from asyncworker.limits.local import LocalRate, LocalSemaphore
from asyncworker.limits.permit import Permit, Place

__all__ = ["Limit", "RateLimit", "Semaphore", "check_amount", "find_limit", "limits", "number_text"]

#: What Redis has to say whether a permit is free.
ANSWER_S = 1.0

#: Every limit of this process, by name.
limits: dict[str, Limit] = {}

#: Names stand in keys of Redis, between colons.
_NAME = re.compile(r"[A-Za-z0-9_.-]+")

#: Places of keys that nobody uses are forgotten when there are more than these.
_PLACES_KEPT = 1000


class Limit(ABC):
    """A number that is not passed, under a name by which tasks, fan-outs and the command line know it.

    Attributes:
        name: The name.
        amount: The number: permits, or uses in ``per_s`` seconds.
        cluster: Whether it counts for all processes on one Redis, or for this one.
    """

    kind: str

    def __init__(self, name: str, amount: float, *, cluster: bool) -> None:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"limit {name!r}: a name has letters, digits, dots, dashes and underscores only")
        self.name = name
        self.check(amount)
        self.amount = amount
        self.cluster = cluster
        #: By event loop, as all that waits belongs to one.
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, _Places] = WeakKeyDictionary()
        self._declared = self.declaration()
        earlier = limits.get(name)
        if earlier is not None:
            if earlier._declared != self._declared:
                raise SettingsError(f"limit {name!r} is declared twice: {earlier._declared} and {self._declared}")
            # A module that is loaded twice: what is held counts for both.
            self._places = earlier._places
        limits[name] = self
        self.waits = 0
        """How many had to wait."""
        self.waited_s = 0.0
        """For how long, all together."""
        self.acquired = 0
        """How many got a permit."""

    def __repr__(self) -> str:
        return f"<{self.declaration()}>"

    @abstractmethod
    def declaration(self) -> str:
        """Say how it was declared."""

    @abstractmethod
    def _new_place(self) -> Place: ...

    @abstractmethod
    def _place_in(self, cluster: Cluster, key: str) -> Place: ...

    async def acquire(self, key: str = "", *, timeout_s: float | None = None, holder: str = "") -> Permit:
        """Wait for a permit, in order of arrival; ``async with limit(...)`` also gives it back.

        Safe to cancel at any await; who is cancelled leaves nothing behind.

        Args:
            key: Each key has permits of its own.
            timeout_s: Seconds to wait; ``None``: for ever; 0: take what is free. Of the cluster, Redis has a second to
                say what is free, however short the time is.
            holder: Who has it, as others are told; without it the Celery task, or the name of the asyncio task.

        Raises:
            LimitTimeout: No permit came free in time; names who holds them.
            LimitError: A cluster-wide limit, and no Redis for it; or a key that cannot be sent there.
        """
        self._check_key(key)
        place = self._known_place(key)
        permit = Permit(place, self.name, key, holder) if place is not None else None
        if permit is None or place is None or not place.try_acquire(permit):
            permit = await self._wait(permit, key, timeout_s, holder)
        self.acquired += 1
        return permit

    async def _wait(self, permit: Permit | None, key: str, timeout_s: float | None, holder: str) -> Permit:
        loop = asyncio.get_running_loop()
        since_s, place = loop.time(), None
        self.waits += 1
        # Of the cluster, what is free is given out however short the time is: Redis has to be asked first.
        first_s = timeout_s if timeout_s is None or not self.cluster else max(timeout_s, ANSWER_S)
        try:
            async with asyncio.timeout(first_s) as timeout:
                if permit is None:
                    place = self._keep(key, self._place_in(await shared_cluster(), key))
                    permit = Permit(place, self.name, key, holder)
                if timeout_s is not None and self.cluster:
                    permit.on_queued = partial(timeout.reschedule, since_s + timeout_s)
                await permit.place.acquire(permit)
                return permit
        except TimeoutError:
            if not timeout.expired():
                raise
            assert timeout_s is not None
            raise LimitTimeout(self._told(key, None if permit is None else permit.place, timeout_s)) from None
        finally:
            self.waited_s += loop.time() - since_s
            if permit is not None:
                permit.on_queued = None

    def try_acquire(self, key: str = "", *, holder: str = "") -> Permit | None:
        """Take a permit where that needs no wait at all; ``None`` elsewhere, and always for one of the cluster."""
        self._check_key(key)
        place = self._known_place(key)
        if place is None:
            return None
        permit = Permit(place, self.name, key, holder)
        return permit if place.try_acquire(permit) else None

    def change(self, amount: float) -> None:
        """Change the number in this process; what is held stays held. A limit of the cluster is changed there.

        Raises:
            SettingsError: It is not a number that a limit can have.
        """
        self.check(amount)
        self.amount = amount
        for places in self._places.values():
            for place in places.values():
                if isinstance(place, LocalSemaphore | LocalRate):
                    place.changed()

    def check(self, amount: float) -> None:
        """Refuse a number that the limit cannot have.

        Raises:
            SettingsError: Names it.
        """
        check_amount(self.name, self.kind, amount)

    def _check_key(self, key: str) -> None:
        try:
            key.encode()
        except (UnicodeEncodeError, AttributeError):
            raise LimitError(
                f"limit {self.name}: the key {key!r:.200} is not text that can be sent and shown"
            ) from None

    def standing(self) -> dict[str, Place]:
        """Return the places that are in use on any loop of this process, by key."""
        return {
            key: place
            for places in list(self._places.values())
            for key, place in list(places.items())
            if place.waiting or place.holders()
        }

    def _known_place(self, key: str) -> Place | None:
        places = self._places.get(asyncio.get_running_loop())
        place = places.get(key) if places is not None else None
        return place if place is not None or self.cluster else self._keep(key, self._new_place())

    def _keep(self, key: str, place: Place) -> Place:
        places = self._places.setdefault(asyncio.get_running_loop(), _Places())
        return places.keep(key, place)

    def _told(self, key: str, place: Place | None, timeout_s: float) -> str:
        where = f" for key {key!r}" if key else ""
        if place is None:
            return f"limit {self.name}{where}: no permit within {timeout_s:g} s; Redis has not answered"
        holders = ", ".join(str(permit) for permit in place.holders()[:10]) or "others"
        return (
            f"limit {self.name}{where}: no permit within {timeout_s:g} s; {place.waiting} more wait; "
            f"{'in this process ' if self.cluster else ''}held by {holders}"
        )


class _Places(OrderedDict[str, Place]):
    """The places of one limit, by key. Those that are idle are forgotten, where there are many."""

    def keep(self, key: str, place: Place) -> Place:
        """Add one; returns the one that is there already, if any."""
        if len(self) >= _PLACES_KEPT:
            # Two looks for one new key: so there are never many more than twice those in use, and no key waits for all.
            for _ in range(2):
                oldest = next(iter(self))
                if self[oldest].idle:
                    del self[oldest]
                else:
                    self.move_to_end(oldest)
        return self.setdefault(key, place)


def check_amount(name: str, kind: str, amount: float) -> None:
    """Refuse a number that a limit of that kind cannot have.

    Raises:
        SettingsError: Names limit and number.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < math.inf:
        raise SettingsError(f"limit {name!r}: {amount!r} is not allowed; expected a number above 0")
    if kind == "semaphore" and amount != int(amount):
        raise SettingsError(f"limit {name!r}: {amount!r} is not allowed; expected a whole number of permits")


class Semaphore(Limit):
    """At most so many at once.

    Args:
        name: Under which it is used; one declaration a name.
        permits: How many at once, for each key.
        cluster: Count all processes that share one Redis, instead of this one: see ``ASYNCWORKER_LIMITS_URL``.
        lease_s: How long a permit of the cluster outlives a process that dies. It is renewed while it is held; one that
            could not be renewed for so long is lost, which cancels the block that holds it with a ``LimitLost``.

    Raises:
        SettingsError: A wrong name or number, or a second, other declaration of the name.
    """

    kind = "semaphore"

    def __init__(self, name: str, permits: int, *, cluster: bool = False, lease_s: float = 15.0) -> None:
        if not 1 <= lease_s < math.inf:
            raise SettingsError(f"limit {name!r}: lease_s is {lease_s!r}: expected at least 1")
        self.lease_s = lease_s
        super().__init__(name, permits, cluster=cluster)

    def declaration(self) -> str:
        """Say how it was declared."""
        cluster = f", cluster=True, lease_s={number_text(self.lease_s)}" if self.cluster else ""
        return f"Semaphore({self.name!r}, {number_text(self.amount)}{cluster})"

    def _new_place(self) -> Place:
        return LocalSemaphore(lambda: int(self.amount))

    def _place_in(self, cluster: Cluster, key: str) -> Place:
        return cluster.semaphore(self.name, key, int(self.amount), self.lease_s)


class RateLimit(Limit):
    """At most so often.

    Args:
        name: Under which it is used; one declaration a name.
        amount: How many uses in ``per_s`` seconds, for each key, evenly spaced.
        per_s: The seconds.
        burst: How many may come at once after a pause.
        cluster: Count all processes that share one Redis, instead of this one.

    Raises:
        SettingsError: A wrong name or number, or a second, other declaration of the name.
    """

    kind = "rate"

    def __init__(self, name: str, amount: float, *, per_s: float = 1.0, burst: int = 1, cluster: bool = False) -> None:
        if not 0 < per_s < math.inf or not isinstance(burst, int) or isinstance(burst, bool) or burst < 1:
            raise SettingsError(
                f"limit {name!r}: per_s is {per_s!r} and burst {burst!r}: expected more than 0, a whole number from 1"
            )
        self.per_s = per_s
        self.burst = burst
        super().__init__(name, amount, cluster=cluster)

    def declaration(self) -> str:
        """Say how it was declared."""
        cluster = ", cluster=True" if self.cluster else ""
        numbers = f"{number_text(self.amount)}, per_s={number_text(self.per_s)}, burst={self.burst}"
        return f"RateLimit({self.name!r}, {numbers}{cluster})"

    def _new_place(self) -> Place:
        return LocalRate(lambda: self.per_s / self.amount, self.burst)

    def _place_in(self, cluster: Cluster, key: str) -> Place:
        return cluster.rate(self.name, key, self.amount, self.per_s, self.burst)


def number_text(number: float) -> str:
    """Return a limit's number as it is written: whole, where it is."""
    return repr(int(number) if number == int(number) else number)


def find_limit(name: str) -> Limit:
    """Return the limit of that name.

    Raises:
        SettingsError: None was declared in this process: names those that were.
    """
    found = limits.get(name)
    if found is None:
        known = ", ".join(sorted(limits)) or "none"
        raise SettingsError(f"no limit {name!r} is declared in this process; known: {known}")
    return found
