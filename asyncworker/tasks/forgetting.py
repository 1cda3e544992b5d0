"""Forget the outcome of a task that is sent again under its id: the old one must not be taken for the new one."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from queue import Empty
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.result import AsyncResult
from redis.client import PubSub
from redis.utils import str_if_bytes

from asyncworker.worker.backend import stock_backend

__all__ = ["forget_before_sending", "forget_outcome", "forget_stored"]

logger = logging.getLogger(__name__)

#: How long Redis may take to answer.
ANSWERED_S = 5.0


def forget_outcome(result: AsyncResult[Any]) -> None:
    """Delete a task's outcome from the result backend, and from what this process knows. Blocks."""
    # rpc:// keeps none.
    with contextlib.suppress(NotImplementedError):
        result.forget()
    backend: Any = result.backend
    backend.remove_pending_result(result)
    _read_what_is_on_its_way(backend)
    with contextlib.suppress(AttributeError, Empty):
        while True:
            backend._pending_messages.take(result.id)


def forget_before_sending(result: AsyncResult[Any]) -> None:
    """Forget the outcome of an earlier message under an id that a caller has chosen. Blocks; raises nothing.

    The worker forgets it as well when the run begins: here it is only so that nobody takes it for the new one before.
    """
    try:
        if not isinstance(stock_backend(result.backend), DisabledBackend):
            forget_outcome(result)
    except Exception as exc:
        logger.warning("an earlier result of %s cannot be deleted: %r", result.id, exc)


def forget_stored(app: Any, task_id: str) -> None:
    """Delete a stored outcome, and nothing provisional. Blocks."""
    backend = stock_backend(app.backend)
    if isinstance(backend, DisabledBackend | RPCBackend):
        return
    if backend.get_task_meta(task_id, cache=False)["status"] in states.READY_STATES:
        backend.forget(task_id)


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
