"""Outcome of a run, and reports of failed items."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncworker import errors
from asyncworker.errors import AsyncWorkerError, ItemError, ItemErrors, RunCancelled, RunError
from asyncworker.iterate.item import Item
from asyncworker.printable import printable
from asyncworker.store import ItemFailure, Progress

__all__ = ["FAILURES_KEPT", "RunOutcome", "error_of", "error_text", "failure_of"]

#: Failures and exceptions that an outcome holds; the store has all of them.
FAILURES_KEPT = 20
#: What is stored of one failure.
TEXT_CHARS = 2_000
TRACEBACK_FRAMES = 12
TRACEBACK_CHARS = 8_000


@dataclass(frozen=True)
class RunOutcome:
    """The end of a run."""

    progress: Progress
    failures: tuple[ItemFailure, ...] = ()
    """The first 20."""
    results: list[tuple[int, Any]] | None = None
    """``(index, value)`` by index, with ``results="inline"``, or where there is no store."""
    exceptions: tuple[BaseException, ...] = ()
    """The exceptions of these failures, where they happened in this process in this attempt of the run."""
    name: str = ""
    """Label of the run, for its errors."""
    recalled: bool = False
    """It was read from the store: another delivery of the message ran it to its end, and may have told Celery."""

    @property
    def ok(self) -> bool:
        """Whether `raise_for_failures` raises nothing."""
        return not self.progress.failed and self.progress.state not in ("cancelled", "failed")

    def raise_for_failures(self) -> None:
        """Raise what the run failed with; return where nothing failed.

        Raises:
            RunCancelled: The run was cancelled.
            ItemErrors: Several items failed.
            Exception: The only failure, itself; an `ItemError` where it is not of this process, or where whoever runs
                the fan-out would take it for something else than a failure: `SystemExit`, Celery's own.
        """
        progress = self.progress
        label = printable(f"{self.name}: ") if self.name else ""
        if progress.state == "cancelled":
            raise RunCancelled(f"{label}run {progress.run_id} of {progress.task} was cancelled")
        errors = self._errors()
        if progress.failed == 1 and errors:
            raise errors[0]
        if progress.failed:
            total = progress.total if progress.total is not None else progress.settled
            first = f"; first: {self.failures[0]}" if self.failures else ""
            group = ItemErrors(f"{label}{progress.failed:,} of {total:,} items failed{first}", errors)
            # What travels to other processes tells the item too.
            group.args = (group.message, [str(failure) for failure in self.failures])
            raise group
        if progress.state == "failed":
            raise error_of(progress.error or f"run {progress.run_id} of {progress.task} failed", label)

    def _errors(self) -> list[Exception]:
        if not self.exceptions:
            return [_rebuilt(failure) for failure in self.failures]
        return [
            exc if isinstance(exc, Exception) and _only_fails(type(exc)) and _has_text(exc) else _told(failure, exc)
            for exc, failure in zip(self.exceptions, self.failures, strict=True)
        ]


def error_of(text: str, label: str = "") -> AsyncWorkerError:
    """Make the error that ended a run, of what is stored of it: its class, where that is one of ours, and its text."""
    name, _, message = text.partition(": ")
    kind = getattr(errors, name.rpartition(".")[2], None)
    if not (message and isinstance(kind, type) and issubclass(kind, AsyncWorkerError)) or kind is ItemErrors:
        return RunError(label + text)
    try:
        return kind(label + message)
    except TypeError:
        return RunError(label + text)


def _rebuilt(failure: ItemFailure) -> Exception:
    """Make the exception of a failure in another process, as Celery does: by its class, if that can take its text."""
    told = _told(failure)
    try:
        cls = _class_named(failure.type)
        exc = cls(failure.message)
        same = type(exc) is cls and str(exc) == failure.message and _only_fails(cls)
    except Exception:
        return told
    if not same:
        return told
    exc.__cause__ = told
    return exc


def _class_named(name: str) -> type[Exception]:
    """Find an exception class by its qualified name, among the modules that are imported here."""
    path = name.split(".")
    for length in range(len(path) - 1, -1, -1):
        found: Any = sys.modules.get(".".join(path[:length]) or "builtins")
        if found is not None:
            for part in path[length:]:
                found = getattr(found, part)
            if isinstance(found, type) and issubclass(found, Exception):
                return found
    raise LookupError(name)


def _told(failure: ItemFailure, exc: BaseException | None = None) -> ItemError:
    told = ItemError(str(failure))
    told.__cause__ = exc
    return told


#: What exceptions of these packages mean to a worker is not for an item to say of a whole run: `Ignore`, `Reject`,
#: `Retry`, `WorkerLostError`, `Terminated`, time limits.
_INTERPRETED = ("celery", "billiard", "kombu")


def _only_fails(cls: type[BaseException]) -> bool:
    """Return whether this exception class means only "failed" to the caller of the fan-out."""
    if issubclass(cls, MemoryError | StopIteration | StopAsyncIteration | GeneratorExit):
        return False
    return not any(str(base.__module__).partition(".")[0] in _INTERPRETED for base in cls.__mro__)


def _has_text(exc: BaseException) -> bool:
    """Return whether the exception can be reported: some raise in ``__str__``, ``__repr__`` or ``__reduce__``."""
    try:
        str(exc), repr(exc)
        with contextlib.suppress(Exception):  # many cannot be pickled, for which Celery is prepared
            exc.__reduce_ex__(2)
    except BaseException:
        return False
    return True


def type_name(exc: BaseException) -> str:
    """Qualified name of the class; builtins without their module."""
    cls = type(exc)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def error_text(exc: BaseException) -> str:
    """Return an exception's class and text, bounded in length; any exception has one, whatever its ``__str__`` does."""
    return f"{type_name(exc)}: {_shortened(_message(exc), TEXT_CHARS)}"


def failure_of(item: Item, row: Mapping[str, Any], exc: BaseException, at: datetime) -> ItemFailure:
    """Describe a failure; no text of it is larger than a screen or two."""
    if item.key is None:
        key = ", ".join(f"{name}={_repr(value):.200}" for name, value in row.items())
    else:
        key = item.key if isinstance(item.key, str) else _repr(item.key)
    return ItemFailure(
        index=item.index,
        key=_shortened(key, TEXT_CHARS),
        type=type_name(exc),
        message=_shortened(_message(exc), TEXT_CHARS),
        attempt=item.attempt,
        traceback=_shortened(_traceback(exc), TRACEBACK_CHARS),
        at=at,
    )


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as own:
        return f"<its text cannot be had: {type(own).__name__}>"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except BaseException as own:
        return f"<{type(value).__name__} whose text cannot be had: {type(own).__name__}>"


def _traceback(exc: BaseException) -> str:
    frames = exc.__traceback__
    # The first frame is the engine's own.
    frames = frames.tb_next if frames is not None and frames.tb_next is not None else frames
    try:
        return "".join(traceback.format_exception(type(exc), exc, frames, limit=-TRACEBACK_FRAMES))
    except BaseException:
        return "".join(traceback.format_tb(frames, limit=-TRACEBACK_FRAMES))


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
