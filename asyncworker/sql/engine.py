"""SQLAlchemy's engines: one a database, shared by all tasks of a process."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asyncworker.errors import SettingsError
from asyncworker.resources import lifetimes
from asyncworker.sql.options import Options

__all__ = ["WRITES", "engine", "open_engine"]

#: Execution option of connections that will write: SQLite takes its write lock at BEGIN for these.
WRITES = "asyncworker_sql_writes"


class _Kept:
    """An engine as what closes with its loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def close(self) -> None:
        await self.engine.dispose()


async def engine(url: str, **options: Any) -> AsyncEngine:
    """Return this process's engine for that database and those options, made once on the running loop.

    It connects when it is first used, and is closed when the loop stops; a caller does not close it.

    Args:
        url: An SQLAlchemy URL; ``postgresql://`` and ``sqlite://`` mean the async drivers.
        options: See :class:`~asyncworker.sql.options.Options`. Other options mean another engine.

    Raises:
        SettingsError: An option does not exist, a value is not allowed, or the driver is not installed.
    """
    wanted = Options.of(url, **options)

    async def make() -> _Kept:
        return _Kept(await _open(wanted))

    return (await lifetimes().use((AsyncEngine, wanted), make)).engine


async def open_engine(url: str, **options: Any) -> AsyncEngine:
    """Open an engine of one's own; its owner ends it by ``await engine.dispose()``. Takes what :func:`engine` takes."""
    return await _open(Options.of(url, **options))


async def _open(options: Options) -> AsyncEngine:
    try:
        # In a thread: it imports the driver.
        made = await asyncio.to_thread(create_async_engine, options.url, **options.arguments())
    except ImportError as exc:
        ours = "; pip install 'asyncworker[postgres]'?" if options.url.get_backend_name() == "postgresql" else ""
        raise SettingsError(f"SQL url is {options.shown!r}: {exc}{ours or '; install its driver'}") from exc
    except (SQLAlchemyError, TypeError) as exc:
        raise SettingsError(f"SQL url is {options.shown!r}: {exc}") from exc
    if options.sqlite:
        event.listen(made.sync_engine, "connect", _set_up_sqlite)
        event.listen(made.sync_engine, "begin", _begin_sqlite)
    else:
        _check_when_idle(made, options.check_after_s)
    return made


def _check_when_idle(engine: AsyncEngine, after_s: float) -> None:
    """Ask a connection for a sign of life, if nobody used it for so long.

    SQLAlchemy's own ``pool_pre_ping`` asks before each use: three more round trips to PostgreSQL.
    """
    dialect: Any = engine.dialect

    def returned(_connection: Any, record: Any) -> None:
        record.info["idle_since_s"] = time.monotonic()

    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since_s = record.info.pop("idle_since_s", None)
        if idle_since_s is None or time.monotonic() - idle_since_s < after_s:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as exc:
            raise InvalidatePoolError(str(exc)) from exc  # the others died with it

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", taken)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours, below
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")  # who reads does not stop who writes
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later could not wait for the lock, it would fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")
