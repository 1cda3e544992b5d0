"""Find out whether a store can be used, and what it is."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, make_url, select, update
from sqlalchemy.exc import SQLAlchemyError

from asyncworker.errors import StoreError
from asyncworker.store import schema
from asyncworker.store.opening import open_store
from asyncworker.store.sql import WRITES

__all__ = ["StoreReport", "probe_store"]


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is; the URL is without its password."""

    url: str
    database: str
    database_version: str
    schema_version: int
    runs: int


async def probe_store(url: str) -> StoreReport:
    """Open a store, as a worker would, and write what stands there already.

    Args:
        url: As for :func:`asyncworker.store.open_store`, which makes the tables where there are none.

    Raises:
        SettingsError: The URL cannot be a store.
        StoreVersionError: The tables were made by a version that stores otherwise.
        StoreError: The database cannot be used.
    """
    shown = make_url(url).render_as_string(hide_password=True) if "://" in url else url
    store = await open_store(url)
    engine = store._engine
    try:
        async with engine.execution_options(**{WRITES: True}).begin() as connection:
            await connection.execute(update(schema.version).values(version=schema.SCHEMA_VERSION))
            runs = await connection.scalar(select(func.count()).select_from(schema.run))
        version = engine.dialect.server_version_info or ()
        return StoreReport(
            url=shown,
            database=engine.dialect.name,
            database_version=".".join(map(str, version)),
            schema_version=schema.SCHEMA_VERSION,
            runs=runs or 0,
        )
    except (SQLAlchemyError, OSError) as exc:
        raise StoreError(f"store {shown}: {type(exc).__name__}: {exc}") from exc
    finally:
        await store.close()
