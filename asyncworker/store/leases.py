"""Leases: which process runs a long task, so that a second delivery of it waits instead of running it too."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import delete, insert, select, update

from asyncworker.store import schema
from asyncworker.store.patience import wait_writable
from asyncworker.store.sql import Store

__all__ = ["Lease", "Leases"]


class Lease(msgspec.Struct, frozen=True):
    """One task's lease, as it stands in the store."""

    holder: str
    renewed_at: datetime
    ended: bool
    """The holder has finished the task; kept for a while, for deliveries that wait."""


class Leases:
    """The leases of one store, as one process sees them.

    Args:
        store: Where they are.
        holder: Names the process, and no other one ever.
    """

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._holder = holder

    async def renew(self, keys: Iterable[str]) -> set[str]:
        """Take or renew leases, in one transaction; returns those of them that another process has taken since.

        Raises:
            StoreError: The database cannot be used.
        """
        wanted, table, now = set(keys), schema.lease, datetime.now(UTC)
        async with self._store.writing() as connection:
            rows = await connection.execute(
                select(table.c.key, table.c.holder, table.c.ended).where(table.c.key.in_(wanted))
            )
            stored = {row.key: row for row in rows}
            lost = {key for key, row in stored.items() if row.holder != self._holder and not row.ended}
            kept = stored.keys() - lost
            if kept:
                renewed = {"holder": self._holder, "renewed_at": now, "ended": False}
                await connection.execute(update(table).where(table.c.key.in_(kept)).values(renewed))
            new = [
                {"key": key, "holder": self._holder, "renewed_at": now, "ended": False}
                for key in wanted - stored.keys()
            ]
            if new:
                await connection.execute(insert(table), new)
        return lost

    async def look(self, key: str) -> Lease | None:
        """Return the lease of a task, whoever holds it."""
        table = schema.lease
        async with self._store.reading() as connection:
            row = (await connection.execute(select(table).where(table.c.key == key))).one_or_none()
        return None if row is None else Lease(row.holder, row.renewed_at, row.ended)

    async def wait_writable(self) -> None:
        """Wait until somebody may write to the store; see `wait_writable`."""
        await wait_writable(self._store)

    async def take(self, key: str, seen: Lease) -> bool:
        """Take a lease from its holder, if it still stands as it was seen; tells whether it was taken.

        Of several deliveries that wait for the same silent holder one gets it; and none does where the holder is back.
        """
        table = schema.lease
        as_seen = (table.c.key == key) & (table.c.holder == seen.holder) & (table.c.renewed_at == seen.renewed_at)
        async with self._store.writing() as connection:
            taken = await connection.execute(
                update(table).where(as_seen & ~table.c.ended).values(holder=self._holder, renewed_at=datetime.now(UTC))
            )
        return bool(taken.rowcount)

    async def held(self, key: str) -> bool:
        """Tell whether this process still holds a lease."""
        lease = await self.look(key)
        return lease is not None and lease.holder == self._holder

    async def end(self, key: str) -> None:
        """Say that the task is finished; nothing where the lease is another's."""
        table = schema.lease
        mine = (table.c.key == key) & (table.c.holder == self._holder)
        async with self._store.writing() as connection:
            await connection.execute(update(table).where(mine).values(ended=True, renewed_at=datetime.now(UTC)))

    async def release(self, key: str) -> None:
        """Give a lease up: another delivery may run the task at once."""
        table = schema.lease
        async with self._store.writing() as connection:
            await connection.execute(delete(table).where((table.c.key == key) & (table.c.holder == self._holder)))

    async def forget_ended(self, after_s: float) -> None:
        """Delete leases that ended so long ago."""
        table = schema.lease
        before = datetime.now(UTC) - timedelta(seconds=after_s)
        async with self._store.writing() as connection:
            await connection.execute(delete(table).where(table.c.ended & (table.c.renewed_at < before)))
