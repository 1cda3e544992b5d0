"""State of tasks: a few values per task, one row each, written in batches under a fencing number."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Row, Text, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import CheckpointCorrupt, StateTakenOver, StoreError
from asyncworker.store import schema
from asyncworker.store.patience import patiently
from asyncworker.store.schema import checksum_of, first_fence
from asyncworker.store.sql import Store
from asyncworker.store.storable import fitted_id, from_storable, to_storable

__all__ = ["TaskState", "TaskStates"]

logger = logging.getLogger(__name__)

#: The most tasks in one statement: databases bound its parameters.
TASKS_A_STATEMENT = 500
#: The longest time between two looks for rows that are to be swept.
SWEEP_EVERY_S = 3600.0

_table = schema.task_state


class TaskState:
    """The values of one task, as one execution of it holds them: encoded, by key.

    Attributes:
        version: Counts changes.
        written: The version that the store holds.
        lost: Another execution of the task has opened its state since; nothing of this one is written any more.
    """

    __slots__ = ("__weakref__", "fence", "lost", "task_id", "values", "version", "written")

    def __init__(self, task_id: str, fence: int, values: dict[str, bytes]) -> None:
        self.task_id = task_id
        self.fence = fence
        self.values = values
        self.version = self.written = 0
        self.lost = False

    @property
    def size_bytes(self) -> int:
        """Size that counts for a limit: keys and values."""
        return sum(len(key.encode(errors="surrogatepass")) + len(value) for key, value in self.values.items())

    def check_held(self) -> None:
        """Refuse to go on with what is another's.

        Raises:
            StateTakenOver: Another execution of the task has opened its state since.
        """
        if self.lost:
            raise StateTakenOver(
                f"state of task {self.task_id}: another execution of the task has opened it since; "
                "what this one still sets is not stored"
            )


class TaskStates:
    """The states of one process's tasks. Used on the loop of its store; `close` writes what is left.

    Args:
        store: Where they are.
        every_s: A change waits so long for others, that are written with it.
        keep_s: A state that no execution has held for so long is deleted.
        patience_s: How long a store that is away is waited for.
    """

    def __init__(self, store: Store, *, every_s: float = 0.25, keep_s: float, patience_s: float) -> None:
        self._store = store
        self._every_s = every_s
        self._keep_s = keep_s
        self._patience_s = patience_s
        self._opening: dict[str, list[asyncio.Future[TaskState]]] = {}
        self._changed: set[TaskState] = set()
        self._flushing: list[tuple[TaskState, int, asyncio.Future[None]]] = []
        self._held: weakref.WeakSet[TaskState] = weakref.WeakSet()
        self._wake = asyncio.Event()
        self._closing = False
        self.transactions = 0
        loop = asyncio.get_running_loop()
        self._writer = loop.create_task(self._write_for_ever(), name="asyncworker-task-state")
        self._sweeper = loop.create_task(self._sweep_for_ever(), name="asyncworker-task-state-sweeper")

    async def open(self, task_id: str) -> TaskState:
        """Read a task's state, and take it from whoever holds it, whose writes are refused from now on.

        Raises:
            CheckpointCorrupt: Its row cannot be what was written.
            StoreError: The database could not be used for as long as it is waited for.
        """
        self._check_open()
        task_id = fitted_id(task_id)
        future: asyncio.Future[TaskState] = asyncio.get_running_loop().create_future()
        self._opening.setdefault(task_id, []).append(future)
        self._wake.set()
        return await future

    def change(self, state: TaskState) -> None:
        """Say that a state's values were changed; they are written soon."""
        state.version += 1
        if not self._changed:
            self._wake.set()
        self._changed.add(state)

    async def flush(self, state: TaskState) -> None:
        """Wait until all that was changed so far is written.

        Raises:
            StateTakenOver: Another execution of the task has opened its state since.
            StoreError: The database could not be used for as long as it is waited for.
        """
        state.check_held()
        if state.written == state.version:
            return
        self._check_open()
        self._changed.add(state)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.append((state, state.version, future))
        self._wake.set()
        await future

    async def delete(self, prefix: str) -> None:
        """Delete all states whose task's id begins so.

        Raises:
            StoreError: The database could not be used.
        """
        self._changed = {state for state in self._changed if not state.task_id.startswith(prefix)}
        stored = to_storable(prefix)
        # Not LIKE: SQLite's takes capital letters for small ones, and would meet the states of others.
        begins_so = func.substr(_table.c.task_id, 1, len(stored), type_=Text) == stored
        async with self._store.writing() as connection:
            await connection.execute(delete(_table).where(begins_so))

    async def close(self) -> None:
        """Write what is left, once."""
        self._closing = True
        self._sweeper.cancel()
        self._wake.set()
        await asyncio.wait([self._writer, self._sweeper])

    def _check_open(self) -> None:
        if self._closing:
            raise StoreError(f"store {self._store.url}: the state of tasks was closed with the event loop")

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write_for_ever(self) -> None:
        while not self._closing:
            self._wake.clear()
            if self._opening or self._flushing:
                await self._pass(self._patience_s)
            elif not self._changed:
                await self._wake.wait()
            else:
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._wait_for_haste()
                except TimeoutError:
                    await self._pass(self._patience_s)
        await self._pass(0)

    async def _wait_for_haste(self) -> None:
        while not (self._opening or self._flushing or self._closing):
            await self._wake.wait()
            self._wake.clear()

    async def _pass(self, patience_s: float) -> None:
        """Open and write all that there is; whoever waited for a store that did not come back gets its error."""
        opening, self._opening = self._opening, {}
        flushing, self._flushing = self._flushing, []
        changed, self._changed = list(self._changed), set()
        versions = {state: state.version for state in changed}
        what = f"state of {len(opening.keys() | {state.task_id for state in changed}):,} tasks"
        try:
            # Writes first: the state of a task's last execution, which may be the one that is opened now.
            lost = await patiently(lambda: self._write(changed), patience_s=patience_s, what=what)
            opened = await patiently(lambda: self._open(list(opening)), patience_s=patience_s, what=what)
        except Exception as exc:
            error = exc if isinstance(exc, StoreError) else StoreError(f"{what}: {exc!r}")
            logger.error("%s could not be written or read: %s", what, error)
            self._fail(opening, flushing, error)
            # Whoever waited was told; the others, whose tasks go on, get another chance.
            told = {state for state, _, _ in flushing}
            self._changed |= {state for state in changed if state not in told}
            return
        for state in changed:
            state.written = versions[state]
            state.lost = state.lost or state in lost
        for state, version, flushed in flushing:
            _settle_flush(state, version, flushed)
        for task_id, waiters in opening.items():
            for waiter in waiters:
                self._settle_open(opened[task_id], waiter)

    def _settle_open(self, opened: TaskState | CheckpointCorrupt, waiter: asyncio.Future[TaskState]) -> None:
        if waiter.done():
            return
        if isinstance(opened, CheckpointCorrupt):
            waiter.set_exception(CheckpointCorrupt(*opened.args))
        else:
            self._held.add(opened)
            waiter.set_result(opened)

    @staticmethod
    def _fail(
        opening: dict[str, list[asyncio.Future[TaskState]]],
        flushing: list[tuple[TaskState, int, asyncio.Future[None]]],
        error: StoreError,
    ) -> None:
        waiting: list[asyncio.Future[Any]] = [waiter for waiters in opening.values() for waiter in waiters]
        for waiter in waiting + [flushed for _, _, flushed in flushing]:
            if not waiter.done():
                waiter.set_exception(type(error)(*error.args))

    async def _open(self, task_ids: list[str]) -> dict[str, TaskState | CheckpointCorrupt]:
        opened: dict[str, TaskState | CheckpointCorrupt] = {}
        for part in _parts(task_ids):
            for last_try in (False, True):
                try:
                    async with self._store.writing() as connection:
                        opened |= await _take(connection, part)
                        break
                except StoreError as exc:
                    # Another process made a row between our look and our insert: it is there to be read now.
                    if last_try or not isinstance(exc.__cause__, IntegrityError):
                        raise
            self.transactions += 1
        return opened

    async def _write(self, changed: list[TaskState]) -> set[TaskState]:
        """Write states; returns those that are another execution's by now."""
        lost: set[TaskState] = set()
        for part in _parts(sorted(changed, key=lambda state: state.task_id)):
            async with self._store.writing() as connection:
                lost |= await _put(connection, part)
            self.transactions += 1
        return lost

    # -- sweeping ------------------------------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as exc:
                logger.warning("old state of tasks could not be deleted: %s", exc)
            await asyncio.sleep(min(SWEEP_EVERY_S, self._keep_s / 4))

    async def sweep(self) -> int:
        """Delete states that no execution has held for `keep_s`; returns how many. Those held here are made young."""
        held = [state for state in self._held if not state.lost]
        for state in held:
            self.change(state)
        for flushed in await asyncio.gather(*map(self.flush, held), return_exceptions=True):
            if isinstance(flushed, StoreError):
                raise flushed
        old = _table.c.updated_at < datetime.now(UTC) - timedelta(seconds=self._keep_s)
        async with self._store.writing() as connection:
            return (await connection.execute(delete(_table).where(old))).rowcount


