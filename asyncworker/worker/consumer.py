"""Celery's consumer, with acknowledgements that are handed to the transport at once."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

__all__ = ["AsyncConsumer"]

_ACKNOWLEDGEMENTS = frozenset({"ack_log_error", "reject_log_error"})


#: For mypy, which knows half of its attributes.
_StockConsumer: Any = Consumer


class AsyncConsumer(_StockConsumer):  # type: ignore[misc]
    """For a transport that collects them: they cost no round trip, so they need not wait for the hub's next turn.

    The pool calls a request only on the main thread, which is the hub's.
    """

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now; anything else in the hub's next turn."""
        if self.hub is not None and getattr(p, "__name__", "") in _ACKNOWLEDGEMENTS:
            return p(*args, **kwargs)
        return super().call_soon(p, *args, **kwargs)
