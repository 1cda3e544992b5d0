"""kombu's own transports, in which no message can end the worker. The faster ones build on them.

What is stored stays kombu's own. ``broker_transport`` names one of these where ``ASYNCWORKER_FAST_BROKER`` is off.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
from collections.abc import Mapping
from queue import Empty
from typing import Any

from amqp import spec
from amqp.exceptions import ChannelError, RecoverableConnectionError
from amqp.method_framing import frame_handler as stock_frame_handler
from amqp.serialization import decode_properties_basic
from kombu.transport import pyamqp, redis
from kombu.utils.text import version_string_as_tuple

from asyncworker.worker.containment import Contained, is_broker_error
from asyncworker.worker.dead_letters import bury, letter_of_raw
from asyncworker.worker.message import Message, NotAMessage, decode_json

__all__ = [
    "AMQPChannel",
    "AMQPConnection",
    "AMQPSSLTransport",
    "AMQPTransport",
    "RedisChannel",
    "RedisQoS",
    "RedisSocketTransport",
    "RedisTransport",
    "SocketURLs",
]

logger = logging.getLogger(__name__)

#: For mypy, which knows half of their attributes.
_StockRedisChannel: Any = redis.Channel
_StockRedisQoS: Any = redis.QoS
_StockRedisTransport: Any = redis.Transport
_StockAMQPChannel: Any = pyamqp.Channel
_StockAMQPConnection: Any = pyamqp.Connection
_StockAMQPTransport: Any = pyamqp.Transport

#: Of an unacknowledged message: itself, its exchange, its routing key.
_ENTRY = re.compile(rb'\[(.*), *"[^"]*", *"([^"]*)"\]', re.DOTALL)

#: Of an AMQP content header: class, weight and body size, which come before the properties; and no properties.
_HEADER_BYTES = 12
_NO_PROPERTIES = b"\0\0"

#: Of quorum queues, where neither an argument nor a policy sets another one.
_LIMIT_OF_RABBITMQ_4 = 20

#: Methods of AMQP that nobody waits for, and none at all: what the broker closes a consuming channel for.
_ANSWERED_BY_NOTHING = frozenset({(0, 0), spec.Basic.Ack, spec.Basic.Reject, spec.Basic.Nack, spec.Basic.RecoverAsync})


def decoded_payload(raw: bytes, queue: str) -> Any:
    """Return a message as it is stored in a queue, decoded; a `NotAMessage` where it is none."""
    try:
        return decode_json(raw)
    except Exception as exc:
        return NotAMessage(raw, exc, queue=queue)


class RedisQoS(_StockRedisQoS):  # type: ignore[misc]
    """The account of unacknowledged messages; an entry that is none holds up no other."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back to its queue; what is no message goes to the dead letters."""
        with self.channel.conn_or_acquire(client) as used:
            try:
                super().restore_by_tag(tag, used, leftmost)
            except Exception as exc:
                if is_broker_error(exc, self.channel.connection):
                    raise
                self._bury(tag, used, exc)

    def _bury(self, tag: Any, client: Any, exc: Exception) -> None:
        entry = client.hget(self.unacked_key, tag)
        if entry is None:  # buried meanwhile: what is found in one pass may still be there in the next
            return
        raw, queue = _taken_apart(entry)
        bury(letter_of_raw(raw, queue, exc), functools.partial(self._forget, tag))

    def _forget(self, tag: Any) -> None:
        with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
            self._remove_from_indices(tag, pipe).execute()


def _taken_apart(entry: bytes) -> tuple[bytes, str]:
    """Return what an entry holds in the place of a message, and its queue: the letter is that of its delivery."""
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return entry, ""
    raw, queue = found.groups()
    with contextlib.suppress(ValueError):
        text = json.loads(raw)
        raw = text.encode(errors="backslashreplace") if isinstance(text, str) else raw
    return raw, queue.decode(errors="replace")


class RedisChannel(Contained, _StockRedisChannel):  # type: ignore[misc]
    """A channel that delivers whatever a queue holds."""

    Message = Message
    QoS = RedisQoS

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver what BRPOP has taken out, as kombu does."""
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not reply:
                raise Empty
            key, raw = reply
            queue = key.decode().rsplit(self.sep, 1)[0] if isinstance(key, bytes) else key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(decoded_payload(raw if isinstance(raw, bytes) else raw.encode(), queue), queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _receive_one(self, client: Any) -> Any:
        """Deliver what was published: a remote command, an event. Nobody keeps them."""
        try:
            return super()._receive_one(client)
        except Empty:
            raise
        except Exception as exc:
            if is_broker_error(exc, self.connection):
                raise
            logger.error("what was published is no message: %r", exc)
            raise Empty from exc

    def _do_restore_message(self, payload: Any, *args: Any, **options: Any) -> None:
        """Raise what kombu would log, and lose the message."""
        info = payload["properties"]["delivery_info"] if isinstance(payload, dict) else None
        if not isinstance(info, dict) or not isinstance(payload.get("headers") or {}, dict):
            raise TypeError("no message is entered under this tag")
        super()._do_restore_message(payload, *args, **options)


class RedisTransport(_StockRedisTransport):  # type: ignore[misc]
    """For ``redis://`` and ``rediss://``."""

    Channel = RedisChannel


