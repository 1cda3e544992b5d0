"""How far a bulk transfer is, and how it ended."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import ItemErrors
from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.transfer import Transfer

__all__ = ["BulkProgress", "BulkReport", "OnFile", "OnProgress", "Stopped", "Tracker", "warn_of_folder_times"]

#: Errors that are kept whole; those beyond are counted.
_ERRORS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """Where a bulk transfer stands.

    Attributes:
        files_found: Files that are to be moved, as far as the listing has come.
        files_done: Those that have arrived.
        files_failed: Those that have not, and will not.
        files_skipped: Those that were left out: there already, links, special files.
        files_filtered: Those that were not wanted: by filters, size or age.
        files_unfinished: Files that a transfer of ours has not finished, known by their names, and so not moved.
        files_deleted: Files and folders that a mirror deleted; in a dry run, would delete.
        leftovers_removed: Such files of earlier runs that were removed from the destination.
        bytes_found: Bytes of the files found.
        bytes_done: Bytes that have arrived, those of files that are not whole yet included.
        listed: Whether all has been found.
        elapsed_s: Seconds since the beginning.
    """

    files_found: int = 0
    files_done: int = 0
    files_failed: int = 0
    files_skipped: int = 0
    files_filtered: int = 0
    files_unfinished: int = 0
    files_deleted: int = 0
    leftovers_removed: int = 0
    bytes_found: int = 0
    bytes_done: int = 0
    listed: bool = False
    elapsed_s: float = 0.0

    @property
    def files_per_s(self) -> float:
        """Files that arrived, a second."""
        return self.files_done / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Bytes that arrived, a second."""
        return self.bytes_done / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(frozen=True, slots=True)
class BulkReport(BulkProgress):
    """How a bulk transfer ended.

    Attributes:
        errors: The files and folders that failed, the first thousand of them; ``files_failed`` counts all.
        warnings: What is worth knowing though nothing failed, in sentences.
        stopped: Why it ended before all was moved; ``None``: it did not.
    """

    errors: tuple[FileResult, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    stopped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and it went on to the end."""
        return not self.files_failed and self.stopped is None

    def raise_for_errors(self) -> None:
        """Raise what failed, if anything did.

        Raises:
            ItemErrors: An exception group with the first errors.
        """
        if self.files_failed:
            errors = [result.error for result in self.errors[:20] if result.error is not None]
            raise ItemErrors(f"{self.files_failed:,} of {self.files_found:,} files failed", errors)


OnProgress = Callable[[BulkProgress], Awaitable[None] | None]
OnFile = Callable[[FileResult], None]


class Stopped(Exception):
    """The transfer ends before all is moved."""


class Tracker:
    """Counts, and tells the caller's functions."""

    def __init__(
        self,
        on_progress: OnProgress | None = None,
        on_file: OnFile | None = None,
        on_skipped: OnFile | None = None,
        max_failures: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._on_progress = on_progress
        self._on_file = on_file
        self._on_skipped = on_skipped
        self._max_failures = max_failures
        self._clock = clock
        self._began_at = clock.monotonic()
        self._errors: list[FileResult] = []
        self._warnings: list[str] = []
        self.found = self.done = self.failed = self.skipped = self.filtered = self.unfinished = 0
        self.deleted = 0
        self.leftovers_removed = 0
        self.bytes_found = self.bytes_done = 0
        self.timeless = 0  # files that arrived without a time of change
        self.last: Transfer | None = None  # of the files that arrived
        self.listed = False
        self.stopped: str | None = None

    def find(self, size_bytes: int) -> None:
        """Count a file that is to be moved."""
        self.found += 1
        self.bytes_found += size_bytes

    def finish(self, result: FileResult, size_bytes: int | None = None) -> None:
        """Count a result; ``size_bytes`` is what was not counted yet of it, ``None``: all.

        Raises:
            Stopped: More have failed than may.
        """
        if result.transfer is not None:
            self.done += 1
            if result.transfer.mtime is None:
                self.timeless += 1
            if result.transfer.size_bytes:  # else it may be a link
                self.last = result.transfer
            self.bytes_done += result.transfer.size_bytes if size_bytes is None else size_bytes
        elif result.error is not None:
            self.failed += 1
            if len(self._errors) < _ERRORS_KEPT:
                self._errors.append(result)
        elif result.deletes:
            self.deleted += 1
        elif result.outcome == "skipped":
            self.skip(result.remote, result.local, result.reason or "", result.size_bytes)
            return
        if self._on_file is not None:
            self._on_file(result)
        if self._max_failures is not None and self.failed > self._max_failures:
            self.stopped = self.stopped or f"stopped after {self.failed:,} failures"
            raise Stopped(self.stopped)

    def retract(self, result: FileResult) -> None:
        """Count a file as failed that was counted as done.

        Raises:
            Stopped: More have failed than may.
        """
        self.done -= 1
        self.finish(result)

    def skip(self, remote: str, local: str, reason: str, size_bytes: int | None) -> None:
        """Count a file that is not moved, though it is wanted."""
        self.skipped += 1
        if self._on_skipped is not None:
            self._on_skipped(FileResult(remote, local, reason=reason, known_bytes=size_bytes))

    def filter(self, remote: str, local: str, reason: str, size_bytes: int | None) -> None:
        """Count a file that is not wanted."""
        self.filtered += 1
        if self._on_skipped is not None:
            self._on_skipped(FileResult(remote, local, reason=reason, known_bytes=size_bytes))

    def leave_out(self, remote: str, local: str, size_bytes: int | None) -> None:
        """Count a file that is not whole, and whose name is ours."""
        self.unfinished += 1
        if self._on_skipped is not None:
            self._on_skipped(FileResult(remote, local, reason="not finished", known_bytes=size_bytes))

    def remove_leftovers(self, count: int) -> None:
        """Count files of earlier runs that were removed."""
        self.leftovers_removed += count

    def warn(self, sentence: str) -> None:
        """Keep a sentence for the report; the same one once."""
        if sentence not in self._warnings:
            self._warnings.append(sentence)

    def now(self) -> BulkProgress:
        """Where it stands."""
        return BulkProgress(
            self.found,
            self.done,
            self.failed,
            self.skipped,
            self.filtered,
            self.unfinished,
            self.deleted,
            self.leftovers_removed,
            self.bytes_found,
            self.bytes_done,
            self.listed,
            self._clock.monotonic() - self._began_at,
        )

    def report(self) -> BulkReport:
        """How it ended."""
        now = self.now()
        values = {name: getattr(now, name) for name in BulkProgress.__dataclass_fields__}
        return BulkReport(**values, errors=tuple(self._errors), warnings=tuple(self._warnings), stopped=self.stopped)

    async def tell(self) -> None:
        """Call the caller's function, and wait for it where it is async."""
        if self._on_progress is not None:
            told = self._on_progress(self.now())
            if inspect.isawaitable(told):
                await told


def warn_of_folder_times(tracker: Tracker, errors: Sequence[Exception]) -> None:
    """Keep a sentence on folders whose times could not be set."""
    if errors:
        more = f", and {len(errors) - 1:,} others" if len(errors) > 1 else ""
        tracker.warn(f"the time of a folder could not be set{more}: {errors[0]}")
