"""Open a store: connection settings, tables, and the version they must be of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, insert, inspect, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from asyncworker.errors import SettingsError, StoreError, StoreVersionError
from asyncworker.private_files import make_private, make_private_file, make_private_folder
from asyncworker.redaction import redacted
from asyncworker.settings import default_state_dir
from asyncworker.store import schema
from asyncworker.store.quiet import quieten, said
from asyncworker.store.sql import WRITES, Store

__all__ = ["open_store", "parsed_url"]

#: How long SQLite waits for a lock that another process holds.
BUSY_TIMEOUT_S = 30
#: Any number, the same for all: serialises the making of tables on PostgreSQL.
ADVISORY_LOCK = 0x6173796E63


async def open_store(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Store:
    """Open the store at an SQLAlchemy async URL, making its folder and tables where there are none.

    Args:
        url: ``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://...``.
        busy_timeout_s: How long SQLite waits for a lock that another process holds.

    Raises:
        SettingsError: The URL cannot be a store.
        StoreVersionError: The tables were made by a version that stores otherwise.
        StoreError: The database cannot be used.
    """
    parsed = parsed_url(url)
    shown = redacted(parsed.render_as_string(hide_password=True))
    try:
        # In a thread: it imports the driver, and looks at folders.
        engine = await asyncio.to_thread(_engine, parsed, busy_timeout_s)
    except (SQLAlchemyError, ImportError) as exc:
        raise SettingsError(f"store_url is {shown!r}: {said(exc)}") from exc
    except OSError as exc:
        raise StoreError(
            f"store {shown}: its file or folder cannot be made: {exc}; let this user write there, or set "
            "ASYNCWORKER_STATE_DIR or ASYNCWORKER_STORE_URL"
        ) from exc
    try:
        found = await _prepared(engine, busy_timeout_s)
    except (SQLAlchemyError, OSError) as exc:
        await engine.dispose()
        raise StoreError(f"store {shown}: {said(exc)}") from exc
    except (TypeError, ValueError, OverflowError) as exc:  # of its driver: an option, the port
        await engine.dispose()
        raise SettingsError(
            f"store_url is {shown!r}: its driver does not take it: {type(exc).__name__}: {exc}"
        ) from exc
    except BaseException:
        await engine.dispose()
        raise
    if found != schema.SCHEMA_VERSION:
        await engine.dispose()
        raise StoreVersionError(
            f"store {shown}: its tables are of version {found}, this asyncworker needs {schema.SCHEMA_VERSION}; "
            "point store_url at another database, or run the asyncworker that made it"
        )
    return Store(engine)


async def _prepared(engine: AsyncEngine, busy_timeout_s: float) -> int:
    # Two that switch a new file to WAL at once: SQLite sees a deadlock, and refuses one without waiting.
    locked = retry_if_exception(lambda exc: isinstance(exc, OperationalError) and "database is locked" in str(exc))
    stop, wait = stop_after_delay(busy_timeout_s), wait_random(0.01, 0.1)
    async for attempt in AsyncRetrying(retry=locked, wait=wait, stop=stop, reraise=True):
        with attempt:
            async with engine.execution_options(**{WRITES: True}).begin() as connection:
                return await connection.run_sync(_prepare)
    raise AssertionError("not reached")


def parsed_url(url: str) -> URL:
    """Return a store's URL in its parts.

    Raises:
        SettingsError: It is none.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: its port; the message would quote what may be of the password
        raise SettingsError(
            f"store_url is {redacted(url)!r}: not a database URL; expected sqlite+aiosqlite:///PATH or "
            f"postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingsError(f"store_url is {redacted(url)!r}: other processes must read it; give it a file")
    return parsed


def _engine(url: URL, busy_timeout_s: float) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        engine = create_async_engine(url, pool_pre_ping=True, hide_parameters=True)
        quieten(engine)
        return engine
    _make_private(Path(url.database or ""))
    engine = create_async_engine(url, connect_args={"timeout": busy_timeout_s}, hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: Path) -> None:
    """Make SQLite's file and folder for their owner alone: arguments and results are nobody else's business."""
    make_private_folder(path.parent, tighten=path.parent == Path(default_state_dir()))
    # What SQLite makes beside the file has its permissions.
    make_private_file(path)
    for beside in ("-wal", "-shm"):
        make_private(path.with_name(path.name + beside))


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred: a transaction that reads first could not wait for the write lock, it would
    # fail. So BEGIN is ours, below.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode=WAL")
        # Safe against a crash of the process; a power cut may lose the last transactions, never the file.
        cursor.execute("PRAGMA synchronous=NORMAL")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")


def _prepare(connection: Connection) -> int:
    """Make what is missing; return the version that is stored."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    if not inspect(connection).has_table(schema.version.name):
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.version).values(version=schema.SCHEMA_VERSION))
    found = connection.execute(select(schema.version.c.version)).scalar_one_or_none()
    return -1 if found is None else int(found)
