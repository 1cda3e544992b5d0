"""Long literal sources: their values lie in the payload store, and a column of the source says where."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from asyncworker.errors import SourceError
from asyncworker.store import Payload, Payloads

__all__ = ["OffloadedValues", "offload_source"]

#: So many values are encoded together, a line of the payload; a reader holds no more of them decoded.
VALUES_A_LINE = 1000


class OffloadedValues:
    """Values in the payload store: sized, and to be gone through any number of times once they are loaded.

    Memory holds them encoded, and a thousand of them decoded.

    Attributes:
        wire: Where they are, for a column's wire form.
    """

    def __init__(self, wire: dict[str, Any], payloads: Payloads, decode: Callable[[bytes], Any]) -> None:
        self.wire = wire
        self._payload = _LoadedOnce(msgspec.convert(wire["payload"], Payload), payloads)
        self._decode = decode
        self._range = range(wire["count"])

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[Any]:
        a_line = self.wire["a_line"]
        first_line = self._range.start // a_line
        lines = itertools.islice(self._payload.lines(), first_line, None)
        values = itertools.chain.from_iterable(map(self._decode, lines))
        start = self._range.start - first_line * a_line
        cut = itertools.islice(values, start, start + len(self._range))
        # Pairs: as of a dict that has travelled in the message.
        return map(tuple, cut) if self.wire["kind"] == "pairs" else cut

    def cut(self, start: int, stop: int) -> OffloadedValues:
        """Return some of the values; they are loaded together with all others."""
        part = copy.copy(self)
        part._range = self._range[start:stop]
        return part

    def identity(self) -> list[Any]:
        """Return the identity of the source, for comparison."""
        return [self.wire["kind"], self._range.start, self._range.stop, self._payload.payload.sha256]

    def load(self) -> None:
        """Read them. Blocks.

        Raises:
            PayloadError: They cannot be read, or are not what was written.
        """
        self._payload.load()


class _LoadedOnce:
    """A payload, and its content once that was read."""

    def __init__(self, payload: Payload, payloads: Payloads) -> None:
        self.payload = payload
        self._payloads = payloads
        self._body: bytes | None = None

    def load(self) -> None:
        if self._body is None:
            self._body = self._payloads.get(self.payload)
            self._payloads.touch(self.payload)

    def lines(self) -> Iterator[bytes]:
        if self._body is None:
            raise SourceError(f"payload {self.payload.name} was not loaded")
        start = 0
        while start < len(self._body):
            end = self._body.index(b"\n", start)
            yield self._body[start:end]
            start = end + 1


def offload_source(wire: dict[str, Any], payloads: Payloads, encode: Callable[[Any], bytes]) -> dict[str, Any]:
    """Put the long columns of a source into the payload store. Blocks.

    Args:
        wire: The source's wire form; it is not changed.
        payloads: Where they are put; it also says how many bytes are long.
        encode: Makes one line of a list of values.

    Returns:
        The wire form with payloads in the place of long columns.

    Raises:
        PayloadError: It cannot be written to.
    """
    columns = []
    for column in wire["columns"]:
        kind = next((name for name in ("values", "pairs") if name in column), None)
        body = None if kind is None else _body(column[kind], encode, payloads.over_bytes)
        if body is not None:
            payload = msgspec.to_builtins(payloads.put_source(body))
            where = {"kind": kind, "count": len(column[kind]), "a_line": VALUES_A_LINE, "payload": payload}
            column = {"name": column["name"], "offloaded": where}
        columns.append(column)
    return {**wire, "columns": columns}


def _body(values: list[Any], encode: Callable[[Any], bytes], over_bytes: int) -> bytes | None:
    """Encode values; ``None`` where they are short, or cannot be: then the message says so in its own way."""
    try:
        lines = [encode(part) for part in _parts(values)]
    except (TypeError, ValueError):
        return None
    if sum(len(line) + 1 for line in lines) <= over_bytes:
        return None
    return b"".join(line + b"\n" for line in lines)


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(values)
    while part := list(itertools.islice(iterator, VALUES_A_LINE)):
        yield part
