"""The store of runs, on a database that SQLAlchemy's asyncio side speaks: SQLite and PostgreSQL are the ones meant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from sqlalchemy import Column, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asyncworker.errors import RunChanged, RunExpired, RunNotFound, RunTakenOver, StoreError
from asyncworker.redaction import redacted
from asyncworker.store import advancing, cancelling, failures, large, reading, schema
from asyncworker.store.checks import check_map
from asyncworker.store.chunks import key_rows, keys_from_row, result_rows, row_rows
from asyncworker.store.decide import Continue, OnChange, Recall, Refuse, Start, decide
from asyncworker.store.parts import PROGRESS_COLUMNS, merged, partitions_of, progress_of, whole_or_part
from asyncworker.store.payloads import Payloads
from asyncworker.store.quiet import said
from asyncworker.store.records import (
    RESERVED_AT_FIRST,
    Batch,
    ItemFailure,
    Progress,
    RunHold,
    RunRequest,
)
from asyncworker.store.schema import checksum_of, first_fence
from asyncworker.store.silence import Silence
from asyncworker.store.suspicion import suspicion_of

__all__ = ["WRITES", "OnChange", "Store"]

#: Execution option of connections that will write: SQLite takes its write lock at BEGIN for these.
WRITES = "asyncworker_writes"
#: An insert of more rows than this holds the loop for too long (a 10,000-row executemany: 55 - 115 ms).
ROWS_A_STATEMENT = 1000


class Store:
    """The runs of one database. Belongs to the event loop it was opened on; `open_store` makes one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{WRITES: True})
        #: How long those who write here wait for a database that is away.
        self.patience_s = 30.0
        #: How long holders of runs and leases have been silent, where that is watched.
        self.silences: dict[tuple[str, str], Silence] = {}
        #: Where large results lie.
        self.payloads: Payloads | None = None
        self.url = redacted(engine.url.render_as_string(hide_password=True))

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._engine.dispose()

    # -- a run begins --------------------------------------------------------------------------------------------------

    async def begin_run(
        self,
        request: RunRequest,
        redelivered: bool = False,
        *,
        resume: bool = False,
        on_change: OnChange = "error",
        only_if: Callable[[Row[Any] | None], bool] | None = None,
        forced: bool = False,
    ) -> RunHold:
        """Take the right to write a run, from whoever has it.

        A run that is not stored begins. One that has not ended, or that ended before it was complete (cancelled, timed
        out, its source raised), continues from its checkpoint, with the failed items to be tried again. A complete one
        starts afresh and what was stored is deleted.

        Args:
            request: What is run.
            redelivered: The same message came again: a run that has ended is not begun, the hold's ``finished`` is set.
                So it is, whatever is said here, where the run was begun by the message that the request names.
            resume: Continue a complete run as well; only items that failed or were never seen are run.
            on_change: Where the stored fingerprint is another: raise, start afresh, or continue all the same.
            only_if: Given the stored row, says whether it is still what the caller has decided by.
            forced: Whoever runs it is alive: none of its items is suspected of having killed a process.

        Raises:
            RunTakenOver: It is not, by `only_if`.
            RunChanged: The source or the fixed arguments are not those of the checkpoint.
            CheckpointCorrupt: The checkpoint cannot be what was written.
            StoreError: The database cannot be used.
        """
        with self._translated():
            for last_try in (False, True):
                try:
                    async with self._writer.begin() as connection:
                        row = await self._locked(connection, request.run_id)
                        if only_if is not None and not only_if(row):
                            raise RunTakenOver(f"run {request.run_id}: another process took it a moment before")
                        return await self._begin(connection, request, row, redelivered, resume, on_change, forced)
                except IntegrityError:
                    # Another process made the row between our look and our insert: its row is there to be read now.
                    if last_try:
                        raise
        raise AssertionError("not reached")

    async def _locked(self, connection: AsyncConnection, run_id: str) -> Row[Any] | None:
        table = schema.run
        query = select(table).where(table.c.run_id == run_id).with_for_update()
        return (await connection.execute(query)).one_or_none()

    async def _begin(
        self,
        connection: AsyncConnection,
        request: RunRequest,
        row: Row[Any] | None,
        redelivered: bool,
        resume: bool,
        on_change: OnChange,
        forced: bool,
    ) -> RunHold:
        stored: Any = row
        match decide(stored, request, redelivered=redelivered, resume=resume, on_change=on_change):
            case Refuse(reason):
                raise RunChanged(reason)
            case Recall():
                ended = progress_of(stored)
                return _hold(ended, stored.fence, stored.keyed, finished=ended)
            case Continue():
                return await self._continue(connection, request, stored, forced)
            case Start():
                fence = first_fence() if row is None else row.fence + 1
                return await self._start(connection, request, fence=fence, row=row)

    async def restart(self, hold: RunHold, request: RunRequest) -> RunHold:
        """Start a run that is held afresh; what was stored of it is deleted.

        Raises:
            RunTakenOver: The run has another holder now.
            StoreError: The database cannot be used.
        """
        async with self.writing() as connection:
            row = await self._locked(connection, request.run_id)
            if row is None or row.fence != hold.fence:
                raise RunTakenOver(
                    f"run {hold.run_id}: another process holds it now (this one's fence is {hold.fence})"
                )
            return await self._start(connection, request, fence=row.fence + 1, row=row)

    async def _start(
        self, connection: AsyncConnection, request: RunRequest, *, fence: int, row: Row[Any] | None
    ) -> RunHold:
        cancel_requested = await cancelling.take(connection, request.run_id, row)
        progress = Progress(
            run_id=request.run_id,
            task=request.task,
            state="running",
            total=request.total,
            started_at=request.started_at,
            attempt_at=request.started_at,
            updated_at=request.started_at,
        )
        values = {name: getattr(progress, name) for name in Progress.__struct_fields__} | {
            "fingerprint": request.fingerprint,
            "fence": fence,
            "keyed": request.keyed,
            "message": request.message,
            "cancel_requested": cancel_requested,
            "finished_map": b"",
            "checksum": checksum_of(b"", 0, 0),
            "request": request.request,
            "holder": request.holder,
            "reserved": RESERVED_AT_FIRST,
            "suspects_below": 0,
            "suspect": "",
            "died": False,
            "convicted": "",
            "partitions": 0,
        }
        if row is None:
            await connection.execute(insert(schema.run).values(values))
            await connection.execute(delete(schema.expired_run).where(schema.expired_run.c.id == request.run_id))
        else:
            await connection.execute(update(schema.run).where(schema.run.c.run_id == request.run_id).values(values))
            for table in (schema.failure, schema.result_chunk, schema.key_chunk, schema.row_chunk):
                await connection.execute(delete(table).where(whole_or_part(table.c.run_id, request.run_id)))
            await connection.execute(delete(schema.run).where(schema.run.c.part_of == request.run_id))
        return _hold(progress, fence, request.keyed, again=row is not None, cancel_requested=cancel_requested)

    async def _continue(self, connection: AsyncConnection, request: RunRequest, row: Row[Any], forced: bool) -> RunHold:
        run_id = request.run_id
        check_map(row)
        keys = []
        if row.keyed:
            table = schema.key_chunk
            rows = await connection.execute(select(table).where(table.c.run_id == run_id).order_by(table.c.chunk))
            keys = [keys_from_row(each) for each in rows]
        bodies = select(schema.row_chunk.c.body).where(schema.row_chunk.c.run_id == run_id)
        rows_read = b"".join(await connection.scalars(bodies.order_by(schema.row_chunk.c.first_row)))
        cancel_requested = await cancelling.take(connection, run_id, row)
        suspicion = suspicion_of(row, request, forced)
        if suspicion.progressed:
            # What was settled since the last death counts for more than that there were so many.
            await connection.execute(delete(schema.delivery).where(schema.delivery.c.task_id == run_id))
        changes = {
            "state": "running",
            "reserved": suspicion.reserved,
            "suspects_below": suspicion.below,
            "suspect": "",
            "died": False,
            "convicted": "\n".join(suspicion.convicted),
            "complete": False,
            "error": "",
            "attempt": row.attempt + 1,
            "fence": row.fence + 1,
            "fingerprint": request.fingerprint,
            "message": request.message,
            "holder": request.holder,
            # What is run from now on is what a later resume must send.
            "request": request.request or row.request,
            "total": request.total if request.total is not None else row.total,
            "failed": 0,
            "retried": 0,
            "resumed": 0,
            "carried": row.done + row.skipped,
            "cancel_requested": cancel_requested,
            "attempt_at": request.started_at,
            "updated_at": request.started_at,
            "finished_at": None,
        }
        await connection.execute(update(schema.run).where(schema.run.c.run_id == run_id).values(changes))
        if not row.keyed:
            await connection.execute(delete(schema.failure).where(schema.failure.c.run_id == run_id))
        chunk_counts = [
            (await connection.execute(select(func.max(table.c.chunk)).where(table.c.run_id == run_id))).scalar()
            for table in (schema.result_chunk, schema.key_chunk)
        ]
        names = Progress.__struct_fields__
        progress = Progress(**{name: changes.get(name, getattr(row, name)) for name in names})
        return _hold(
            progress,
            row.fence + 1,
            row.keyed,
            next_chunk=max([-1, *(count for count in chunk_counts if count is not None)]) + 1,
            finished_map=bytes(row.finished_map),
            reserved=suspicion.reserved,
            suspects_below=suspicion.below,
            convicted=suspicion.convicted,
            keys=keys,
            rows=rows_read,
            again=True,
            cancel_requested=cancel_requested,
        )

    # -- a run goes on -------------------------------------------------------------------------------------------------

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        """Add to a run, in one transaction. Safe to repeat with the same batch and chunk number.

        Args:
            hold: The right to write.
            batch: What is new.
            first_chunk: Sequence number for the first of the batch's chunks; they are counted on from there.

        Returns:
            Whether someone asked that the run be cancelled.

        Raises:
            RunTakenOver: The run has another holder now; nothing was written.
            StoreError: The database cannot be used; nothing is known of what was written.
        """
        with self._translated():
            try:
                async with self._writer.begin() as connection:
                    cancel_requested = await advancing.advance(connection, hold, batch)
                    for table, rows in (
                        (schema.result_chunk, result_rows(hold.run_id, batch.results, first_chunk)),
                        (schema.key_chunk, key_rows(hold, batch.keys, first_chunk)),
                        (schema.row_chunk, row_rows(hold, batch)),
                        (schema.failure, failures.rows_of(hold, batch)),
                    ):
                        for start in range(0, len(rows), ROWS_A_STATEMENT):
                            await connection.execute(insert(table), rows[start : start + ROWS_A_STATEMENT])
                    if batch.kept_failures:
                        await failures.keep(connection, hold, batch.kept_failures)
                    if batch.complete and hold.keyed and hold.attempt > 1:
                        await failures.drop_earlier(connection, hold)
            except IntegrityError:
                # An earlier write of this batch may be in the way, whose connection was lost before we heard that its
                # commit was done. Whatever else is in the way, the batch is not stored.
                async with self.reading() as connection:
                    cancel_asked = await advancing.written(connection, hold, batch)
                if cancel_asked is None:
                    raise
                return cancel_asked
        return cancel_requested

    async def request_cancel(self, run_id: str, *, unbegun: bool = False) -> None:
        """Ask that a run be cancelled.

        Whoever holds it learns of it with its next checkpoint; where nobody does, whoever takes it next.

        Args:
            run_id: The run.
            unbegun: Its message may be on its way: a run that is not here yet, or that has ended, is cancelled when it
                begins.

        Raises:
            RunNotFound: No such run, unless ``unbegun``.
        """
        async with self.writing() as connection:
            if not await cancelling.ask(connection, run_id):
                if unbegun:
                    await cancelling.keep(connection, run_id)
                else:
                    await self._one(run_id, schema.run.c.run_id)

    async def withdraw_cancel(self, run_id: str) -> bool:
        """Take back what was asked for and nobody has heeded; tell whether it was of a run that has not begun."""
        async with self.writing() as connection:
            return await cancelling.withdraw(connection, run_id)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def progress(self, run_id: str, *, merge: bool = True) -> Progress:
        """Where a run stands, as of its last checkpoint.

        Args:
            run_id: The run.
            merge: Sum up its partitions, where it has some; else what whoever holds the whole has written.

        Raises:
            RunNotFound: No such run.
        """
        async with self.reading() as connection:
            query = select(*PROGRESS_COLUMNS, schema.run.c.partitions).where(schema.run.c.run_id == run_id)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise await self._missing(connection, run_id)
            progress = progress_of(row)
            if merge and row.partitions and not progress.ended:
                return merged(progress, [each.progress for each in await partitions_of(connection, run_id)])
        return progress

    async def runs(self, limit: int = 50, *, tasks: Sequence[str] | None = None) -> list[Progress]:
        """Return the runs that were started last, the newest first; of those tasks, or of all."""
        newest = schema.run.c.started_at.desc(), schema.run.c.run_id
        query = select(*PROGRESS_COLUMNS).where(schema.run.c.part_of.is_(None)).order_by(*newest).limit(limit)
        if tasks is not None:
            query = query.where(schema.run.c.task.in_(tasks))
        async with self.reading() as connection:
            return [progress_of(row) for row in await connection.execute(query)]

    async def holder_of(self, run_id: str) -> str:
        """Name the process that runs it, or ran it last; empty where nobody has begun it, or it is not there."""
        async with self.reading() as connection:
            holder = await connection.scalar(select(schema.run.c.holder).where(schema.run.c.run_id == run_id))
        return str(holder or "")

    async def request_of(self, run_id: str) -> bytes:
        """Return the request that would start the run again, as it was given.

        Raises:
            RunNotFound: No such run.
        """
        return bytes((await self._one(run_id, schema.run.c.request)).request)

    async def message_of(self, run_id: str) -> str:
        """Name of the message by which a run was begun or continued last.

        Raises:
            RunNotFound: No such run.
        """
        return str((await self._one(run_id, schema.run.c.message)).message)

    async def _one(self, run_id: str, *columns: Column[Any]) -> Row[Any]:
        async with self.reading() as connection:
            row = (await connection.execute(select(*columns).where(schema.run.c.run_id == run_id))).one_or_none()
            if row is None:
                raise await self._missing(connection, run_id)
        return row

    async def _missing(self, connection: AsyncConnection, run_id: str) -> RunNotFound:
        gone = schema.expired_run
        row = (await connection.execute(select(gone).where(gone.c.id == run_id))).one_or_none()
        if row is None:
            return RunNotFound(
                f"no run {run_id!r} in the store: no worker has started it yet, or it uses another store"
            )
        return RunExpired(
            f"run {run_id} of {row.task} ended ({row.state}) at {row.finished_at:%Y-%m-%d %H:%M:%S} UTC, and was "
            f"deleted at {row.deleted_at:%Y-%m-%d %H:%M:%S} with its results and errors, as its retention was over"
        )

    async def errors(self, run_id: str, offset: int = 0, limit: int | None = None) -> list[ItemFailure]:
        """The items that failed, by index; all of them without a limit."""
        async with self.reading() as connection:
            return await failures.read(connection, run_id, offset, limit)

    async def results(
        self, run_id: str, decode: Callable[[bytes], Any] = msgspec.json.decode
    ) -> AsyncIterator[tuple[int, Any]]:
        """Results that are stored, ``(index, value)`` in index order, in bounded memory.

        A run that has not ended gives what is stored so far.

        Args:
            run_id: The run.
            decode: The reverse of the run's ``encode``.

        Raises:
            RunNotFound: No such run.
            CheckpointCorrupt: A chunk cannot be what was written.
        """
        async for index, value in self.stored_results(run_id):
            yield index, decode(await large.brought_back(value, self.payloads))

    async def stored_results(self, run_id: str) -> AsyncIterator[tuple[int, bytes]]:
        """As `results`, but each as it stands in its chunk: encoded, and a large one as where it lies."""
        progress = await self.progress(run_id)
        async with self.reading() as connection:
            keyed = await connection.scalar(select(schema.run.c.keyed).where(schema.run.c.run_id == run_id))
            parts = await partitions_of(connection, run_id)
        for one in [part.progress for part in parts] or [progress]:
            # A keyed run that was resumed may have seen its items in another order than the one they were stored in.
            moved = keyed and one.attempt > 1
            reader = reading.moved_results if moved else reading.sorted_results
            async for index, value in reader(self.reading, one):
                yield index, value

    async def is_keyed(self, run_id: str) -> bool:
        """Return whether a run's items are known by a key.

        Raises:
            RunNotFound: No such run.
        """
        return bool((await self._one(run_id, schema.run.c.keyed)).keyed)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; what the database raises becomes a `StoreError`."""
        with self._translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction to write in; what the database raises becomes a `StoreError`."""
        with self._translated():
            async with self._writer.begin() as connection:
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as exc:
            raise StoreError(f"store {self.url}: {said(exc)}") from exc


def _hold(progress: Progress, fence: int, keyed: bool, *, next_chunk: int = 0, **rest: Any) -> RunHold:
    return RunHold(
        run_id=progress.run_id,
        fence=fence,
        attempt=progress.attempt,
        keyed=bool(keyed),
        next_chunk=next_chunk,
        progress=progress,
        **rest,
    )
