"""A permit: one use of a limit, from its being asked for to its being given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from asyncworker.loop import current_job

__all__ = ["Permit", "Place"]


class Place(Protocol):
    """Permits of one key of one limit."""

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""

    def try_acquire(self, permit: Permit) -> bool:
        """Take it at once where that needs no wait, and nobody waits."""

    async def acquire(self, permit: Permit) -> None:
        """Wait for it, in order of arrival. Whoever is cancelled has nothing."""

    def release(self, permit: Permit) -> None:
        """Give it back."""

    def holders(self) -> list[Permit]:
        """Return those that are held by this process."""

    @property
    def idle(self) -> bool:
        """Whether a new one in its place would make no difference."""


class Permit:
    """One use of a limit.

    Attributes:
        limit: The limit's name.
        key: The key; empty where the limit is not used by key.
        holder: Who has it, as others are told.
        id: Names it in the cluster; empty for a limit of this process.
        since_s: When it was got, on the wall clock.
        on_lost: Called where a permit of the cluster could not be renewed in time, and another may have its place.
        on_queued: Called where Redis has been asked, and the permit is not to be had at once.
    """

    __slots__ = ("_place", "holder", "id", "key", "limit", "lost", "on_lost", "on_queued", "since_s", "valid_until_s")

    def __init__(self, place: Place, limit: str, key: str, holder: str) -> None:
        self._place = place
        self.limit = limit
        self.key = key
        self.holder = holder or _running()
        self.id = ""
        self.since_s = 0.0
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self.on_queued: Callable[[], None] | None = None
        #: By the monotonic clock; 0: as long as it is not given back.
        self.valid_until_s = 0.0

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since_s, UTC)
        return f"{self.holder} since {since:%H:%M:%S}"

    @property
    def place(self) -> Place:
        """Where it is kept."""
        return self._place

    @property
    def held(self) -> bool:
        """Whether it counts: whoever has been stopped for longer than the lease finds that it does not any more."""
        return not self.lost and (not self.valid_until_s or time.monotonic() < self.valid_until_s)

    def queued(self) -> None:
        """Take that it is not to be had at once."""
        on_queued, self.on_queued = self.on_queued, None
        if on_queued is not None:
            on_queued()

    def release(self) -> None:
        """Give it back; on the event loop that it was got on."""
        self._place.release(self)

    def lose(self) -> None:
        """Take that another may have its place."""
        if not self.lost:
            self.lost = True
            if self.on_lost is not None:
                self.on_lost()


def _running() -> str:
    job, task = current_job.get(), asyncio.current_task()
    return str(job) if job is not None else task.get_name() if task is not None else "?"
