"""The store of a process: one on its loop, whoever asks."""

from __future__ import annotations

from asyncworker.resources import lifetimes
from asyncworker.settings import Settings
from asyncworker.store.opening import open_store
from asyncworker.store.sql import Store

__all__ = ["shared_store"]


async def shared_store(settings: Settings) -> Store:
    """Return the running loop's store for these settings, opened on first use; it is closed with the loop.

    Raises:
        SettingsError: The URL cannot be a store.
        StoreError: The database cannot be used.
    """
    url = settings.store_url_or_default()
    return await lifetimes().use(("store", url), lambda: open_store(url))
