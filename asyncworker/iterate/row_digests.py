"""Recognize the rows of a source that can change: each row is compared with the one an earlier attempt read there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from asyncworker.errors import RunChanged

__all__ = ["ROW_BYTES", "RowDigests", "row_digest"]

ROW_BYTES = 8

#: Default representations name an address, which is another one in each process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _plain(value: Any) -> Any:
    """Replace what MessagePack has no form for by something that is equal in every process."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(map(_text, value))
    if isinstance(value, Mapping):
        return dict(value)
    own = getattr(value, "__dict__", None)
    if own and "__repr__" not in type(value).__dict__:
        return [type(value).__qualname__, own]
    return _text(value)


def _text(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))


_encode = msgspec.msgpack.Encoder(enc_hook=_plain, order="sorted").encode


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Return 8 bytes of BLAKE2b over a row's arguments; equal rows have equal ones in every process."""
    try:
        form = _encode(row)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Half a surrogate pair, an integer of more than 64 bits, keys of several types.
        form = _text(row).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(form, digest_size=ROW_BYTES).digest()


class RowDigests:
    """The digests of a run's rows, by their place in the source.

    Args:
        stored: Those that earlier attempts have read, in order.
        compare: Refuse a row that differs from the stored one.
        run_id: Names the run in errors.
    """

    def __init__(self, stored: bytes, *, compare: bool, run_id: str) -> None:
        self._stored = stored
        self._compare = compare
        self._run_id = run_id
        self._new = bytearray()
        self._taken = self.known = len(stored) // ROW_BYTES

    def meet(self, place: int, row: Mapping[str, Any]) -> None:
        """Take the next row of the source.

        Raises:
            RunChanged: An earlier attempt read another row at this place.
        """
        digest = row_digest(row)
        if place >= self.known:
            self._new += digest
        elif self._compare and self._stored[place * ROW_BYTES : (place + 1) * ROW_BYTES] != digest:
            raise self._changed(f"row {place} is now {dict(row)!r:.200}, an earlier attempt read another one there")

    def missing(self, count: int) -> range:
        """Return the places that an earlier attempt read, and that a source of this length does not reach."""
        return range(count, self.known if self._compare else count)

    def ended_early(self, count: int, place: int) -> RunChanged:
        """Make the error of a source that ended before a row that is not finished."""
        return self._changed(
            f"it ended after {count} rows, an earlier attempt read {self.known}, and row {place} is not finished"
        )

    def take(self) -> tuple[int, bytes]:
        """Return the digests that are new since the last call, and the place of the first."""
        first, new = self._taken, bytes(self._new)
        self._taken += len(new) // ROW_BYTES
        self._new.clear()
        return first, new

    def _changed(self, how: str) -> RunChanged:
        return RunChanged(
            f"run {self._run_id}: its source has changed since it was first read: {how}. Without a key, items are "
            "known by their place in the source: name the argument that identifies an item with options(key=...), or "
            'start all afresh with options(on_change="restart") or under another id'
        )
