"""Messages of the Redis transport, decoded by a faster reader of JSON where it gives what kombu's gives."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from kombu.transport import virtual
from kombu.utils.json import loads

__all__ = ["Message", "decode_json", "share_parts"]

#: In a document that holds a value with a type of kombu's, which its own reader turns into that type.
_MARK = b"__type__"

_decode = msgspec.json.decode

K = TypeVar("K")
V = TypeVar("V")

#: What many messages have the same of. The id of a task that nobody sent is in three places of one message.
_SHARED_HEADERS = ("lang", "task", "origin", "argsrepr", "kwargsrepr", "id", "root_id")
_SHARED_PROPERTIES = ("correlation_id", "reply_to", "body_encoding")

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
    _share(headers, _SHARED_HEADERS)
    _share_usual(headers)
    _share(properties, _SHARED_PROPERTIES)
    _share_delivery_info(properties)


def _share(part: dict[str, Any] | None, names: tuple[str, ...]) -> None:
    if not part:
        return
    for name in names:
        value = part.get(name)
        if type(value) is not str or len(value) > _LONGEST_STRING:
            continue
        part[name] = _earlier(_strings, value, value)


#: What the body of most tasks says of its canvas, and their headers of limits and stamps; Celery only reads it.
_NOTHING_LINKED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_USUAL_HEADERS: dict[str, Any] = {"timelimit": [None, None], "stamps": {}}


def _share_usual(headers: dict[str, Any] | None) -> None:
    if not headers:
        return
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


def decode_json(raw: bytes) -> Any:
    """Decode a document as kombu does."""
    if _MARK not in raw:
        try:
            return _decode(raw)
        except ValueError:
            pass  # NaN, lone surrogates, or an error: what it is, the other one says
    return loads(raw.decode())


class Message(_StockMessage):  # type: ignore[misc]
    """A message whose body is read once."""

    def let_go_of_raw(self) -> None:
        """Forget the body as it was received, in base64: all that comes back, comes from what the broker has."""
        self._raw = None

    def let_go_of_body(self) -> None:
        """Forget the body, too, once it was decoded; no error can come of it any more."""
        self.body: bytes | str | None = None
        self.errors: Any = ()

    def _decode(self) -> Any:
        plain = self.content_type == "application/json" and self.content_encoding == "utf-8"
        if not plain or (self.accept is not None and self.content_type not in self.accept):
            return super()._decode()
        body = self.body or b""
        payload = decode_json(body.encode() if isinstance(body, str) else bytes(body))
        if type(payload) is list and payload[-1:] == [_NOTHING_LINKED]:
            payload[-1] = _NOTHING_LINKED
        return payload
