"""A run's row as a batch leaves it, and the proof that one did."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import RunTakenOver
from asyncworker.store.records import UNENDED, Batch, Counters, RunHold
from asyncworker.store.schema import checksum_of, run

__all__ = ["advance", "written"]


async def advance(connection: AsyncConnection, hold: RunHold, batch: Batch) -> bool:
    """Write what a batch makes of the run's row; tell whether someone asked that the run be cancelled.

    Raises:
        RunTakenOver: The run has another holder now.
    """
    done = await connection.execute(
        update(run)
        .where(run.c.run_id == hold.run_id, run.c.fence == hold.fence)
        .values(_values(batch))
        .returning(run.c.cancel_requested)
    )
    row = done.one_or_none()
    if row is None:
        raise RunTakenOver(
            f"run {hold.run_id}: another process holds it now (this one's fence is {hold.fence}); "
            "what this one still finishes is not recorded"
        )
    return bool(row.cancel_requested)


async def written(connection: AsyncConnection, hold: RunHold, batch: Batch) -> bool | None:
    """Look whether the run's row is what a batch makes of it: it is written in one transaction with all of its rows.

    Returns:
        Whether someone asked that the run be cancelled; ``None`` where the batch is not written.
    """
    query = select(run).where(run.c.run_id == hold.run_id, run.c.fence == hold.fence)
    row = (await connection.execute(query)).one_or_none()
    if row is None or any(getattr(row, name) != value for name, value in _values(batch).items()):
        return None
    return bool(row.cancel_requested)


def _values(batch: Batch) -> dict[str, Any]:
    counters = batch.counters
    values: dict[str, Any] = {name: getattr(counters, name) for name in Counters.__struct_fields__} | {
        "state": batch.state,
        "complete": batch.complete,
        "error": batch.error,
        "finished_map": batch.finished_map,
        "reserved": batch.reserved,
        "suspect": batch.suspect,
        "suspects_below": batch.suspects_below,
        "checksum": checksum_of(batch.finished_map, counters.done, counters.skipped),
        "updated_at": batch.at,
    }
    if batch.state not in UNENDED:
        values["finished_at"] = batch.at
    if batch.total is not None:
        values["total"] = batch.total
    return values
