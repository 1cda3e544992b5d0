"""Log lines of failed tasks: Celery's own, with the traceback as it was formatted for the result.

Formatting a traceback takes half of the processor time of a task that fails, and the loop's thread would do it twice.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter

from asyncworker.worker.failures import is_formatted_as

__all__ = ["share_traceback_text"]

#: The logger to which Celery's tracer reports failures.
_LOGGER = "celery.app.trace"

#: Formatters that print a traceback as `traceback.print_exception` does. What another one makes of it is its own
#: affair, and its first look at the exception has to find what Celery puts there.
_STOCK = (logging.Formatter, ColorFormatter, TaskFormatter)
_STOCK_METHODS = {
    name: frozenset(getattr(kind, name) for kind in _STOCK) for name in ("format", "formatException", "formatStack")
}


class _ShareText(logging.Filter):
    """Gives a record the text that formatters would make of its exception, where all that handle it make the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        data = getattr(record, "data", None)
        if record.exc_info and not record.exc_text and isinstance(data, dict):
            text = data.get("traceback")
            if isinstance(text, str) and is_formatted_as(record.exc_info, text) and _is_only_printed(self):
                record.exc_text = text.removesuffix("\n")
        return True


def _is_only_printed(last_filter: logging.Filter) -> bool:
    """Tell whether nothing but stock formatters looks at what this logger passes on after our filter."""
    logger: logging.Logger | None = logging.getLogger(_LOGGER)
    assert logger is not None
    if logger.filters[-1] is not last_filter:
        return False
    while logger is not None:
        for handler in logger.handlers:
            if handler.filters or not _is_stock(handler.formatter):
                return False
        logger = logger.parent if logger.propagate else None
    return True


def _is_stock(formatter: Any) -> bool:
    return formatter is None or all(
        getattr(getattr(formatter, name), "__func__", None) in methods for name, methods in _STOCK_METHODS.items()
    )


_share_text = _ShareText()


def share_traceback_text() -> None:
    """Have failures logged with the text of their traceback that was made for the result."""
    logger = logging.getLogger(_LOGGER)
    logger.removeFilter(_share_text)
    logger.addFilter(_share_text)  # behind those that are there
