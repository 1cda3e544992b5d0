"""Read a run's partitions, and sum them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.store import schema
from asyncworker.store.records import Partition, Progress

__all__ = ["PROGRESS_COLUMNS", "merged", "partitions_of", "progress_of", "whole_or_part"]

PROGRESS_COLUMNS = [schema.run.c[name] for name in Progress.__struct_fields__]


def whole_or_part(column: ColumnElement[str], run_id: str) -> ColumnElement[bool]:
    """Rows of a run or of one of its partitions, by the column with the run's id."""
    return (column == run_id) | column.in_(select(schema.run.c.run_id).where(schema.run.c.part_of == run_id))


def progress_of(row: Row[*tuple[Any, ...]]) -> Progress:
    """Return the progress of a run from its row."""
    return Progress(**{name: getattr(row, name) for name in Progress.__struct_fields__})


async def partitions_of(connection: AsyncConnection, run_id: str) -> list[Partition]:
    """The partitions of a run, in order; none where it has none."""
    table = schema.run
    query = (
        select(*PROGRESS_COLUMNS, table.c.part_number, table.c.fence)
        .where(table.c.part_of == run_id)
        .order_by(table.c.part_number)
    )
    return [Partition(row.part_number, row.fence, progress_of(row)) for row in await connection.execute(query)]


def merged(whole: Progress, parts: Sequence[Progress]) -> Progress:
    """Where a run stands whose partitions stand there."""
    if not parts:
        return whole
    return msgspec.structs.replace(
        whole,
        done=sum(part.done for part in parts),
        failed=sum(part.failed for part in parts),
        skipped=sum(part.skipped for part in parts),
        retried=sum(part.retried for part in parts),
        resumed=sum(part.resumed for part in parts),
        updated_at=max(whole.updated_at, *(part.updated_at for part in parts)),
    )
