"""Messages of the Redis transport, decoded by a faster reader of JSON where it gives what kombu's gives."""

from __future__ import annotations

import uuid
from typing import Any, TypeVar

import msgspec
from kombu.exceptions import DecodeError
from kombu.message import Message as BaseMessage
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

__all__ = ["SENT_AS", "Message", "NotAMessage", "decode_json", "is_text", "sent_as", "share_parts"]

#: In a payload: the tag under which its sender has published it, where it was given another one.
SENT_AS = "asyncworker_sent_as"
#: In a document that holds a value with a type of kombu's, which its own reader turns into that type.
_MARK = b"__type__"

_decode = msgspec.json.decode

K = TypeVar("K")
V = TypeVar("V")

#: What many messages have the same of.
_SHARED_HEADERS = ("lang", "task", "origin", "argsrepr", "kwargsrepr")
_SHARED_PROPERTIES = ("reply_to", "body_encoding")

#: Strings that came before.
_strings: dict[str, str] = {}
#: Delivery informations that came before, by exchange and routing key.
_delivery_infos: dict[tuple[str, str], dict[str, str]] = {}
_WHERE = {"exchange", "routing_key"}
_MOST_KEPT = 1000
_LONGEST_STRING = 100


def share_parts(payload: dict[str, Any]) -> None:
    """Have a message take its parts from earlier ones where they are equal: ten thousand may be in flight at once."""
    properties, headers = payload["properties"], payload.get("headers")
    _share(payload, ("content-type", "content-encoding"))
    _share(properties, _SHARED_PROPERTIES)
    _share_delivery_info(properties)
    if headers:
        _share(headers, _SHARED_HEADERS)
        _share_usual(headers)
        _share_id(headers, properties)


