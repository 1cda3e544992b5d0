"""Celery's consumer, with acknowledgements that are handed to the transport at once."""

from __future__ import annotations

from typing import Any

from celery.worker import consumer as stock

__all__ = ["Consumer"]

_ACKNOWLEDGEMENTS = frozenset({"ack_log_error", "reject_log_error"})


#: For mypy, which knows half of its attributes.
_StockConsumer: Any = stock.Consumer


class Consumer(_StockConsumer):  # type: ignore[misc]
    """For a transport that collects acknowledgements: they cost no round trip, so they need not wait for the hub.

    It has the stock class's name, which receivers of signals see.

    The pool calls a request only on the main thread, which is the hub's.
    """

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now; anything else in the hub's next turn."""
        if self.hub is not None and getattr(p, "__name__", "") in _ACKNOWLEDGEMENTS:
            return p(*args, **kwargs)
        return super().call_soon(p, *args, **kwargs)
