"""Tasks that return to their queue since this process cannot go on with them: nothing failed."""

from __future__ import annotations

import logging

from celery.exceptions import Reject

__all__ = ["GivenBack", "log_without_traceback"]


class GivenBack(Reject):
    """Ends a task whose message goes back to its queue, with ``requeue=True``."""


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], GivenBack):
            record.exc_info = None
        return True


_without_traceback = _WithoutTraceback()


def log_without_traceback() -> None:
    """Have Celery log a task that is given back in one line; its traceback would look like a failure."""
    logging.getLogger("celery.app.trace").addFilter(_without_traceback)
