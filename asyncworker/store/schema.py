"""The tables, in SQLAlchemy Core: the same for SQLite and PostgreSQL."""

from __future__ import annotations

import secrets
import zlib
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.types import TypeDecorator

from asyncworker.store.records import RESERVED_AT_FIRST
from asyncworker.store.storable import IdText, StorableText

__all__ = [
    "SCHEMA_VERSION",
    "cancel_request",
    "checksum_of",
    "dead_letter",
    "delivery",
    "expired_run",
    "failure",
    "first_fence",
    "key_chunk",
    "lease",
    "metadata",
    "result_chunk",
    "row_chunk",
    "run",
    "task_state",
    "version",
]

SCHEMA_VERSION = 7


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes in and out, UTC; SQLite would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back what SQLite forgot."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def first_fence() -> int:
    """Return a fence for a new row.

    Not always the same: whoever held an earlier row of that name, which was deleted, must not hold this one, too.
    """
    return secrets.randbelow(1 << 30)


def checksum_of(*parts: bytes | int) -> int:
    """CRC-32 over what a row must agree on."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part if isinstance(part, bytes) else b"%d;" % part, crc)
    return crc


metadata = MetaData()

version = Table("asyncworker_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

run = Table(
    "asyncworker_run",
    metadata,
    Column("run_id", IdText, primary_key=True),
    Column("task", StorableText, nullable=False),
    Column("fingerprint", StorableText, nullable=False),
    Column("state", String(16), nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("error", StorableText, nullable=False),
    Column("attempt", Integer, nullable=False),
    # Raised each time the run changes hands; a write counts only under the fence that its writer was given.
    Column("fence", Integer, nullable=False),
    Column("keyed", Boolean, nullable=False),
    # Which message it was begun or resumed by: a second delivery of it is none that asks for more.
    Column("message", StorableText, nullable=False),
    # Which process runs it, for people to read.
    Column("holder", StorableText, nullable=False, default=""),
    # Of items that may kill their process: below which place items may have begun, below which place they have to run
    # alone, and which one does; whether the last holder fell silent; which items were given up, one a line.
    Column("reserved", BigInteger, nullable=False, default=RESERVED_AT_FIRST),
    Column("suspects_below", BigInteger, nullable=False, default=0),
    Column("suspect", StorableText, nullable=False, default=""),
    Column("died", Boolean, nullable=False, default=False),
    Column("convicted", StorableText, nullable=False, default=""),
    Column("total", BigInteger),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("retried", BigInteger, nullable=False),
    Column("resumed", BigInteger, nullable=False),
    Column("carried", BigInteger, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("attempt_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("finished_at", UTCDateTime),
    # A run on several workers has partitions, which are runs themselves: part of it, and numbered.
    Column("partitions", Integer, nullable=False, default=0),
    Column("part_of", IdText),
    Column("part_number", Integer),
    # Over the bitmap and the counters of what is finished.
    Column("checksum", BigInteger, nullable=False),
    # Last: SQLite reads a row from the left, and listing runs must not drag these along.
    Column("finished_map", LargeBinary, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Index("asyncworker_run_by_start", "started_at"),
    Index("asyncworker_run_by_state", "state"),
    Index("asyncworker_run_by_whole", "part_of", "part_number"),
)

failure = Table(
    "asyncworker_failure",
    metadata,
    Column("run_id", IdText, primary_key=True),
    # Those of an earlier attempt of a keyed run count again where its source is found not to list the item any more.
    Column("run_attempt", Integer, primary_key=True, autoincrement=False),
    Column("item_index", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False),
    Column("key", StorableText, nullable=False),
    Column("type", StorableText, nullable=False),
    Column("message", StorableText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("traceback", StorableText, nullable=False),
    Column("at", UTCDateTime, nullable=False),
)

result_chunk = Table(
    "asyncworker_result_chunk",
    metadata,
    Column("run_id", IdText, primary_key=True),
    Column("chunk", BigInteger, primary_key=True, autoincrement=False),
    Column("first_index", BigInteger, nullable=False),
    Column("body_bytes", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("asyncworker_result_chunk_by_index", "run_id", "first_index", "chunk"),
)

key_chunk = Table(
    "asyncworker_key_chunk",
    metadata,
    Column("run_id", IdText, primary_key=True),
    Column("chunk", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: What was read of a source that can change: 8 bytes a row, in the order of the source.
row_chunk = Table(
    "asyncworker_row_chunk",
    metadata,
    Column("run_id", IdText, primary_key=True),
    Column("first_row", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

#: Runs that nobody has begun, and that are to be cancelled when somebody does.
cancel_request = Table(
    "asyncworker_cancel_request",
    metadata,
    Column("run_id", IdText, primary_key=True),
    Column("asked_at", UTCDateTime, nullable=False),
)

#: What is left of runs that were deleted: that they were there.
expired_run = Table(
    "asyncworker_expired_run",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("task", StorableText, nullable=False),
    Column("state", String(16), nullable=False),
    Column("finished_at", UTCDateTime, nullable=False),
    Column("deleted_at", UTCDateTime, nullable=False),
)

#: Tasks that were delivered again and have begun: a row that stays is one whose process did not live to take it away.
delivery = Table(
    "asyncworker_delivery",
    metadata,
    Column("task_id", IdText, primary_key=True),
    Column("starts", Integer, nullable=False),
    # JSON: what began when and where.
    Column("history", LargeBinary, nullable=False),
)

dead_letter = Table(
    "asyncworker_dead_letter",
    metadata,
    Column("task_id", IdText, primary_key=True),
    Column("task", StorableText, nullable=False),
    Column("queue", StorableText, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("dead_at", UTCDateTime, nullable=False),
    Column("history", LargeBinary, nullable=False),
    # JSON: the arguments, for a replay.
    Column("arguments", LargeBinary, nullable=False),
    # Of a message that cannot be run.
    Column("reason", StorableText, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Index("asyncworker_dead_letter_by_time", "dead_at"),
)

lease = Table(
    "asyncworker_lease",
    metadata,
    Column("key", IdText, primary_key=True),
    Column("holder", IdText, nullable=False),
    Column("renewed_at", UTCDateTime, nullable=False),
    Column("ended", Boolean, nullable=False),
)

task_state = Table(
    "asyncworker_task_state",
    metadata,
    Column("task_id", IdText, primary_key=True),
    # Raised by each execution of the task that opens its state; a write counts only under the last one.
    Column("fence", Integer, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("asyncworker_task_state_by_time", "updated_at"),
)
