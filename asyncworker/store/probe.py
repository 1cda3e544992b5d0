"""Find out whether a store can be used, and what it is."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select, update

from asyncworker.store import schema
from asyncworker.store.opening import open_store

__all__ = ["StoreReport", "probe_store"]


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a store; the URL is without its password."""

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
    store = await open_store(url)
    try:
        async with store.writing() as connection:
            await connection.execute(update(schema.version).values(version=schema.SCHEMA_VERSION))
            runs = await connection.scalar(select(func.count()).select_from(schema.run))
            version = connection.dialect.server_version_info or ()
            return StoreReport(
                url=store.url,
                database=connection.dialect.name,
                database_version=".".join(map(str, version)),
                schema_version=schema.SCHEMA_VERSION,
                runs=runs or 0,
            )
    finally:
        await store.close()
