"""End a run that nobody holds: its message has come to an outcome that whoever ran it could not write."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import case, select, update

from asyncworker.store import schema
from asyncworker.store.parts import merged, partitions_of, progress_of
from asyncworker.store.records import Progress, RunState
from asyncworker.store.schema import checksum_of
from asyncworker.store.sql import Store

__all__ = ["end_unheld_run"]

_run = schema.run


async def end_unheld_run(store: Store, seen: Progress, state: RunState, error: str, at: datetime) -> bool:
    """End a run, if it is still as it was seen; it can be resumed. Its partitions are told to stop.

    Args:
        store: Where it is.
        seen: Where it stands, without its partitions; nobody has held it since.
        state: How it ended.
        error: Why.
        at: When.

    Returns:
        Whether it was ended.

    Raises:
        StoreError: The database cannot be used.
    """
    as_seen = (
        (_run.c.run_id == seen.run_id)
        & (_run.c.state == seen.state)
        & (_run.c.attempt == seen.attempt)
        & (_run.c.updated_at == seen.updated_at)
    )
    async with store.writing() as connection:
        row: Any = (await connection.execute(select(_run).where(as_seen).with_for_update())).one_or_none()
        if row is None:
            return False
        values: dict[str, Any] = {
            "state": state,
            "error": error,
            "fence": row.fence + 1,
            "died": row.died or row.state == "running",
            "finished_at": at,
            "updated_at": at,
        }
        if row.partitions:
            of_run = _run.c.part_of == seen.run_id
            parts = [part.progress for part in await partitions_of(connection, seen.run_id)]
            whole = merged(progress_of(row), parts)
            values |= {name: getattr(whole, name) for name in ("done", "failed", "skipped", "retried", "resumed")}
            values["checksum"] = checksum_of(b"", whole.done, whole.skipped)
            waiting = of_run & (_run.c.state == "pending")
            ended = {"state": "cancelled", "fence": _run.c.fence + 1, "finished_at": at}
            await connection.execute(update(_run).where(waiting).values(ended))
            running = case((_run.c.state == "running", True), else_=_run.c.cancel_requested)
            await connection.execute(update(_run).where(of_run).values(cancel_requested=running))
        await connection.execute(update(_run).where(as_seen).values(values))
    return True
