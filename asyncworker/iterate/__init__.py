"""Run one call for each item of a source, inside one task: bounded, retried, checkpointed."""

from asyncworker.iterate.checkpoint import MemoryRecorder, Recorder
from asyncworker.iterate.columns import OpenTask, TaskSource, previous_result
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.engine import Call, run_items
from asyncworker.iterate.exception_names import exception_names
from asyncworker.iterate.item import Item, RetryItem, SkipItem, current_item
from asyncworker.iterate.item_logging import mark_records
from asyncworker.iterate.keys import check_key
from asyncworker.iterate.offload import OffloadedValues, offload_source
from asyncworker.iterate.on_thread import run_on_thread
from asyncworker.iterate.options import IterateOptions, make_options
from asyncworker.iterate.outcome import RunOutcome
from asyncworker.iterate.partitions import execute_split
from asyncworker.iterate.ranges import check_known_length
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.iterate.results import Order, Page, Unreadable, pages_of
from asyncworker.iterate.runs import execute_run, outcome_of
from asyncworker.iterate.source import Row, Source, SourceMode, source_of, source_of_rows
from asyncworker.iterate.source_thread import call_source
from asyncworker.iterate.split import SplitRun, execute_partition
from asyncworker.iterate.wire import source_from_wire
from asyncworker.store import ItemFailure, Progress

__all__ = [
    "Call",
    "Drain",
    "Item",
    "ItemFailure",
    "IterateOptions",
    "MemoryRecorder",
    "OffloadedValues",
    "OpenTask",
    "Order",
    "Page",
    "Progress",
    "Recorder",
    "RetryItem",
    "Row",
    "RunOutcome",
    "SkipItem",
    "Source",
    "SourceMode",
    "SplitRun",
    "StoreRecorder",
    "TaskSource",
    "call_source",
    "Unreadable",
    "check_key",
    "check_known_length",
    "current_item",
    "exception_names",
    "execute_partition",
    "execute_run",
    "execute_split",
    "make_options",
    "offload_source",
    "outcome_of",
    "mark_records",
    "pages_of",
    "previous_result",
    "run_items",
    "run_on_thread",
    "source_from_wire",
    "source_of",
    "source_of_rows",
]
