"""Requests to cancel a run: kept until whoever takes the run heeds them, whether it has begun or not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.store import schema
from asyncworker.store.records import UNENDED

__all__ = ["ask", "keep", "take", "withdraw"]

_run = schema.run
_kept = schema.cancel_request


async def ask(connection: AsyncConnection, run_id: str) -> bool:
    """Ask whoever runs it, or takes it next; tell whether there is such a run, and it has not ended."""
    # The whole first: who locks several partitions holds the lock of their run.
    mine = (_run.c.run_id == run_id) & _run.c.state.in_(UNENDED)
    found = await connection.execute(update(_run).where(mine).values(cancel_requested=True))
    if found.rowcount:
        await connection.execute(update(_run).where(_run.c.part_of == run_id).values(cancel_requested=True))
    return bool(found.rowcount)


async def keep(connection: AsyncConnection, run_id: str) -> None:
    """Keep a request for when the run begins."""
    if await connection.scalar(select(_kept.c.run_id).where(_kept.c.run_id == run_id)) is None:
        await connection.execute(insert(_kept).values(run_id=run_id, asked_at=datetime.now(UTC)))


async def take(connection: AsyncConnection, run_id: str, row: Row[Any] | None = None) -> bool:
    """Tell whether a run that begins is to be cancelled; a request that was kept is used up.

    Args:
        connection: A transaction.
        run_id: The run.
        row: Its row, where it is there already.
    """
    kept = await connection.execute(delete(_kept).where(_kept.c.run_id == run_id))
    if kept.rowcount or row is None:
        return bool(kept.rowcount)
    if row.part_of is None:
        # One that has ended has heeded it, or it came too late.
        return bool(row.cancel_requested) and row.state in UNENDED
    # That of a partition may be its run's way to stop an attempt, which the next one is not concerned with.
    whole = (_run.c.run_id == row.part_of) & _run.c.state.in_(UNENDED)
    return bool(await connection.scalar(select(_run.c.cancel_requested).where(whole)))


async def withdraw(connection: AsyncConnection, run_id: str) -> bool:
    """Take it back; tell whether it was kept for a run that has not begun."""
    await connection.execute(update(_run).where(_run.c.run_id == run_id).values(cancel_requested=False))
    await connection.execute(update(_run).where(_run.c.part_of == run_id).values(cancel_requested=False))
    return bool((await connection.execute(delete(_kept).where(_kept.c.run_id == run_id))).rowcount)
