"""One message's fault stays that message's: what it causes on the main thread reaches neither consumer nor hub."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any

from redis.exceptions import DataError

from asyncworker.worker.dead_letters import bury, letter_of

__all__ = ["Contained", "is_broker_error"]

#: Errors that no connection raises: kombu counts every ``OSError`` as one of a connection, on Redis ``KeyError``, too,
#: and values that cannot be sent.
_LOCAL = (
    DataError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    KeyError,
    NotADirectoryError,
    PermissionError,
)
_LOCAL_NUMBERS = frozenset({errno.EOVERFLOW, errno.EINVAL, errno.ENAMETOOLONG, errno.EDOM, errno.ERANGE})


def is_broker_error(exc: BaseException, connection: Any) -> bool:
    """Tell whether an exception says something of the connection, rather than of the message at hand.

    Args:
        exc: Raised while a message was handled.
        connection: What the message came by: whatever has kombu's ``connection_errors`` and ``channel_errors``.
    """
    if connection is None:  # it was closed meanwhile, and everything fails
        return True
    errors = (*connection.connection_errors, *connection.channel_errors)
    local = isinstance(exc, _LOCAL) or getattr(exc, "errno", None) in _LOCAL_NUMBERS
    return isinstance(exc, errors) and not local


class Contained:
    """A kombu channel whose consumers, those of tasks, of remote control and of events, cannot end the worker."""

    def basic_consume(self, queue: str, no_ack: bool, *, callback: Callable[..., Any], **options: Any) -> Any:
        """Consume from a queue; a message whose callback fails goes to the dead letters."""
        contained = functools.partial(self._call_contained, callback, no_ack)
        return super().basic_consume(queue=queue, no_ack=no_ack, callback=contained, **options)  # type: ignore[misc]

    def _call_contained(self, callback: Callable[..., Any], no_ack: bool, raw_message: Any) -> Any:
        channel: Any = self
        try:
            return callback(raw_message)
        except Exception as exc:
            if is_broker_error(exc, channel.connection):
                raise
            message = channel.message_to_python(raw_message)
            bury(letter_of(message, exc), functools.partial(_settle, message, no_ack))


def _settle(message: Any, no_ack: bool) -> None:
    if not (no_ack or message.acknowledged):
        message.ack()
