"""Django's connections to databases are closed on the threads that own them, as Django's own request handlers do.

Celery's fix-up closes those of the thread on which it hears of a task. An async task's queries run on other threads: on
asgiref's, where ``await Model.objects.aget()`` goes, on those for hooks and results, and where ``to_thread`` leads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from celery.fixups.django import DjangoFixup

from asyncworker.loop.threads import clean_threads_with

__all__ = ["close_old_connections", "closing_old_connections", "use_django"]

logger = logging.getLogger(__name__)


class _AsgirefThread:
    """The thread that all of asgiref's thread-sensitive code shares; calls to it keep their order."""

    def __init__(self, close: Callable[[], None]) -> None:
        from asgiref.sync import SyncToAsync

        self._executor = SyncToAsync.single_thread_executor
        self._close = close
        self._queued = False

    def clean(self) -> None:
        """Close its old connections before whatever is called there next. Holds up nobody."""
        if not self._queued:
            self._queued = True
            self._executor.submit(self._clean)

    def _clean(self) -> None:
        self._queued = False
        try:
            self._close()
        except Exception:
            logger.exception("Django's old connections could not be closed")


_asgiref: _AsgirefThread | None = None


def use_django(app: Any) -> None:
    """Keep Django's connections of this process fresh, where Celery's fix-up for Django is in force."""
    global _asgiref
    if _asgiref is not None or not any(isinstance(fixup, DjangoFixup) for fixup in app._fixups):
        return
    from django.db import close_old_connections as close

    clean_threads_with(close)
    _asgiref = _AsgirefThread(close)


def close_old_connections() -> None:
    """Close what is unusable or too old on asgiref's thread: before and after an async task's body, or an item."""
    if _asgiref is not None:
        _asgiref.clean()


def closing_old_connections(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return an item's call that does so; itself, where Django is not used."""
    if _asgiref is None:
        return call

    async def called(*args: Any, **kwargs: Any) -> Any:
        close_old_connections()
        try:
            return await call(*args, **kwargs)
        finally:
            close_old_connections()

    return called
