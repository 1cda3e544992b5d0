"""Celery's consumer, with acknowledgements that are handed to the transport at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker import consumer as stock
from vine import promise

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

    def create_task_handler(self) -> Any:
        """Return what takes a message; each makes two promises, which are kept small."""
        return super().create_task_handler(promise=self._promise)

    def _promise(self, call_soon: Any, args: tuple[Any], on_error: Callable[..., Any]) -> Any:
        if self.restart_count > 0 and not self._maximum_prefetch_restored:
            # Something more is to follow them then.
            return promise(call_soon, args, on_error=on_error)
        return _Settlement(self, args[0])


class _Settlement:
    """What settles a message when a request calls it: a promise of ``call_soon``, in a tenth of the memory."""

    __slots__ = ("_consumer", "_message", "_name")

    def __init__(self, consumer: Any, settle: Any) -> None:
        self._consumer = consumer
        self._message = settle.__self__
        self._name = settle.__name__

    def __call__(self, *args: Any) -> Any:
        settle = getattr(self._message, self._name)
        try:
            return self._consumer.call_soon(settle, *args)
        except Exception as exc:
            return self._consumer._restore_prefetch_count_after_connection_restart(settle, exc)
