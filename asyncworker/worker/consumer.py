"""Celery's consumer; remote control reaches what runs until its end, and acknowledgements do not wait for the hub."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import consumer as stock
from celery.worker.state import active_requests, task_reserved
from vine import promise

from asyncworker.worker.persist import log_wait
from asyncworker.worker.refusals import PAUSE_S, RefusedForNow

__all__ = ["Consumer"]

_ACKNOWLEDGEMENTS = frozenset({"ack_log_error", "reject_log_error"})


#: For mypy, which knows half of its attributes.
_StockConsumer: Any = stock.Consumer
_RUN: Any = bootsteps.RUN  # type: ignore[attr-defined]


class Consumer(_StockConsumer):  # type: ignore[misc]
    """It has the stock class's name, which receivers of signals see."""

    class Blueprint(_StockConsumer.Blueprint):  # type: ignore[misc]
        """Its steps."""

        default_steps = tuple(
            "asyncworker.worker.pidbox:Control" if step == "celery.worker.consumer.control:Control" else step
            for step in _StockConsumer.Blueprint.default_steps
        )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._collects_acks = getattr(self.conninfo.get_transport_cls(), "collects_acks", False)

    def add_task_queue(self, queue: Any, *args: Any, **options: Any) -> None:
        """Consume from one more queue; not where the worker was told to end in between."""
        if self.blueprint.state == _RUN:
            super().add_task_queue(queue, *args, **options)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Connect again; to a server that cannot take what a consumer declares, in a moment."""
        if isinstance(exc, RefusedForNow):
            log_wait("starting to consume", exc)
            time.sleep(PAUSE_S)
        else:
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same for a connection that was there."""
        if isinstance(exc, RefusedForNow):
            time.sleep(PAUSE_S)
        super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Forget what was received, but not what runs: it can be revoked after a reconnect, and while it drains."""
        super().on_close()
        for request in tuple(active_requests):
            task_reserved(request)

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now where the transport collects that: it costs no round trip, and need not wait for the hub.

        The pool calls a request only on the main thread, which is the hub's.
        """
        if self._collects_acks and self.hub is not None and getattr(p, "__name__", "") in _ACKNOWLEDGEMENTS:
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
