"""Copies of a message that this process holds already: they are not run, and end as the first one does.

A broker delivers a message again when its patience has ended, or with a new connection. Often the first delivery cannot
be acknowledged any more then, and the copy is what the broker has of the task: it is kept until the first is settled.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from typing import Any

from asyncworker.loop import live_jobs
from asyncworker.worker.job import Job

__all__ = ["Copies", "NotedSettlement"]

logger = logging.getLogger(__name__)

ACKNOWLEDGED, REJECTED, GIVEN_BACK = "acknowledged", "rejected", "given back"

#: How often it is looked whether the first delivery of a task was settled.
LOOK_S = 1.0


class NotedSettlement:
    """A method that settles a message; notes what was decided, whether the broker hears of it or not."""

    __slots__ = ("__name__", "_settle")

    def __init__(self, settle: Any) -> None:
        self._settle = settle
        self.__name__ = settle.__name__

    @property
    def message(self) -> Any:
        """The message."""
        return self._settle.__self__

    def __call__(self, log: Any, errors: Any, requeue: bool = False) -> Any:
        """Settle it."""
        self.note(self.message, self.__name__, requeue)
        return self._settle(log, errors, requeue) if requeue else self._settle(log, errors)

    @staticmethod
    def note(message: Any, name: str, requeue: bool = False) -> None:
        """Write down what was decided about a message."""
        if name == "ack_log_error":
            message.settled_as = ACKNOWLEDGED
        else:
            message.settled_as = GIVEN_BACK if requeue else REJECTED


class Copies:
    """The messages that this process holds, by task id, and the copies that wait for them. Main thread.

    Args:
        consumer: Its connection errors and its timer are used.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._held: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._waiting: list[tuple[weakref.ref[Any], Any]] = []

    def takes(self, message: Any) -> bool:
        """Tell whether a message is a copy, which is kept here then; another one is noted as held."""
        headers = message.headers
        if not isinstance(headers, dict) or not isinstance(headers.get("id"), str):
            return False
        first = self._held.get(headers["id"])
        if first is None or not _is_copy(message, first) or not _decides(first):
            self._held[headers["id"]] = message
            return False
        logger.info("%s[%s] is delivered again to this process, which has it", headers.get("task"), headers["id"])
        self._waiting.append((weakref.ref(first), message))
        if len(self._waiting) == 1:
            self._look_later()
        return True

    def connection_lost(self, going_on: Iterable[Any]) -> None:
        """Forget what comes again with the next connection: the copies, and what Celery has forgotten.

        Args:
            going_on: The messages whose tasks run.
        """
        self._waiting.clear()
        kept = set(map(id, going_on))
        # What nobody runs any more is still there, until the garbage collector finds it.
        for task_id, first in list(self._held.items()):
            if id(first) not in kept:
                del self._held[task_id]

    def _look_later(self) -> None:
        self._consumer.timer.call_after(LOOK_S, self._look)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first, copy in waiting:
            held = first()
            decided = GIVEN_BACK if held is None else getattr(held, "settled_as", None)
            if decided is None and held is not None and _decides(held):
                self._waiting.append((first, copy))
                continue
            errors = self._consumer.connection_errors
            if decided == ACKNOWLEDGED:
                copy.ack_log_error(logger, errors)
            else:
                copy.reject_log_error(logger, errors, requeue=decided != REJECTED)
        if self._waiting:
            self._look_later()


def _is_copy(message: Any, first: Any) -> bool:
    # A task may be sent twice under one id, and a retry is; what comes again says so.
    again = (message.delivery_info or {}).get("redelivered")
    return bool(again) and (message.headers.get("retries") or 0) == (first.headers.get("retries") or 0)


def _decides(first: Any) -> bool:
    """Whether a first delivery decides about copies: it was not given back, and no other process has its task."""
    if getattr(first, "settled_as", None) == GIVEN_BACK:
        return False
    task_id = first.headers["id"]
    return not any(isinstance(job, Job) and job.id == task_id and job.lost for job in list(live_jobs.values()))
