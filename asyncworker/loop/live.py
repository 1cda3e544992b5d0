"""The registry of live jobs: what runs, since when, and where it waits."""

from __future__ import annotations

import asyncio
import contextvars
import linecache
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any

__all__ = ["LiveJob", "current_job", "live_jobs", "stack_of"]

#: The job that the running code belongs to; child tasks and ``to_thread`` inherit it with the context.
current_job: contextvars.ContextVar[LiveJob | None] = contextvars.ContextVar("asyncworker_job", default=None)


class LiveJob:
    """One task in flight.

    Attributes:
        id: The Celery task id.
        name: The task's name.
        started_at_s: ``time.monotonic()`` of its start.
        task: Its asyncio task; ``None`` for a job on a thread, or not yet started.
        coroutine: What is awaited inside its bridge, or for its admission where it was delivered again; else ``None``.
        thread_ident: The thread of a synchronous job.
        draining: The process was told to end: the job may stop early.
        on_drain: Called on the loop when that happens.
        items: Tells what a fan-out has in flight: objects with ``item`` and ``coroutine``. From any thread.
        before_outcome: Awaited on asyncworker's loop when the job's code has ended, before anything of its outcome is
            stored or sent. Raises nothing.
    """

    __slots__ = (
        "__weakref__",
        "before_outcome",
        "coroutine",
        "draining",
        "id",
        "items",
        "name",
        "on_drain",
        "started_at_s",
        "task",
        "thread_ident",
    )

    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name
        self.started_at_s = time.monotonic()
        self.task: asyncio.Task[Any] | None = None
        self.coroutine: Any = None
        self.thread_ident: int | None = None
        self.draining = False
        self.on_drain: Callable[[], None] | None = None
        self.items: Callable[[], Sequence[Any]] | None = None
        self.before_outcome: Callable[[], Coroutine[Any, Any, None]] | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.id}]"

    @property
    def age_s(self) -> float:
        """Seconds since it was accepted."""
        return time.monotonic() - self.started_at_s

    def stack(self) -> list[str]:
        """Where it stands: lines ``file:line in function: code``, outermost first. From any thread, a snapshot."""
        if self.thread_ident is not None:
            return list(format_frames(reversed(list(_callers(sys._current_frames().get(self.thread_ident))))))
        return stack_of(self.coroutine)


class _LiveJobs(dict[int, LiveJob]):
    """All live jobs of the process, by a number of their own."""

    def owner_of(self, task: asyncio.Task[Any] | None) -> LiveJob | None:
        """Return the job that an asyncio task belongs to, child tasks included where Python can tell (3.12)."""
        if task is None:
            return None
        for job in list(self.values()):
            if job.task is task:
                return job
        get_context = getattr(task, "get_context", None)
        return get_context().get(current_job) if get_context is not None else None


live_jobs = _LiveJobs()


def format_frames(frames: Iterator[FrameType] | list[FrameType]) -> Iterator[str]:
    """Yield a line for each frame."""
    for frame in frames:
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        yield f"{code.co_filename}:{frame.f_lineno} in {code.co_name}: {line}"


def stack_of(coroutine: Any) -> list[str]:
    """Return the lines from a coroutine down to where it waits, outermost first."""
    return list(format_frames(_await_chain(coroutine)))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _await_chain(awaited: Any) -> Iterator[FrameType]:
    """Walk from a coroutine down to what it waits for."""
    while awaited is not None:
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if hasattr(awaited, frame_name):
                frame = getattr(awaited, frame_name)
                if frame is not None:
                    yield frame
                awaited = getattr(awaited, next_name)
                break
        else:
            return
