"""Runs and their checkpoints, in a database.

What needs SQLAlchemy is imported when it is first asked for: a worker that uses no store is smaller by it, and starts
sooner. So whoever uses such a name imports it where it is used, unless for its type alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asyncworker.store.bitmap import Bitmap
from asyncworker.store.patience import patiently, wait_writable
from asyncworker.store.payloads import Payload, Payloads
from asyncworker.store.records import (
    RESERVED_AT_FIRST,
    Batch,
    Counters,
    DeadLetter,
    ItemFailure,
    KeyChunk,
    Partition,
    Progress,
    ResultChunk,
    RunHold,
    RunRequest,
    RunState,
    Start,
)
from asyncworker.store.shared import opened_store, payloads_of, shared_store
from asyncworker.store.silence import Silence
from asyncworker.store.suspicion import ACCUSED

if TYPE_CHECKING:
    from asyncworker.store.deliveries import Deliveries
    from asyncworker.store.ending import end_unheld_run
    from asyncworker.store.housekeeping import Housekeeper, keep_house
    from asyncworker.store.leases import Lease, Leases
    from asyncworker.store.opening import open_store
    from asyncworker.store.partitions import Partitions
    from asyncworker.store.sql import OnChange, Store
    from asyncworker.store.state import TaskState, TaskStates
    from asyncworker.store.watch import look_at_holders, silence_of

__all__ = [
    "ACCUSED",
    "Batch",
    "Bitmap",
    "Counters",
    "DeadLetter",
    "Deliveries",
    "Housekeeper",
    "ItemFailure",
    "KeyChunk",
    "Lease",
    "Leases",
    "OnChange",
    "Partition",
    "Partitions",
    "Payload",
    "Payloads",
    "Progress",
    "RESERVED_AT_FIRST",
    "ResultChunk",
    "RunHold",
    "RunRequest",
    "RunState",
    "Silence",
    "Start",
    "Store",
    "TaskState",
    "TaskStates",
    "end_unheld_run",
    "import_all",
    "keep_house",
    "look_at_holders",
    "open_store",
    "opened_store",
    "patiently",
    "payloads_of",
    "shared_store",
    "silence_of",
    "wait_writable",
]

#: Where the names are that need SQLAlchemy.
_HOMES = {
    "Deliveries": "deliveries",
    "Housekeeper": "housekeeping",
    "Lease": "leases",
    "Leases": "leases",
    "OnChange": "sql",
    "Partitions": "partitions",
    "Store": "sql",
    "TaskState": "state",
    "TaskStates": "state",
    "end_unheld_run": "ending",
    "keep_house": "housekeeping",
    "look_at_holders": "watch",
    "open_store": "opening",
    "silence_of": "watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def import_all() -> None:
    """Import all that needs SQLAlchemy; on a thread, for it takes up to a second on a busy machine."""
    for home in sorted(set(_HOMES.values())):
        importlib.import_module(f"{__name__}.{home}")