class SocketURLs:
    """For a unix socket: kombu finds no transport of one's own behind ``redis+socket://``, but does for ``socket://``."""

    can_parse_url = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL as it is elsewhere."""
        return f"redis+{uri}"


class RedisSocketTransport(SocketURLs, RedisTransport):
    """For ``redis+socket://``."""


class ChannelClosed(RecoverableConnectionError):
    """The broker closed a consuming channel of its own accord; kombu and Celery connect anew for it."""


class AMQPChannel(Contained, _StockAMQPChannel):  # type: ignore[misc]
    """A channel whose consumers cannot end the worker, nor can the broker by closing it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: How often a message is delivered again before the broker drops it, by queue, where there is a limit.
        self.delivery_limits: dict[str, int] = {}
        self._limits_of_consumers: dict[str, int] = {}

    def queue_declare(self, queue: str = "", *args: Any, arguments: Any = None, **options: Any) -> Any:
        """Declare a queue; note how often it delivers a message before it drops it."""
        limit = delivery_limit(arguments or {}, self.connection.server_properties)
        if limit is not None:
            self.delivery_limits[queue] = limit
        return super().queue_declare(queue, *args, arguments=arguments, **options)

    def basic_consume(self, queue: str = "", *args: Any, consumer_tag: str = "", **options: Any) -> Any:
        """Consume from a queue."""
        if queue in self.delivery_limits:
            self._limits_of_consumers[consumer_tag] = self.delivery_limits[queue]
        return super().basic_consume(queue, *args, consumer_tag=consumer_tag, **options)

    def message_to_python(self, raw_message: Any) -> Any:
        """Make a message; one that the broker would drop in the place of delivering it again says so."""
        message = super().message_to_python(raw_message)
        if self._limits_of_consumers:
            limit = self._limits_of_consumers.get(str(message.delivery_info.get("consumer_tag")))
            count = (message.headers or {}).get("x-delivery-count", 0)
            message.is_last_delivery = limit is not None and isinstance(count, int) and count >= limit
        return message

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        """Raise an error of the connection where the broker closes a channel that answers no call.

        It does so when its acknowledgement timeout has passed, or a delivery tag is of an earlier channel. py-amqp
        opens the channel again, without its consumers, and raises what Celery takes for the end of the worker.
        """
        try:
            super()._on_close(reply_code, reply_text, class_id, method_id)
        except ChannelError as exc:
            if not self.callbacks or (class_id, method_id) not in _ANSWERED_BY_NOTHING:
                raise
            logger.warning(
                "the broker closed a channel; reconnecting, unacknowledged messages are delivered again: %s", reply_text
            )
            raise ChannelClosed(reply_text, (class_id, method_id), reply_code=reply_code) from exc


def delivery_limit(arguments: Mapping[str, Any], server: Mapping[str, Any]) -> int | None:
    """Return how often a quorum queue delivers a message again; ``None`` where there is no limit that a client sees."""
    if arguments.get("x-queue-type") != "quorum":
        return None
    limit = arguments.get("x-delivery-limit")
    if limit is None and version_string_as_tuple(str(server.get("version") or "0")) >= (4, 0):
        limit = _LIMIT_OF_RABBITMQ_4
    return limit if isinstance(limit, int) and limit >= 0 else None


def _frame_handler(connection: Any, callback: Any) -> Any:
    """Read frames as py-amqp does; of a message whose properties cannot be read, it has none."""
    stock = stock_frame_handler(connection, callback)

    def on_frame(frame: Any) -> Any:
        try:
            return stock(frame)
        except Exception as exc:
            kind, channel, content = frame
            if kind != 2 or _reads(content):
                raise
            logger.error("properties of a message cannot be read: %r", exc)
            return stock((kind, channel, bytes(content[:_HEADER_BYTES]) + _NO_PROPERTIES))

    return on_frame


def _reads(content: Any) -> bool:
    try:
        decode_properties_basic(content, _HEADER_BYTES)
    except Exception:
        return False
    return True


class AMQPConnection(_StockAMQPConnection):  # type: ignore[misc]
    """A connection that survives properties which are none."""

    Channel = AMQPChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"frame_handler": _frame_handler, **options})


class AMQPTransport(_StockAMQPTransport):  # type: ignore[misc]
    """For ``amqp://``."""

    Connection = AMQPConnection


class AMQPSSLTransport(AMQPTransport, pyamqp.SSLTransport):  # type: ignore[misc]
    """For ``amqps://``."""
