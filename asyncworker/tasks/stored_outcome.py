"""The outcome of a fan-out as the store has it, for those who wait: Celery's own is kept for a day by default."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from kombu.utils.json import loads

from asyncworker.errors import AsyncWorkerError, RunExpired, RunNotFound
from asyncworker.iterate import IterateOptions, Progress, RunOutcome, make_options, outcome_of
from asyncworker.tasks.payloads import decode

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["Looks", "ended_run", "stored_value", "value_of"]

logger = logging.getLogger(__name__)

#: How long Celery's outcome alone is waited for: at first, and between two looks at the store.
FIRST_LOOK_S, LOOK_S = 1.0, 5.0
#: How long Celery's outcome may come after the run has ended in the store. It has the task's own exceptions.
GRACE_S = 5.0
#: A run that ended longer ago than this, by the clocks of two machines, has no outcome on its way.
LONG_AGO = timedelta(seconds=30)


class Looks:
    """Decides when a waiting client looks at the store, and when it takes its answer from there."""

    def __init__(self, timeout_s: float | None) -> None:
        self._give_up_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._ended_at_s: float | None = None
        self._looked = False

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._give_up_at_s is not None and time.monotonic() >= self._give_up_at_s

    def next_s(self) -> float:
        """Return how long to wait for Celery's outcome now."""
        wait_s = LOOK_S if self._looked else FIRST_LOOK_S
        self._looked = True
        if self._ended_at_s is not None:
            wait_s = self._ended_at_s + GRACE_S - time.monotonic()
        if self._give_up_at_s is not None:
            wait_s = min(wait_s, self._give_up_at_s - time.monotonic())
        return max(wait_s, 0.001)

    def suffices(self, ended: Progress) -> bool:
        """Return whether a finished run is answered from the store."""
        now_s = time.monotonic()
        self._ended_at_s = self._ended_at_s or now_s
        long_ago = ended.finished_at is not None and datetime.now(UTC) - ended.finished_at > LONG_AGO
        return long_ago or self.over or now_s >= self._ended_at_s + GRACE_S


async def ended_run(store: Store, run_id: str, message: str) -> Progress | None:
    """Return where a run stands that has ended; ``None``: it has not, or what is known is of an earlier message.

    Args:
        store: Where it is.
        run_id: The run.
        message: The message whose outcome is wanted; empty: that of the last one.

    Raises:
        RunExpired: It was deleted.
    """
    try:
        progress = await store.progress(run_id)
        if not progress.ended or (message and await store.message_of(run_id) != message):
            return None
    except RunExpired:
        raise
    except RunNotFound:
        return None
    except AsyncWorkerError as exc:
        logger.debug("run %s: the store cannot be asked how it ended: %s", run_id, exc)
        return None
    return progress


async def stored_value(store: Store, ended: Progress, propagate: bool) -> Any:
    """Return what the run returned, or raise what it failed with.

    Args:
        store: Where it is.
        ended: Where the run stands.
        propagate: Raise; else the exception is returned.
    """
    options = make_options(**loads(await store.request_of(ended.run_id))["options"])
    outcome = await outcome_of(ended, store, options, decode)
    try:
        outcome.raise_for_failures()
    except Exception as exc:
        if propagate:
            raise
        return exc
    return value_of(outcome, options)


def value_of(outcome: RunOutcome, options: IterateOptions) -> Any:
    """Return the value of a fan-out's task: the run's progress as a mapping, or its results inline."""
    if options.results == "inline":
        return [value for _, value in sorted(outcome.results or [], key=lambda pair: pair[0])]
    return msgspec.to_builtins(outcome.progress)
