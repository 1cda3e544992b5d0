"""Runs and their checkpoints, in a database."""

from asyncworker.store.bitmap import Bitmap
from asyncworker.store.opening import open_store
from asyncworker.store.records import (
    Batch,
    Counters,
    ItemFailure,
    KeyChunk,
    Progress,
    ResultChunk,
    RunHold,
    RunRequest,
    RunState,
)
from asyncworker.store.sql import OnChange, Store

__all__ = [
    "Batch",
    "Bitmap",
    "Counters",
    "ItemFailure",
    "KeyChunk",
    "OnChange",
    "Progress",
    "ResultChunk",
    "RunHold",
    "RunRequest",
    "RunState",
    "Store",
    "open_store",
]
