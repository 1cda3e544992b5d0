"""Logging of items: the item of each record, and failed items, without flooding the log."""

from __future__ import annotations

import logging
from typing import Any

from asyncworker.clock import Clock
from asyncworker.iterate.item import item_here
from asyncworker.store import ItemFailure

__all__ = ["FailureLog", "mark_records"]

logger = logging.getLogger(__name__)

#: On every record; ``None`` where no item is running. Named so that they meet no ``extra=`` of the user's.
FIELDS = ("item_index", "item_key", "item_attempt", "item_run")


class _Factory:
    """A record factory that adds to what the one before it makes."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **kwargs)
        item = item_here()
        if item is None:
            record.item_index = record.item_key = record.item_attempt = record.item_run = None
        else:
            record.item_index = item.index
            record.item_key = item.key
            record.item_attempt = item.attempt
            record.item_run = item.run_id
        return record


def mark_records() -> None:
    """Put the running item on every log record of the process: ``item_index``, ``_key``, ``_attempt``, ``_run``.

    Whatever logger and handler they go through, in child tasks and threads too: a record factory is the one place that
    logging has for this. It is put around the factory that is set; once, whatever number of calls.
    """
    made_by = logging.getLogRecordFactory()
    if not isinstance(made_by, _Factory):
        logging.setLogRecordFactory(_Factory(made_by))


class FailureLog:
    """Logs the failed items of one run: the first ones each, then how many more, every so often.

    Args:
        label: Names the run.
        clock: Time.
    """

    #: These are logged one by one.
    FIRST = 20
    #: Those after them at most so often, together.
    EVERY_S = 10.0

    def __init__(self, label: str, clock: Clock) -> None:
        self._label = label
        self._clock = clock
        self._logged = 0
        self._more = 0
        self._last: ItemFailure | None = None
        self._due_at = 0.0

    def failed(self, failure: ItemFailure) -> None:
        """An item failed for good."""
        if self._logged < self.FIRST:
            self._logged += 1
            logger.warning("run %s: %s", self._label, _line(failure))
            self._due_at = self._clock.monotonic() + self.EVERY_S
            return
        self._more += 1
        self._last = failure
        if self._clock.monotonic() >= self._due_at:
            self.flush()

    def flush(self) -> None:
        """Log what has not been logged; also when the run ends."""
        if self._more and self._last is not None:
            last = _line(self._last)
            logger.warning("run %s: %s more items failed; the last: %s", self._label, f"{self._more:,}", last)
            self._more = 0
            self._due_at = self._clock.monotonic() + self.EVERY_S


def _line(failure: ItemFailure) -> str:
    """One line of a log: a file's name or an error's text may hold what ends it, or what no file of text takes."""
    text = str(failure)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
