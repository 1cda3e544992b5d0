"""The store of a process: one on its loop, whoever asks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from asyncworker.loop import off_loop_async
from asyncworker.resources import lifetimes
from asyncworker.settings import Settings
from asyncworker.store.payloads import Payloads

if TYPE_CHECKING:
    from asyncworker.store.sql import Store

__all__ = ["opened_store", "payloads_of", "shared_store"]


async def shared_store(settings: Settings) -> Store:
    """Return the running loop's store for these settings, opened on first use; it is closed with the loop.

    Raises:
        SettingsError: The URL cannot be a store.
        StoreError: The database cannot be used.
    """
    url = settings.store_url_or_default()

    async def make() -> Store:
        # SQLAlchemy takes a second to import, on a busy machine: off the loop, as all that blocks.
        await off_loop_async(_import, url)
        from asyncworker.store.opening import BUSY_TIMEOUT_S, open_store

        # A lock that is held for longer than we are patient is an error, of which the caller can make something.
        store = await open_store(url, busy_timeout_s=min(BUSY_TIMEOUT_S, max(1.0, settings.store_patience_s)))
        store.patience_s = settings.store_patience_s
        store.payloads = payloads_of(settings)
        return store

    return await lifetimes().use(_key(settings), make)


def _import(url: str) -> None:
    """Import what is done with a store of this URL; what is wrong with the URL is said where it is opened."""
    from asyncworker.store import import_all

    import_all()
    with suppress(Exception):
        from sqlalchemy import make_url

        make_url(url).get_dialect().import_dbapi()


def opened_store(settings: Settings) -> Store | None:
    """Return the running loop's store for these settings, where something has opened it."""
    store: Store | None = lifetimes().made(_key(settings))
    return store


def _key(settings: Settings) -> tuple[str, str, str]:
    return "store", settings.store_url_or_default(), settings.payload_url_or_default()


def payloads_of(settings: Settings) -> Payloads | None:
    """Return the payload store of these settings, where there is one; nothing is opened before it is used."""
    url = settings.payload_url_or_default()
    return Payloads(url, settings.payload_over_bytes) if url else None