async def _take(connection: AsyncConnection, task_ids: list[str]) -> dict[str, TaskState | CheckpointCorrupt]:
    rows = (await connection.execute(_locked(task_ids))).all()
    now = datetime.now(UTC)
    found = {row.task_id: _state_of(row) for row in rows}
    if found:
        raised = update(_table).where(_table.c.task_id.in_(found)).values(fence=_table.c.fence + 1, updated_at=now)
        await connection.execute(raised)
    new: dict[str, dict[str, Any]] = {
        task_id: {
            "task_id": task_id,
            "fence": first_fence(),
            "updated_at": now,
            "checksum": checksum_of(_EMPTY),
            "body": _EMPTY,
        }
        for task_id in task_ids
        if task_id not in found
    }
    if new:
        await connection.execute(insert(_table), list(new.values()))
    return {**found, **{task_id: TaskState(task_id, row["fence"], {}) for task_id, row in new.items()}}


async def _put(connection: AsyncConnection, states: list[TaskState]) -> set[TaskState]:
    rows = await connection.execute(_locked([state.task_id for state in states]))
    fences = {row.task_id: row.fence for row in rows}
    lost = {state for state in states if fences.get(state.task_id) != state.fence}
    now = datetime.now(UTC)
    changes = []
    for state in states:
        if state not in lost:
            body = _encode({to_storable(key): value for key, value in state.values.items()})
            change = {"id": state.task_id, "updated_at": now, "checksum": checksum_of(body), "body": body}
            changes.append(change)
    if changes:
        await connection.execute(update(_table).where(_table.c.task_id == bindparam("id")), changes)
    return lost


