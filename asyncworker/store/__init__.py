"""Runs and their checkpoints, in a database."""

from asyncworker.store.bitmap import Bitmap
from asyncworker.store.deliveries import DeadLetter, Deliveries, Start
from asyncworker.store.housekeeping import Housekeeper, keep_house
from asyncworker.store.leases import Lease, Leases
from asyncworker.store.opening import open_store
from asyncworker.store.partitions import Partitions
from asyncworker.store.patience import patiently
from asyncworker.store.payloads import Payload, Payloads
from asyncworker.store.probe import wait_writable
from asyncworker.store.records import (
    Batch,
    Counters,
    ItemFailure,
    KeyChunk,
    Partition,
    Progress,
    ResultChunk,
    RunHold,
    RunRequest,
    RunState,
)
from asyncworker.store.shared import payloads_of, shared_store
from asyncworker.store.sql import OnChange, Store
from asyncworker.store.state import TaskState, TaskStates

__all__ = [
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
    "ResultChunk",
    "RunHold",
    "RunRequest",
    "RunState",
    "Start",
    "Store",
    "TaskState",
    "TaskStates",
    "keep_house",
    "open_store",
    "patiently",
    "payloads_of",
    "shared_store",
    "wait_writable",
]
