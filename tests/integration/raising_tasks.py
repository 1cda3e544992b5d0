"""Tasks whose items raise what means something else to Celery; of any app, by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery import shared_task
from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    MaxRetriesExceededError,
    Reject,
    Retry,
    TaskRevokedError,
    WorkerShutdown,
    WorkerTerminate,
)

from asyncworker import current_item
from asyncworker.errors import RunDrained, RunTakenOver, TaskCancelled


class Hostile(Exception):
    """One whose text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit("of __str__")

    __repr__ = __str__


class Unpicklable(Exception):
    """One that no other process can have."""

    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(one)
        self.two = two

    def __reduce__(self) -> Any:
        raise SystemExit("of __reduce__")


class MyIgnore(Ignore):
    """One of the user's own."""


RAISED: dict[str, BaseException] = {
    type(exc).__name__: exc
    for exc in (
        Ignore("please"),
        MyIgnore("please"),
        Reject("no", requeue=False),
        Retry("again"),
        InvalidTaskError("not one"),
        TaskRevokedError("revoked"),
        MaxRetriesExceededError("too many"),
        SoftTimeLimitExceeded(1),
        TimeLimitExceeded(1),
        WorkerLostError("lost"),
        Terminated(9),
        WorkerShutdown(0),
        WorkerTerminate(1),
        SystemExit(1),
        KeyboardInterrupt(),
        MemoryError("no more"),
        StopAsyncIteration("over"),
        asyncio.CancelledError(),
        RunDrained("drained"),
        RunTakenOver("taken over"),
        TaskCancelled("cancelled"),
        Hostile(),
        Unpicklable(1, object()),
    )
} | {"requeue": Reject("no", requeue=True)}


@shared_task(name="raising.item")
async def item(name: str) -> None:
    """Raise it."""
    if name:
        raise RAISED[name]


@shared_task(name="raising.on_thread")
def on_thread(name: str) -> None:
    """Raise it on a thread."""
    if name:
        raise RAISED[name]


@shared_task(name="raising.note")
async def note(folder: str, name: str) -> None:
    """Leave a sign."""
    Path(folder, name).touch()


@shared_task(name="raising.errback")
def errback(request: Any, exc: BaseException, traceback: Any, folder: str) -> None:
    """Leave a sign, and what it was given."""
    Path(folder, "errback").write_text(f"{type(exc).__name__}: {exc}")


@shared_task(name="raising.retries", bind=True)
async def retries(self: Any, number: int, until: int) -> int:
    """Ask for another attempt, as a task does."""
    attempt = current_item().attempt
    if attempt < until:
        raise self.retry(exc=ValueError(f"attempt {attempt}"), countdown=0)
    return attempt


@shared_task(name="raising.on_self", bind=True)
async def on_self(self: Any, method: str) -> None:
    """Do what needs a message."""
    if method == "replace":
        self.replace(note.s("/tmp", "never"))
    elif method == "add_to_chord":
        self.add_to_chord(note.s("/tmp", "never"))
    else:
        self.update_state(state="HALFWAY")


@shared_task(name="raising.autoretry", autoretry_for=(ValueError,))
async def autoretry(number: int) -> None:
    """Fail."""
    raise ValueError(number)


@shared_task(name="raising.limited", time_limit=5)
async def limited(number: int) -> int:
    """Be short."""
    return number


@shared_task(name="raising.softly_limited", soft_time_limit=5)
async def softly_limited(number: int) -> int:
    """Be short."""
    return number


@shared_task(name="raising.rated", rate_limit="5/s")
async def rated(number: int) -> int:
    """Be short."""
    return number
