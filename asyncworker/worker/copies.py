"""Copies of a message that this process holds already: they are not run, and end as the first one does.

A broker delivers a message again when its patience has ended, or with a new connection. Often the first delivery cannot
be acknowledged any more then, and the copy is what the broker has of the task: it is kept until the first is settled.
Where that was settled before, in vain, what was decided is remembered.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable
from typing import Any

from asyncworker.loop import live_jobs
from asyncworker.worker.job import Job
from asyncworker.worker.message import sent_as

__all__ = ["Copies", "NotedSettlement"]

logger = logging.getLogger(__name__)

ACKNOWLEDGED, REJECTED, GIVEN_BACK = "acknowledged", "rejected", "given back"

#: How often it is looked whether the first delivery of a task was settled.
LOOK_S = 1.0
#: Of how many deliveries whose connection was lost it is remembered what was decided about them.
MOST_REMEMBERED = 10_000
#: And for how long, where the broker does not tell a copy from another message that was sent under the same task id.
REMEMBERED_S = 60.0

#: Names a message among all that a process may get: task id, number of retries, and how it was sent.
_Key = tuple[str, int, str]


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
        decided = ACKNOWLEDGED if name == "ack_log_error" else GIVEN_BACK if requeue else REJECTED
        message.settled_as = decided
        fate = getattr(message, "fate", None)
        if fate is not None:
            fate.decide(decided)


class Fate:
    """Fate of a delivery of which a copy has come, or may come; outlives the delivery."""

    __slots__ = ("_at_s", "_delivery", "decided")

    def __init__(self, delivery: Any) -> None:
        self._delivery = weakref.ref(delivery)
        self._at_s = 0.0
        self.decided = ""
        if decided := getattr(delivery, "settled_as", ""):
            self.decide(decided)

    @classmethod
    def of(cls, delivery: Any) -> Fate:
        """Return that of a delivery: each has one."""
        fate: Fate | None = getattr(delivery, "fate", None)
        if fate is None:
            fate = delivery.fate = cls(delivery)
        return fate

    def decide(self, decided: str) -> None:
        """Write down how the delivery was settled."""
        self.decided = decided
        self._at_s = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the delivery is still to be settled, and by this process: no other one has its task."""
        if self.decided:
            return False
        delivery = self._delivery()
        if delivery is None:
            return False
        task_id = delivery.headers["id"]
        return not any(isinstance(job, Job) and job.id == task_id and job.lost for job in list(live_jobs.values()))

    @property
    def is_settled(self) -> bool:
        """Whether the broker is to have no copy of the message any more."""
        return self.decided in (ACKNOWLEDGED, REJECTED)

    @property
    def is_old(self) -> bool:
        """Whether it was decided so long ago that a message of the same name may be another one."""
        return bool(self.decided) and time.monotonic() - self._at_s > REMEMBERED_S


class Copies:
    """The messages that this process holds, by task id, and the copies that wait for them. Main thread.

    Args:
        consumer: Its connection errors and its timer are used.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._held: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        #: Of deliveries of which copies have come, or will: those whose connection was lost. The oldest first.
        self._fates: dict[_Key, Fate] = {}
        self._waiting: list[tuple[Fate, Any]] = []

    def takes(self, message: Any) -> bool:
        """Tell whether a message is a copy, which is kept or settled here then; another one is noted as held."""
        headers = message.headers
        if not isinstance(headers, dict) or not isinstance(headers.get("id"), str):
            return False
        # A task may be sent twice under one id, and a retry is; what comes again says so.
        if (message.delivery_info or {}).get("redelivered"):
            fate = self._fate_of_first(message)
            if fate is not None and fate.is_settled:
                logger.info("%s[%s] is delivered again, and was settled here", headers.get("task"), headers["id"])
                self._settle(fate, message)
                return True
            if fate is not None and fate.is_open:
                self._keep(fate, message)
                return True
        self._held[headers["id"]] = message
        return False

    def connection_lost(self, going_on: Iterable[Any]) -> None:
        """Forget what comes again with the next connection: the copies, and what Celery has forgotten.

        Args:
            going_on: The messages whose tasks run. They come again, too, even when they are acknowledged meanwhile.
        """
        for fate, copy in self._waiting:
            self._remember(fate, copy)
        self._waiting.clear()
        kept = set()
        for message in going_on:
            kept.add(id(message))
            if isinstance(message.headers, dict) and isinstance(message.headers.get("id"), str):
                self._remember(Fate.of(message), message)
        # What nobody runs any more is still there, until the garbage collector finds it.
        for task_id, first in list(self._held.items()):
            if id(first) not in kept:
                del self._held[task_id]

    def _fate_of_first(self, message: Any) -> Fate | None:
        """Return the fate of the delivery that a message is a copy of; ``None`` where there was none here."""
        key = _key_of(message)
        first = self._held.get(key[0])
        if first is not None and _key_of(first) == key:
            return Fate.of(first)
        fate = self._fates.get(key)
        return fate if fate is not None and (key[2] or not fate.is_old) else None

    def _keep(self, fate: Fate, copy: Any) -> None:
        logger.info(
            "%s[%s] is delivered again to this process, which has it", copy.headers.get("task"), copy.headers["id"]
        )
        self._waiting.append((fate, copy))
        if len(self._waiting) == 1:
            self._look_later()

    def _look_later(self) -> None:
        self._consumer.timer.call_after(LOOK_S, self._look)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for fate, copy in waiting:
            if fate.is_open:
                self._waiting.append((fate, copy))
            else:
                self._settle(fate, copy)
        if self._waiting:
            self._look_later()

    def _settle(self, fate: Fate, copy: Any) -> None:
        """Settle a copy as its first delivery was; one that was dropped without a word is for others to run."""
        self._remember(fate, copy)  # this may be in vain as well
        errors = self._consumer.connection_errors
        if fate.decided == ACKNOWLEDGED:
            copy.ack_log_error(logger, errors)
        else:
            copy.reject_log_error(logger, errors, requeue=fate.decided != REJECTED)

    def _remember(self, fate: Fate, message: Any) -> None:
        self._fates[_key_of(message)] = fate
        while len(self._fates) > MOST_REMEMBERED:
            del self._fates[next(iter(self._fates))]


def _key_of(message: Any) -> _Key:
    return message.headers["id"], message.headers.get("retries") or 0, sent_as(message)
