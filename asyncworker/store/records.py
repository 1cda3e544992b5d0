"""Values exchanged with the store: requests, holds, batches, progress, failures and dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from asyncworker.printable import printable

__all__ = [
    "Batch",
    "Counters",
    "DeadLetter",
    "ItemFailure",
    "KeyChunk",
    "Partition",
    "Progress",
    "RESERVED_AT_FIRST",
    "ResultChunk",
    "RunHold",
    "RunRequest",
    "RunState",
    "Start",
]

RunState = Literal["pending", "running", "done", "failed", "cancelled"]


#: A pending run has no holder: not begun yet, or released by a worker that was told to end.
UNENDED: tuple[RunState, ...] = ("pending", "running")


#: Items that may begin before the first checkpoint.
RESERVED_AT_FIRST = 256


def _now() -> datetime:
    return datetime.now(UTC)


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Request to the store to start or resume a run."""

    run_id: str
    task: str
    """Name of what runs each item."""
    fingerprint: str
    """Identity of the fixed arguments and the source, parted by a point; a checkpoint of another one is not resumed.

    Where items are known by a key, what stands after the point may differ.
    """
    total: int | None = None
    """How many items the source has, where it is known."""
    keyed: bool = False
    """Items are known by a key, not by their index."""
    request: bytes = b""
    """What would start the run again; opaque to the store."""
    message: str = ""
    """Names the message that asks, which may come twice; empty: it has no name."""
    holder: str = ""
    """Names the process that is to run it, for people to read."""
    partitions: int = 0
    """How many partitions it is cut into; 0: none, it is undivided."""
    pardon: bool = False
    """Run items, too, that were given up since their process died twice."""
    started_at: datetime = msgspec.field(default_factory=_now)

    def is_of(self, message: str) -> bool:
        """Tell whether it is that message that asks."""
        return bool(self.message) and self.message == message


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    run_id: str
    task: str
    state: RunState
    total: int | None = None
    done: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    """Attempts that failed and were tried again, in this attempt of the run."""
    resumed: int = 0
    """Items that this attempt did not run, because a checkpoint holds them."""
    carried: int = 0
    """Items that the checkpoint held when this attempt of the run began."""
    attempt: int = 1
    """How many times the run was begun without starting afresh; 0: never yet."""
    complete: bool = False
    """Every item of the source was settled; what failed has failed for good."""
    error: str = ""
    """What ended the run before it was complete."""
    started_at: datetime
    attempt_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None

    @classmethod
    def pending(cls, run_id: str) -> Progress:
        """Where a run stands that nobody has begun."""
        now = _now()
        return cls(run_id=run_id, task="", state="pending", attempt=0, started_at=now, attempt_at=now, updated_at=now)

    @property
    def ended(self) -> bool:
        """Nobody runs it, and nobody is going to unless asked."""
        return self.state not in UNENDED

    @property
    def settled(self) -> int:
        """Items that are done, skipped or failed."""
        return self.done + self.skipped + self.failed

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1, where the total is known."""
        if self.total is None:
            return None
        return min(1.0, self.settled / self.total) if self.total else 1.0

    @property
    def rate(self) -> float:
        """Items a second, over this attempt of the run; 0.0 before the first checkpoint."""
        elapsed_s = (self.updated_at - self.attempt_at).total_seconds()
        return max(0, self.settled - self.carried) / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Estimate of the seconds left, where total and rate are known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.settled) / self.rate


class Partition(msgspec.Struct, frozen=True):
    """A contiguous range of a run's source, as a run of its own."""

    number: int
    fence: int
    progress: Progress


class ItemFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An item that failed for good, as far as this attempt of the run goes."""

    index: int
    key: str
    """The item's key; without one, its keyword arguments, shortened."""
    type: str
    """Qualified name of the exception's class; builtins without their module."""
    message: str
    attempt: int
    """How many times the item was tried."""
    traceback: str
    at: datetime

    def __str__(self) -> str:
        # On one line, and without what moves a cursor: keys and messages are others' text.
        return printable(f"item {self.index} ({self.key}): {self.type}: {self.message}")


