"""Items that are known by a key: which are finished, and where in the source they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from asyncworker.errors import SourceError
from asyncworker.store import KeyChunk

__all__ = ["KEY_BYTES", "Keys", "digest_of"]

KEY_BYTES = 16

_encode = msgspec.msgpack.Encoder(order="sorted").encode


def digest_of(key: Any) -> bytes:
    """Stand-in for a key: 16 bytes of BLAKE2b over its MessagePack form; ``1`` and ``"1"`` differ.

    Raises:
        TypeError: The key's type has no such form.
    """
    try:
        form = _encode(key)
    except UnicodeEncodeError:
        # A file name with bytes that are no UTF-8.
        form = repr(key).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(form, digest_size=KEY_BYTES).digest()


class Keys:
    """The keys of a run. Takes some 150 bytes an item: duplicates could not be noticed otherwise."""

    def __init__(self, stored: Iterable[KeyChunk]) -> None:
        #: Finished in earlier attempts and not met in this one yet; True: by being skipped.
        self._before: dict[bytes, bool] = {}
        #: Met in this attempt: index by digest.
        self._met: dict[bytes, int] = {}
        self._new: list[tuple[bytes, int, bool]] = []
        for chunk in stored:
            skipped = set(chunk.skipped)
            for offset, index in enumerate(chunk.indexes):
                digest = chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES]
                self._before[digest] = index in skipped

    def seen(self, digest: bytes, index: int) -> bool:
        """Meet an item in the source; say whether an earlier attempt has finished it.

        Raises:
            SourceError: An earlier item has the same key.
        """
        first = self._met.setdefault(digest, index)
        if first != index:
            raise SourceError(f"item {index} has the same key as item {first}: keys must be unique")
        skipped = self._before.pop(digest, None)
        if skipped is None:
            return False
        # Stored again, as where it stands may have changed.
        self._new.append((digest, index, skipped))
        return True

    def add(self, digest: bytes, index: int, *, skipped: bool) -> None:
        """Note an item as finished."""
        self._new.append((digest, index, skipped))

    def take(self) -> list[KeyChunk]:
        """What is to be stored since the last call."""
        new, self._new = self._new, []
        return [
            KeyChunk(
                b"".join(digest for digest, _, _ in part),
                [index for _, index, _ in part],
                [index for _, index, skipped in part if skipped],
            )
            for part in (new[start : start + 1000] for start in range(0, len(new), 1000))
        ]

    def gone(self) -> tuple[int, int]:
        """How many items, done and skipped, the source does not have any more, once it is read to its end."""
        skipped = sum(self._before.values())
        return len(self._before) - skipped, skipped