def _locked(task_ids: list[str]) -> Any:
    # In one order everywhere: two processes that lock the same rows must not wait for each other.
    return select(_table).where(_table.c.task_id.in_(task_ids)).order_by(_table.c.task_id).with_for_update()


def _state_of(row: Row[Any]) -> TaskState | CheckpointCorrupt:
    body = bytes(row.body)
    if checksum_of(body) == row.checksum:
        try:
            values = msgspec.msgpack.decode(body, type=dict[str, bytes])
            return TaskState(row.task_id, row.fence + 1, {from_storable(key): each for key, each in values.items()})
        except msgspec.MsgspecError:
            pass  # Reported below: a checksum that fits a body of another kind is no better than none.
    return CheckpointCorrupt(
        f"state of task {row.task_id}: its row cannot be what was written; send the task under another id, "
        "or delete the row from asyncworker_task_state"
    )


def _settle_flush(state: TaskState, version: int, flushed: asyncio.Future[None]) -> None:
    if flushed.done():
        return
    try:
        state.check_held()
    except StateTakenOver as exc:
        flushed.set_exception(exc)
    else:
        assert state.written >= version
        flushed.set_result(None)


def _parts(values: Iterable[Any]) -> Iterable[list[Any]]:
    every = list(values)
    return (every[start : start + TASKS_A_STATEMENT] for start in range(0, len(every), TASKS_A_STATEMENT))


_encode = msgspec.msgpack.Encoder().encode
_EMPTY = _encode({})
