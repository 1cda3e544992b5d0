"""Failed items in the store: those of the current attempt, and those of earlier ones whose items are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.store import schema
from asyncworker.store.parts import whole_or_part
from asyncworker.store.records import Batch, ItemFailure, RunHold

__all__ = ["drop_earlier", "keep", "read", "rows_of"]

_table = schema.failure
_FIELDS = [name for name in ItemFailure.__struct_fields__ if name != "index"]


def rows_of(hold: RunHold, batch: Batch) -> list[dict[str, Any]]:
    """Rows for the failures of a batch."""
    digests: Sequence[bytes] = batch.failure_digests or [b""] * len(batch.failures)
    return [
        {"run_id": hold.run_id, "run_attempt": hold.attempt, "item_index": failure.index, "digest": digest}
        | {name: getattr(failure, name) for name in _FIELDS}
        for failure, digest in zip(batch.failures, digests, strict=True)
    ]


async def read(connection: AsyncConnection, run_id: str, offset: int, limit: int | None) -> list[ItemFailure]:
    """Return the failures of a run's current attempt, by index."""
    run = schema.run
    current = (_table.c.run_id == run.c.run_id) & (_table.c.run_attempt == run.c.attempt)
    query = select(_table).join(run, current).where(whole_or_part(_table.c.run_id, run_id))
    rows = await connection.execute(query.order_by(_table.c.item_index).offset(offset).limit(limit))
    return [_failure(row) for row in rows]


async def keep(connection: AsyncConnection, hold: RunHold, gone: Sequence[tuple[bytes, int]]) -> None:
    """Take over the failures of items that the source does not list any more.

    Args:
        connection: A transaction.
        hold: The right to write the run.
        gone: Digests of these items, with the indexes that they have now.
    """
    columns = _table.c.digest, _table.c.run_attempt, _table.c.item_index
    rows = await connection.execute(select(*columns).where(_earlier(hold)).order_by(_table.c.run_attempt))
    last = {bytes(row.digest): (row.run_attempt, row.item_index) for row in rows}
    for digest, index in gone:
        if digest in last:
            attempt, at = last[digest]
            one = (_table.c.run_id == hold.run_id) & (_table.c.run_attempt == attempt) & (_table.c.item_index == at)
            await connection.execute(update(_table).where(one).values(run_attempt=hold.attempt, item_index=index))


async def drop_earlier(connection: AsyncConnection, hold: RunHold) -> None:
    """Delete what earlier attempts have left: each of these items was settled anew, or taken over."""
    await connection.execute(delete(_table).where(_earlier(hold)))


def _earlier(hold: RunHold) -> ColumnElement[bool]:
    return (_table.c.run_id == hold.run_id) & (_table.c.run_attempt < hold.attempt)


def _failure(row: Row[Any]) -> ItemFailure:
    return ItemFailure(index=row.item_index, **{name: getattr(row, name) for name in _FIELDS})
