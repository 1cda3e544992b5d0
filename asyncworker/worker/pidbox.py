"""Remote control that is answered until the pool has drained: stock workers stop to listen before that."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer import control as stock
from celery.worker.control import Panel

__all__ = ["Control"]

#: Commands that a worker which is to end carries out, beside all that only look.
_REVOKING = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})

#: For mypy, which knows half of its attributes.
_StockControl: Any = stock.Control
_RUN: Any = bootsteps.RUN  # type: ignore[attr-defined]


class Control(_StockControl):  # type: ignore[misc]
    """The step of the consumer that listens to remote control; it closes with the connection, after the pool's end."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.stop = self._stop
        consumer.remote_control = self

    def _stop(self, consumer: Any) -> None:
        if consumer.blueprint.state == _RUN:  # the connection was lost
            self.box.stop(consumer)
        else:
            self.box.node.handlers = _handlers_of_the_end()

    def rename(self, consumer: Any, hostname: str) -> None:
        """Be reached under another node name from now on: this one is to be a successor's."""
        node = self.box.node
        is_listening = node.channel is not None
        if is_listening:
            self.box.stop(consumer)
        self.box.hostname = node.hostname = node.state.hostname = hostname
        if is_listening:
            self.box.start(consumer)

    def retire(self) -> None:
        """Refuse from now on what would change how the worker consumes."""
        self.box.node.handlers = _handlers_of_the_end()


def _handlers_of_the_end() -> dict[str, Any]:
    """Return the commands, where those that would change how it consumes, or end it once more, are refused."""
    looking = {name for name, meta in Panel.meta.items() if meta.type == "inspect"}
    aliases = {meta.alias for name, meta in Panel.meta.items() if name in looking}
    return {name: handler if name in looking | aliases | _REVOKING else _refuse for name, handler in Panel.data.items()}


def _refuse(state: Any, **_: Any) -> dict[str, str]:
    return {"error": "this worker is about to end"}