def _share(part: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        value = part.get(name)
        if type(value) is str and len(value) <= _LONGEST_STRING:
            part[name] = _strings.get(value) or _earlier(_strings, value, value)


def _share_id(headers: dict[str, Any], properties: dict[str, Any]) -> None:
    """The id of a task that no other one sent is in three places of its message."""
    task_id = headers.get("id")
    if headers.get("root_id") == task_id:
        headers["root_id"] = task_id
    if properties.get("correlation_id") == task_id:
        properties["correlation_id"] = task_id


#: What the body of most tasks says of its canvas, and their headers of limits and stamps; Celery only reads it.
_NOTHING_LINKED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_USUAL_HEADERS: dict[str, Any] = {"timelimit": [None, None], "stamps": {}}


def _share_usual(headers: dict[str, Any]) -> None:
    for name, usual in _USUAL_HEADERS.items():
        if headers.get(name) == usual:
            headers[name] = usual


def _share_delivery_info(properties: dict[str, Any]) -> None:
    """Share all of it, where it says what most do: nobody writes into it; a request has one of its own."""
    info = properties.get("delivery_info")
    if type(info) is not dict or info.keys() != _WHERE:
        return
    properties["delivery_info"] = _earlier(_delivery_infos, (info["exchange"], info["routing_key"]), info)


def _earlier(kept: dict[K, V], key: K, value: V) -> V:
    """Return the value that came first under that key, and keep the first ones, up to a number."""
    found = kept.get(key)
    if found is None:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        found = kept[key] = value
    return found


#: For mypy, which knows half of its attributes.
_StockMessage: Any = virtual.Message
_BaseMessage: Any = BaseMessage


def decode_json(raw: bytes) -> Any:
    """Decode a document as kombu does.

    Raises:
        Exception: Of many kinds: it is not UTF-8, no JSON, too deep, or holds a value that is none of its type.
    """
    if _MARK not in raw:
        try:
            return _decode(raw)
        except ValueError:
            pass  # NaN, lone surrogates, or an error: what it is, the other one says
    return loads(raw.decode())


class NotAMessage:
    """Unreadable message; takes the place of a payload, so that it is delivered like the others.

    Args:
        raw: The bytes.
        error: Why.
        tag: Its delivery tag, where it was given one.
        queue: Where it was, if that is known.
    """

    def __init__(self, raw: bytes, error: Exception, tag: str | None = None, queue: str = "") -> None:
        self.raw = raw
        self.error = error
        self.tag = tag
        self.queue = queue


class Message(_StockMessage):  # type: ignore[misc]
    """A message whose body is read once. Making one never fails: what is wrong with it is in its ``errors``."""

    delivery_tag: Any
    delivery_info: dict[str, Any]
    #: Names the message as it was sent, however often it is delivered; see `sent_as`.
    sent_as = ""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            if isinstance(payload, NotAMessage):
                raise payload.error
            super().__init__(payload, channel=channel, **options)
            _check_envelope(self)
            self.sent_as = payload.get(SENT_AS, self.delivery_tag)
        except Exception as exc:
            self._make_unreadable(payload, channel, exc)
        if not is_text(self.delivery_tag):
            self.delivery_tag = uuid.uuid4().hex
        if type(self.sent_as) is not str:
            self.sent_as = ""
        info = self.delivery_info
        if "exchange" not in info or "routing_key" not in info:  # kombu's own transport stores both with the message
            self.delivery_info = {"exchange": "", "routing_key": "", **info}

    def _make_unreadable(self, payload: Any, channel: Any, exc: Exception) -> None:
        where: dict[str, str] = {}
        if isinstance(payload, NotAMessage):
            body, tag = payload.raw, payload.tag
            where = {"routing_key": payload.queue}
            self._raw: Any = body.decode(errors="replace")
        else:
            properties = payload.get("properties") if isinstance(payload, dict) else None
            tag = properties.pop("delivery_tag", None) if isinstance(properties, dict) else None
            body = _dumped(payload)
            self._raw = payload
        _BaseMessage.__init__(self, body=body, channel=channel, delivery_tag=tag, delivery_info=where)
        self.errors: Any = [
            (DecodeError, DecodeError(f"not a message: {type(exc).__name__}: {exc}"), exc.__traceback__)
        ]

    def let_go_of_raw(self) -> None:
        """Forget the body as it was received, in base64: all that comes back, comes from what the broker has."""
        self._raw = None

    def let_go_of_body(self) -> None:
        """Forget the body, too, once it was decoded; no error can come of it any more."""
        self.body: bytes | str | None = None
        self.errors = ()

    def _decode(self) -> Any:
        plain = self.content_type == "application/json" and self.content_encoding == "utf-8"
        if not plain or (self.accept is not None and self.content_type not in self.accept):
            return super()._decode()
        body = self.body or b""
        try:
            payload = decode_json(body.encode() if isinstance(body, str) else bytes(body))
        except Exception as exc:
            raise DecodeError(f"{type(exc).__name__}: {exc}") from exc
        if type(payload) is list and payload[-1:] == [_NOTHING_LINKED]:
            payload[-1] = _NOTHING_LINKED
        return payload


def sent_as(message: Any) -> str:
    """Return what names a message as it was sent: the same at each delivery, another where its task is sent again.

    Empty where the broker keeps no such name.
    """
    named: str = getattr(message, "sent_as", "")
    return named


def is_text(value: Any) -> bool:
    """Tell whether a value is text that can be sent and stored, as UTF-8."""
    if not isinstance(value, str) or not value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_envelope(message: Any) -> None:
    info = message.delivery_info
    if not (type(message.headers) is type(message.properties) is type(info) is dict):
        for name in ("headers", "properties", "delivery_info"):
            if not isinstance(getattr(message, name), dict):
                raise TypeError(f"{name} is {type(getattr(message, name)).__name__}, expected an object")
    if not (isinstance(info.get("exchange", ""), str) and isinstance(info.get("routing_key", ""), str)):
        raise TypeError("exchange or routing_key of delivery_info is not text")


def _dumped(payload: Any) -> bytes:
    try:
        return dumps(payload).encode()
    except Exception:
        return repr(type(payload)).encode()
