"""Forget the outcome of a task that is sent again under its id: the old one must not be taken for the new one."""

from __future__ import annotations

import contextlib
import time
import uuid
from queue import Empty
from typing import Any

from celery.result import AsyncResult
from redis.client import PubSub
from redis.utils import str_if_bytes

__all__ = ["forget_outcome"]

#: How long Redis may take to answer.
ANSWERED_S = 5.0


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
    """Read Redis' news up to the answer to a question that is put now, after it was told to send no more of this task.

    An outcome that was asked for is told once more by subscription, and nobody reads that: the next one to subscribe
    would get it first. Redis' confirmation is no such end, for there may be several on their way.
    """
    consumer = getattr(backend, "result_consumer", None)
    pubsub: PubSub | None = getattr(consumer, "_pubsub", None)
    if consumer is None or pubsub is None or pubsub.connection is None:
        return
    question = uuid.uuid4().hex
    give_up_at_s = time.monotonic() + ANSWERED_S
    # A connection that is lost is another one afterwards, on which nothing is on its way.
    with consumer.reconnect_on_error():
        pubsub.ping(question)
        while time.monotonic() < give_up_at_s:
            # Not its get_message(), which reads nothing where it knows of no subscription.
            message = pubsub.handle_message(pubsub.parse_response(block=False, timeout=0.1))
            if message is None:
                continue
            if message["type"] == "pong" and str_if_bytes(message["data"]) == question:
                return
            if message["type"] == "message":
                consumer.on_state_change(consumer._decode_result(message["data"]), message)
