"""Runs that ended long ago are deleted, with their results; so are payloads that nobody has used for as long."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, insert, or_, select

from asyncworker.errors import AsyncWorkerError
from asyncworker.loop import off_loop_async
from asyncworker.resources import lifetimes
from asyncworker.settings import Settings
from asyncworker.store import schema
from asyncworker.store.records import UNENDED
from asyncworker.store.shared import shared_store
from asyncworker.store.sql import Store

__all__ = ["Housekeeper", "keep_house"]

logger = logging.getLogger(__name__)

#: The longest time between two rounds.
EVERY_S = 3600.0
#: What is left of a deleted run, that it was there, is kept for so many times as long as the run was.
EXPIRED_KEPT = 12
#: So many runs are deleted in one transaction.
RUNS_AT_ONCE = 20

_run = schema.run


class Housekeeper:
    """Sweeps one store, at once and then from time to time, until it is closed. Several may sweep the same store.

    Args:
        store: What it sweeps.
        keep_s: How long a run is kept after it has ended, and a source after it was last sent or begun.
    """

    def __init__(self, store: Store, keep_s: float) -> None:
        self._store = store
        self._keep_s = keep_s
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="asyncworker-housekeeper")

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def sweep(self) -> int:
        """Delete what is old; returns how many runs.

        Raises:
            StoreError: The database or the payload store cannot be used.
        """
        deleted = 0
        while swept := await self._sweep_some():
            deleted += swept
        await self._sweep_traces()
        if self._store.payloads is not None:
            await off_loop_async(self._store.payloads.sweep_sources, self._keep_s)
        return deleted

    async def _keep(self) -> None:
        while True:
            try:
                deleted = await self.sweep()
                if deleted:
                    logger.info("%d runs that had ended more than %g s ago were deleted", deleted, self._keep_s)
            except AsyncWorkerError as exc:
                logger.warning("old runs could not be deleted: %s", exc)
            await asyncio.sleep(min(EVERY_S, self._keep_s / 4))

    async def _sweep_some(self) -> int:
        before = datetime.now(UTC) - timedelta(seconds=self._keep_s)
        old = _run.c.part_of.is_(None) & _run.c.state.not_in(UNENDED) & (_run.c.finished_at < before)
        async with self._store.writing() as connection:
            # Locked, so that nobody resumes one of them meanwhile.
            chosen = select(_run.c.run_id).where(old).limit(RUNS_AT_ONCE).with_for_update(skip_locked=True)
            wholes = list(await connection.scalars(chosen))
            traces = select(_run.c.run_id, _run.c.task, _run.c.state, _run.c.finished_at).where(
                _run.c.run_id.in_(wholes)
            )
            if not wholes:
                return 0
            all_of_them = or_(_run.c.run_id.in_(wholes), _run.c.part_of.in_(wholes))
            run_ids = list(await connection.scalars(select(_run.c.run_id).where(all_of_them)))
            if self._store.payloads is not None:
                # Before the rows: what cannot be deleted now is found again by the next round.
                for run_id in run_ids:
                    await off_loop_async(self._store.payloads.remove_results, run_id)
            now = datetime.now(UTC)
            rows = [
                {
                    "id": row.run_id,
                    "task": row.task,
                    "state": row.state,
                    "finished_at": row.finished_at,
                    "deleted_at": now,
                }
                for row in await connection.execute(traces)
            ]
            await connection.execute(insert(schema.expired_run), rows)
            for table in schema.metadata.sorted_tables:
                if "run_id" in table.c:
                    await connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))
        return len(wholes)

    async def _sweep_traces(self) -> None:
        """Delete what runs have left that were deleted long ago, or never began."""
        now, kept = datetime.now(UTC), timedelta(seconds=self._keep_s)
        gone, asked = schema.expired_run, schema.cancel_request
        async with self._store.writing() as connection:
            await connection.execute(delete(gone).where(gone.c.deleted_at < now - EXPIRED_KEPT * kept))
            await connection.execute(delete(asked).where(asked.c.asked_at < now - kept))


async def keep_house(settings: Settings) -> None:
    """Have the store of these settings swept for as long as the running loop lives; safe to call often."""
    if settings.runs_keep_s:
        store = await shared_store(settings)

        async def make() -> Housekeeper:
            return Housekeeper(store, settings.runs_keep_s)

        await lifetimes().use(("housekeeper", store.url), make)
