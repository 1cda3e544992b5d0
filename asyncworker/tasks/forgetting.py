"""Forget the outcome of a task that is sent again under its id: the old one must not be taken for the new one."""

from __future__ import annotations

import contextlib
import time
from queue import Empty
from typing import Any

from celery.result import AsyncResult

__all__ = ["forget_outcome"]

#: How long Redis may take to say that it tells no more of a task.
CONFIRMED_S = 5.0


def forget_outcome(result: AsyncResult[Any]) -> None:
    """Delete a task's outcome from the result backend, and from what this process knows. Blocks."""
    result.forget()
    backend: Any = result.backend
    backend.remove_pending_result(result)
    _read_what_is_on_its_way(backend)
    with contextlib.suppress(AttributeError, Empty):
        while True:
            backend._pending_messages.take(result.id)


def _read_what_is_on_its_way(backend: Any) -> None:
    """Read Redis' news up to the confirmation that there are no more of this task.

    An outcome that was asked for is told once more by subscription, and nobody reads that: the next one to subscribe
    would get it first.
    """
    consumer = getattr(backend, "result_consumer", None)
    pubsub = getattr(consumer, "_pubsub", None)
    give_up_at_s = time.monotonic() + CONFIRMED_S
    while getattr(pubsub, "pending_unsubscribe_channels", None) and time.monotonic() < give_up_at_s:
        consumer.drain_events(timeout=0.1)  # type: ignore[union-attr]
