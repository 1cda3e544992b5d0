"""Tasks that kill their worker: how often each was begun; and the dead letters, what was given up."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import RunNotFound
from asyncworker.store import schema
from asyncworker.store.records import DeadLetter, Start
from asyncworker.store.sql import Store

__all__ = ["Deliveries"]


class Deliveries:
    """The account of one store. Only tasks that are delivered again are in it, and only while they run."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def begin(self, task_id: str, worker: str, pid: int) -> list[Start]:
        """Write down that a task begins again; returns all such beginnings that have not ended, this one included.

        Raises:
            StoreError: The database cannot be used.
        """
        table = schema.delivery
        async with self._store.writing() as connection:
            row = (
                await connection.execute(select(table).where(table.c.task_id == task_id).with_for_update())
            ).one_or_none()
            history = [] if row is None else msgspec.json.decode(row.history, type=list[Start])
            history.append(Start(datetime.now(UTC), worker, pid))
            values = {"starts": len(history), "history": msgspec.json.encode(history)}
            if row is None:
                await connection.execute(insert(table).values(task_id=task_id, **values))
            else:
                await connection.execute(update(table).where(table.c.task_id == task_id).values(values))
        return history

    async def end(self, task_id: str) -> None:
        """Forget the beginnings of a task: it came to an end, whatever end, and its process lives."""
        async with self._store.writing() as connection:
            await connection.execute(delete(schema.delivery).where(schema.delivery.c.task_id == task_id))

    async def bury(self, letter: DeadLetter) -> None:
        """Keep a task that is given up, in the place of an earlier one of that id."""
        async with self._store.writing() as connection:
            await _replace(connection, letter)
            await connection.execute(delete(schema.delivery).where(schema.delivery.c.task_id == letter.task_id))

    async def bury_messages(self, letters: list[DeadLetter]) -> None:
        """Keep messages that cannot be run: one letter for each, however often it is delivered.

        The id is the sender's word: a letter of that id which is about something else stays, and the new one's id gets
        a digest of its message.
        """
        table = schema.dead_letter
        async with self._store.writing() as connection:
            for letter in letters:
                about = select(table.c.starts, table.c.message).where(table.c.task_id == letter.task_id)
                there = (await connection.execute(about)).one_or_none()
                if there is not None and (there.starts or there.message != letter.message):
                    digest = hashlib.sha256(letter.message).hexdigest()[:12]
                    letter = msgspec.structs.replace(letter, task_id=f"{letter.task_id}#{digest}")
                await _replace(connection, letter)

    async def dead(self, limit: int = 50) -> list[DeadLetter]:
        """Return the tasks that were given up, the newest first."""
        table = schema.dead_letter
        async with self._store.reading() as connection:
            rows = await connection.execute(select(table).order_by(table.c.dead_at.desc()).limit(limit))
            return [_letter(row) for row in rows]

    async def dead_one(self, task_id: str) -> DeadLetter:
        """Return one of them.

        Raises:
            RunNotFound: No task of that id was given up.
        """
        table = schema.dead_letter
        async with self._store.reading() as connection:
            row = (await connection.execute(select(table).where(table.c.task_id == task_id))).one_or_none()
        if row is None:
            raise RunNotFound(f"no dead task {task_id!r} in the store")
        return _letter(row)

    async def forget_dead(self, task_id: str) -> None:
        """Delete one of them."""
        async with self._store.writing() as connection:
            await connection.execute(delete(schema.dead_letter).where(schema.dead_letter.c.task_id == task_id))


async def _replace(connection: AsyncConnection, letter: DeadLetter) -> None:
    values = msgspec.structs.asdict(letter) | {"history": msgspec.json.encode(letter.history)}
    table = schema.dead_letter
    await connection.execute(delete(table).where(table.c.task_id == letter.task_id))
    await connection.execute(insert(table).values(values))


def _letter(row: object) -> DeadLetter:
    values = {name: getattr(row, name) for name in DeadLetter.__struct_fields__}
    return DeadLetter(**values | {"history": msgspec.json.decode(values["history"], type=list[Start])})
