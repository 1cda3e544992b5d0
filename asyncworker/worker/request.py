"""Requests of late-ack tasks, which do not expire while another process may run them.

A message that was delivered before may be that of a task that was begun in time, and still runs. Whether it has expired
counts once that is known.
"""

from __future__ import annotations

import functools
from typing import Any

from celery.utils.imports import symbol_by_name

__all__ = ["late_request"]


class _LateRequest:
    #: Whether it is known that no other process runs the task.
    may_expire = False

    def maybe_expire(self) -> Any:
        """Tell whether it has expired, as Celery does; not before that may be told."""
        request: Any = self
        redelivered = (request.request_dict.get("delivery_info") or {}).get("redelivered")
        if redelivered and not self.may_expire:
            return None
        return super().maybe_expire()  # type: ignore[misc]


@functools.cache
def _late(stock: type) -> type:
    return stock if issubclass(stock, _LateRequest) else type(stock.__name__, (_LateRequest, stock), {})


def late_request(request: Any) -> type:
    """Return a task's class of requests, or the path of one, so that what was begun in time does not expire."""
    return _late(symbol_by_name(request))
