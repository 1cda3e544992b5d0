"""Leases: which process runs a long task, so that a second delivery of it waits instead of running it too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.store import schema
from asyncworker.store.inserting import insert_missing
from asyncworker.store.patience import wait_writable
from asyncworker.store.silence import Silence
from asyncworker.store.sql import Store
from asyncworker.store.watch import silence_of

__all__ = ["Lease", "Leases"]

_table = schema.lease

#: The most leases in one statement: databases bound its parameters.
LEASES_A_STATEMENT = 500


class Lease(msgspec.Struct, frozen=True):
    """One task's lease, as it stands in the store."""

    holder: str
    renewed_at: datetime
    ended: bool
    """The holder has finished the task; kept for a while, for deliveries that wait and holders that were frozen."""


class Leases:
    """The leases of one store, as one process sees them.

    Every change is a compare-and-set: it counts only while the row is still what it was taken for. A holder that finds
    its row gone, ended or another's has lost it, and never gets it back.

    Args:
        store: Where they are.
        holder: Names the process, and no other one ever.
        clock: Time.
    """

    def __init__(self, store: Store, holder: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock

    async def claim(self, started_at: Mapping[str, datetime]) -> set[str]:
        """Take leases for tasks that started without one, in one transaction.

        Safe to repeat where an earlier answer was lost.

        Args:
            started_at: When each task started, by the lease's key. A lease that ended before that is free; one that
                ended later was another delivery's of the same message.

        Returns:
            The keys that could not be taken: another process holds them, or has finished the task meanwhile.

        Raises:
            StoreError: The database cannot be used.
        """
        refused: set[str] = set()
        async with self._store.writing() as connection:
            for keys in _parts(started_at):
                refused |= await self._claim(connection, keys, started_at)
        return refused

    async def _claim(
        self, connection: AsyncConnection, keys: list[str], started_at: Mapping[str, datetime]
    ) -> set[str]:
        rows = {row.key: row for row in await connection.execute(_locked(_table.c.key.in_(keys)))}
        free = [key for key, row in rows.items() if row.ended and row.renewed_at < started_at[key]]
        mine = {key for key, row in rows.items() if row.holder == self._holder and not row.ended}
        if free:
            await connection.execute(update(_table).where(_table.c.key.in_(free)).values(self._values()))
        absent = [{"key": key, **self._values()} for key in keys if key not in rows]
        inserted = await insert_missing(connection, _table, absent, returning=_table.c.key)
        return set(keys) - mine - {*free, *inserted}

    async def renew(self, keys: Iterable[str]) -> set[str]:
        """Renew leases that this process holds, in one transaction.

        Returns:
            The keys of leases that it has lost: the row is gone, ended, or another's.

        Raises:
            StoreError: The database cannot be used.
        """
        lost: set[str] = set()
        async with self._store.writing() as connection:
            for part in _parts(keys):
                rows = await connection.execute(_locked(_table.c.key.in_(part) & self._mine))
                held = [row.key for row in rows]
                if held:
                    values = {"renewed_at": self._clock.now()}
                    await connection.execute(update(_table).where(_table.c.key.in_(held)).values(values))
                lost |= set(part) - set(held)
        return lost

    async def look(self, key: str) -> Lease | None:
        """Return the lease of a task, whoever holds it."""
        async with self._store.reading() as connection:
            row = (await connection.execute(select(_table).where(_table.c.key == key))).one_or_none()
        return None if row is None else _lease(row)

    def silence_of(self, key: str, lease_s: float) -> Silence:
        """Return how long a lease's holder has been silent."""
        return silence_of(self._store, "lease", key, lease_s, self._clock)

    async def wait_writable(self) -> None:
        """Wait until somebody may write to the store; see `wait_writable`."""
        await wait_writable(self._store)

    async def take(self, key: str, seen: Lease | None) -> bool:
        """Take a lease if it still is as it was seen; return whether this process holds it now.

        Of several deliveries that wait for the same silent holder one gets it; none does where the holder is back.

        Args:
            key: The lease's key.
            seen: What `look` has returned; ``None``: there was none.
        """
        async with self._store.writing() as connection:
            if seen is None:
                row = {"key": key, **self._values()}
                return bool(await insert_missing(connection, _table, [row], returning=_table.c.key))
            as_seen = (
                (_table.c.key == key)
                & (_table.c.holder == seen.holder)
                & (_table.c.renewed_at == seen.renewed_at)
                & (_table.c.ended == seen.ended)
            )
            taken = await connection.execute(update(_table).where(as_seen).values(self._values()))
        return bool(taken.rowcount)

    async def held(self, key: str) -> bool:
        """Tell whether this process still holds a lease."""
        lease = await self.look(key)
        return lease is not None and lease.holder == self._holder and not lease.ended

    async def end(self, key: str) -> None:
        """Record that the task is finished; nothing where the lease is not this process's any more."""
        async with self._store.writing() as connection:
            values = {"ended": True, "renewed_at": self._clock.now()}
            await connection.execute(update(_table).where((_table.c.key == key) & self._mine).values(values))

    async def release(self, key: str) -> None:
        """Give a lease up: another delivery may run the task at once."""
        async with self._store.writing() as connection:
            await connection.execute(delete(_table).where((_table.c.key == key) & self._mine))

    async def forget_ended(self, after_s: float) -> None:
        """Delete leases that ended so long ago."""
        before = self._clock.now() - timedelta(seconds=after_s)
        old = select(_table.c.key).where(_table.c.ended & (_table.c.renewed_at < before))
        async with self._store.writing() as connection:
            # Several processes do this at once, and must not wait for each other's locks.
            keys = list(await connection.scalars(old.with_for_update(skip_locked=True)))
            for part in _parts(keys):
                await connection.execute(delete(_table).where(_table.c.key.in_(part)))

    @property
    def _mine(self) -> Any:
        return (_table.c.holder == self._holder) & ~_table.c.ended

    def _values(self) -> dict[str, Any]:
        return {"holder": self._holder, "renewed_at": self._clock.now(), "ended": False}


def _locked(wanted: Any) -> Any:
    # In one order everywhere: two processes that lock the same rows must not wait for each other.
    return select(_table).where(wanted).order_by(_table.c.key).with_for_update()


def _lease(row: Row[Any]) -> Lease:
    return Lease(row.holder, row.renewed_at, row.ended)


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    every = sorted(values)
    return (every[start : start + LEASES_A_STATEMENT] for start in range(0, len(every), LEASES_A_STATEMENT))