class Counters(msgspec.Struct, frozen=True):
    """The counters of a run: done and skipped since it was started afresh, the others of this attempt of it."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    retried: int = 0
    resumed: int = 0


class ResultChunk(msgspec.Struct, frozen=True):
    """Results of up to 1,000 items, sorted by index."""

    indexes: list[int]
    values: list[bytes]
    keys: bytes = b""
    """Keyed runs: 16 bytes an item, in the same order."""


class KeyChunk(msgspec.Struct, frozen=True):
    """Where items with a key stand in the source, as this attempt of the run saw it."""

    keys: bytes
    """16 bytes an item."""
    indexes: list[int]
    skipped: list[int]
    """Those of the indexes whose items were skipped."""
    failed: list[int] = []
    """Those whose items failed."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Changes to a run that one transaction stores."""

    counters: Counters
    finished_map: bytes = b""
    """The bitmap of finished indexes, whole; empty in keyed runs."""
    results: list[ResultChunk] = []
    keys: list[KeyChunk] = []
    failures: list[ItemFailure] = []
    failure_digests: list[bytes] = []
    """Keyed runs: the key of each, 16 bytes; empty where that was not its own."""
    kept_failures: list[tuple[bytes, int]] = []
    """Keyed runs: digests of items that failed in an earlier attempt, and that the source does not list any more; and
    the indexes that they have now."""
    first_row: int = 0
    """Place of the first of `rows`."""
    rows: bytes = b""
    """Digests of rows that were read, 8 bytes each, where the source can change and items have no key."""
    total: int | None = None
    """Given once it is known; ``None`` leaves what is stored."""
    state: RunState = "running"
    complete: bool = False
    error: str = ""
    reserved: int = 0
    """Items below this place in the source may begin."""
    suspect: str = ""
    """The item that runs alone, since a process died when it was in flight."""
    suspects_below: int = 0
    """Items below this place that are not finished have to run alone; 0: none."""
    at: datetime


class RunHold(msgspec.Struct, frozen=True, kw_only=True):
    """The right to write a run, and what its checkpoint held when it was taken."""

    run_id: str
    fence: int
    """Writes count only while the stored fence is this one."""
    attempt: int
    keyed: bool
    next_chunk: int
    """Sequence number of the next chunk row; a holder counts on from here by itself."""
    progress: Progress
    finished: Progress | None = None
    """Set where the run has ended and is not to be run again; then nothing is held."""
    asked_at_s: float | None = None
    """When it was asked for, by its holder's monotonic clock: from then on others may count its silence."""
    finished_map: bytes = b""
    reserved: int = RESERVED_AT_FIRST
    """Items below this place in the source may begin."""
    suspects_below: int = 0
    """Items below this place that are not finished were in flight when a process died, or may have been; 0: none."""
    convicted: tuple[str, ...] = ()
    """Items, by key or index, that were running alone when a process died."""
    keys: list[KeyChunk] = []
    """Keyed runs: all that was stored, oldest first."""
    rows: bytes = b""
    """Digests of the rows that were read, where they are kept."""
    cancel_requested: bool = False
    """Somebody asked for it while nobody held the run, or while its holder was dead."""
    again: bool = False
    """The run was there before."""


class Start(msgspec.Struct, frozen=True):
    """One beginning of a task."""

    at: datetime
    worker: str
    pid: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a message, that was given up, with what a replay needs."""

    task_id: str
    task: str
    queue: str
    starts: int
    """Beginnings after the first; none of them came to an end."""
    dead_at: datetime
    history: list[Start]
    arguments: bytes
    """As the caller encoded them; empty, or without ``args``, where they could not be read."""
    reason: str = ""
    """Of a message that cannot be run: what is wrong with it."""
    message: bytes = b""
    """Of such a message: its first bytes."""
