"""Runs on several workers: the partitions of a run are planned, watched, freed of lost holders, and closed as one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import RunTakenOver
from asyncworker.store import schema
from asyncworker.store.parts import merged, partitions_of, progress_of
from asyncworker.store.records import UNENDED, Partition, Progress, RunHold, RunRequest, RunState
from asyncworker.store.schema import checksum_of, first_fence
from asyncworker.store.sql import Store

__all__ = ["Partitions"]

_run = schema.run


class Partitions:
    """The partitions of one store's runs. Each is a run itself, with bitmap, fence and counters of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def plan(
        self, hold: RunHold, requests: Sequence[RunRequest], *, again: bool, pardon: bool = False
    ) -> list[Partition]:
        """Make the partitions of a run that has none; make those ready that are to be gone on with.

        Args:
            hold: The right to write the run.
            requests: One for each partition, in order.
            again: Those that are complete, but with failed items, are to be run again as well.
            pardon: So are items that were given up since their process died twice.

        Raises:
            RunTakenOver: The run has another holder now.
            StoreError: The database cannot be used.
        """
        async with self._store.writing() as connection:
            await self._held(connection, hold)
            parts = await partitions_of(connection, hold.run_id)
            if parts:
                await self._make_ready(connection, hold.run_id, again, pardon)
            else:
                rows = [_new_row(hold.run_id, number, request) for number, request in enumerate(requests)]
                await connection.execute(insert(_run), rows)
            parts = await partitions_of(connection, hold.run_id)
            carried = sum(part.progress.done + part.progress.skipped for part in parts)
            mine = _run.c.run_id == hold.run_id
            await connection.execute(update(_run).where(mine).values(partitions=len(parts), carried=carried))
        return parts

    async def _make_ready(self, connection: AsyncConnection, run_id: str, again: bool, pardon: bool) -> None:
        unfinished = or_(~_run.c.complete, _run.c.failed > 0) if again else ~_run.c.complete
        wanted = (_run.c.part_of == run_id) & _run.c.state.not_in(UNENDED) & unfinished
        ids = list(await connection.scalars(select(_run.c.run_id).where(wanted)))
        values: dict[str, Any] = {"state": "pending", "complete": False, "error": "", "cancel_requested": False}
        # Its last holder may not know that it was written to the end, and write that once more.
        values |= {"finished_at": None, "fence": _run.c.fence + 1}
        if pardon:
            values["convicted"] = ""
        counters = {"failed": 0, "retried": 0, "resumed": 0}
        await connection.execute(update(_run).where(_run.c.run_id.in_(ids)).values(values | counters))
        await connection.execute(delete(schema.failure).where(schema.failure.c.run_id.in_(ids)))

    async def look(self, run_id: str) -> list[Partition]:
        """The partitions of a run, in order."""
        async with self._store.reading() as connection:
            return await partitions_of(connection, run_id)

    async def release(self, part: Partition) -> bool:
        """Take a partition from a holder that has shown no sign of life since it was looked at; tell whether it was.

        What that holder still writes is refused.
        """
        seen = part.progress
        unchanged = (_run.c.run_id == seen.run_id) & (_run.c.fence == part.fence) & (_run.c.state == "running")
        async with self._store.writing() as connection:
            released = await connection.execute(
                update(_run)
                .where(unchanged & (_run.c.updated_at == seen.updated_at))
                .values(state="pending", fence=part.fence + 1, died=True)
            )
        return bool(released.rowcount)

    async def cancel(self, hold: RunHold) -> None:
        """Ask the holders of a run's partitions to stop.

        Raises:
            RunTakenOver: The run has another holder now, whose partitions they are.
            StoreError: The database cannot be used.
        """
        wanted = (_run.c.part_of == hold.run_id) & (_run.c.state == "running") & ~_run.c.cancel_requested
        async with self._store.writing() as connection:
            # Who locks several partitions holds the lock of their run: two could wait for each other otherwise.
            await self._held(connection, hold)
            await connection.execute(update(_run).where(wanted).values(cancel_requested=True))

    async def close(
        self, hold: RunHold, state: RunState, *, complete: bool, total: int | None, error: str, at: datetime
    ) -> Progress | None:
        """End a run whose partitions have ended, in one transaction; those that nobody has begun never will be.

        Returns:
            Where the run stands now; ``None``: a partition is being run, and nothing was changed.

        Raises:
            RunTakenOver: The run has another holder now.
            StoreError: The database cannot be used.
        """
        async with self._store.writing() as connection:
            row = await self._held(connection, hold)
            query = select(_run.c.state).where(_run.c.part_of == hold.run_id).with_for_update()
            found = (await connection.execute(query)).all()
            if any(part.state == "running" for part in found):
                return None
            waiting = (_run.c.part_of == hold.run_id) & _run.c.state.in_(UNENDED)
            await connection.execute(
                update(_run).where(waiting).values(state="cancelled", fence=_run.c.fence + 1, finished_at=at)
            )
            parts = [part.progress for part in await partitions_of(connection, hold.run_id)]
            whole = merged(progress_of(row), parts)
            values: dict[str, Any] = {
                name: getattr(whole, name) for name in ("done", "failed", "skipped", "retried", "resumed")
            }
            values |= {"state": state, "complete": complete, "error": error, "finished_at": at, "updated_at": at}
            values |= {"total": total, "checksum": checksum_of(b"", whole.done, whole.skipped)}
            await connection.execute(update(_run).where(_run.c.run_id == hold.run_id).values(values))
            return progress_of(await self._held(connection, hold))

    async def _held(self, connection: AsyncConnection, hold: RunHold) -> Any:
        query = select(_run).where(_run.c.run_id == hold.run_id, _run.c.fence == hold.fence).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise RunTakenOver(f"run {hold.run_id}: another process holds it now (this one's fence is {hold.fence})")
        return row


def _new_row(run_id: str, number: int, request: RunRequest) -> dict[str, Any]:
    at = request.started_at
    progress = Progress(
        run_id=request.run_id,
        task=request.task,
        state="pending",
        total=request.total,
        attempt=0,
        started_at=at,
        attempt_at=at,
        updated_at=at,
    )
    return {name: getattr(progress, name) for name in Progress.__struct_fields__} | {
        "fingerprint": request.fingerprint,
        "fence": first_fence(),
        "keyed": request.keyed,
        "message": request.message,
        "cancel_requested": False,
        "finished_map": b"",
        "checksum": checksum_of(b"", 0, 0),
        "request": b"",
        "part_of": run_id,
        "part_number": number,
    }
