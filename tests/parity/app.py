"""The app of one side of the comparison, by the environment: stock Celery, or asyncworker with the same tasks.

Every body is written once, as a coroutine. Our side runs it as it is; for the others it becomes a plain ``def`` that
knows nothing of a loop: its pauses block.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

__all__ = ["FOLDER", "LOG", "SIDE", "SIDES", "app", "declare", "gate_path", "pause", "wait_for_gate"]

#: Stock prefork; ours with ``async def``; ours with plain ``def`` on its threads.
SIDES = ("prefork", "async", "threads")

SIDE = os.environ.get("PARITY_SIDE", "prefork")
FOLDER = Path(os.environ.get("PARITY_FOLDER", "."))

#: Where everything that happens is written down, a JSON document a line.
LOG = FOLDER / "happened.jsonl"

app = Celery("parity", task_cls="tests.parity.recording:RecordedTask")
if SIDE != "prefork":
    import asyncworker

    asyncworker.install(app)

app.conf.update(
    task_default_queue="parity",
    task_send_sent_event=True,
    task_routes={"parity.routed": {"queue": "other"}},
    # Both sides alike; otherwise the prefetched tasks would differ.
    worker_prefetch_multiplier=4,
    worker_deduplicate_successful_tasks=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    imports=["tests.parity.tasks", "tests.parity.tasks_more", "tests.parity.recording"],
)


async def pause(seconds: float) -> None:
    """Sleep; for a plain ``def`` the blocking way."""
    if SIDE == "async":
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)


def gate_path(name: str) -> Path:
    """Return the file whose appearance opens a gate."""
    return FOLDER / f"gate-{name}"


async def wait_for_gate(name: str) -> None:
    """Wait until the driver opens the gate."""
    while not gate_path(name).exists():
        await pause(0.02)


def declare(body: Callable[..., Any], decorate: Callable[..., Any] = app.task, **options: Any) -> Any:
    """Declare a task whose body is the coroutine function of this side's kind."""
    return decorate(**options)(body if SIDE == "async" else plain(body))


def plain(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function with the body and the signature of a coroutine function that never really waits."""

    @functools.wraps(body)
    def function(*args: Any, **kwargs: Any) -> Any:
        coroutine = body(*args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a plain body may not wait")

    # Nothing may find the coroutine function behind it.
    del function.__wrapped__
    function.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return function
