"""The results of items as JSON: what Celery's messages can hold, and what else has a well-known form there."""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
import os
import types
import typing
from collections.abc import Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec
from kombu.utils import json

__all__ = ["dump", "is_storable", "load"]


def dump(value: Any) -> bytes:
    """Encode a value.

    Raises:
        TypeError: There is no JSON for it; names its type, and what to do.
    """
    try:
        try:
            text = json.dumps(value, cls=_Encoder)
        except TypeError:
            # Keys of a dict are not asked for by `default`.
            text = json.dumps(_with_text_keys(value), cls=_Encoder)
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(
            f"the item was run, but its value, of type {type(value).__qualname__}, cannot be stored: {exc}; return "
            "what JSON can hold, or say .options(results='none')"
        ) from exc
    return text.encode()


def load(body: bytes) -> Any:
    """The reverse: times, UUIDs, decimals and bytes come back as what they were, the others as their JSON."""
    return json.loads(body.decode(), object_hook=_hook)


def is_storable(annotation: Any) -> bool:
    """Tell whether what a function is annotated to return may be storable; False only where it is known not to be."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(is_storable(each) for each in arguments if each is not type(None))
    if origin in (list, tuple, set, frozenset, dict):
        return all(is_storable(each) for each in arguments)
    if not isinstance(annotation, type) or annotation in (object, Any) or origin is not None:
        return True
    abstract = getattr(annotation, "__abstractmethods__", None) or getattr(annotation, "_is_protocol", False)
    known = (*_NATIVE, *_CONVERSIONS, *getattr(json, "_encoders", ()))
    return bool(abstract) or issubclass(annotation, known) or _shape_of(annotation) is not None


class _Encoder(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except TypeError:
            return _converted(o)


def _converted(value: Any) -> Any:
    """One step towards JSON: its members may need one as well."""
    for kind, convert in _CONVERSIONS.items():
        if isinstance(value, kind):
            return convert(value)
    convert = _shape_of(type(value))
    if convert is None:
        raise TypeError(f"there is no JSON for {value!r:.100} of type {type(value).__qualname__}")
    return convert(value)


def _shape_of(cls: type) -> Any:
    """Return the converter of a class recognised by its shape, so that its library need not be imported."""
    if hasattr(cls, "__json__"):
        return lambda value: value.__json__()
    if hasattr(cls, "model_dump"):  # pydantic
        return lambda value: value.model_dump(mode="json")
    if dataclasses.is_dataclass(cls):
        return lambda value: {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if hasattr(cls, "__attrs_attrs__"):
        return lambda value: {each.name: getattr(value, each.name) for each in cls.__attrs_attrs__}
    if issubclass(cls, msgspec.Struct):
        return lambda value: {name: getattr(value, name) for name in value.__struct_fields__}
    if hasattr(cls, "dtype") and hasattr(cls, "tolist"):  # numpy's scalars and arrays
        return lambda value: value.tolist()
    return None


def _elements(value: Set[Any]) -> list[Any]:
    try:
        return sorted(value)
    except TypeError:
        return list(value)


#: What `json` writes by itself, and kombu.
_NATIVE = (str, int, float, bool, type(None), list, tuple, dict, bytes, datetime, date, time, Decimal, UUID)
_CONVERSIONS: dict[type, Any] = {
    enum.Enum: lambda value: value.value,
    timedelta: msgspec.to_builtins,  # ISO 8601, as pydantic
    os.PathLike: lambda value: os.fsdecode(value),
    Set: _elements,
    Mapping: dict,
    bytearray: bytes,
    memoryview: bytes,
    collections.deque: list,
    Sequence: list,
    ValuesView: list,
    Fraction: str,
    **dict.fromkeys((ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network), str),
}


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text_key(key): _with_text_keys(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(each) for each in value]
    if isinstance(value, _NATIVE):
        return value
    try:
        return _with_text_keys(_converted(value))
    except TypeError:
        return value  # for kombu; else it is named as what it is


def _text_key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str | int | float | bool | None):
        return key
    if isinstance(key, date | time):
        return key.isoformat()
    if isinstance(key, bytes):
        return key.decode()
    if isinstance(key, UUID | Decimal | Fraction | ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(key)
    if isinstance(key, os.PathLike):
        return os.fsdecode(key)
    raise TypeError(f"there is no JSON for a dict with the key {key!r:.100} of type {type(key).__qualname__}")


def _hook(mapping: dict[str, Any]) -> Any:
    try:
        return json.object_hook(mapping)
    except Exception:
        # A dict of the user's that only looks like one of kombu's types.
        return mapping
