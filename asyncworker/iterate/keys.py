"""Items that are known by a key: which are settled, and where in the source they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from asyncworker.errors import ArgumentError, SourceError
from asyncworker.store import KeyChunk

__all__ = ["KEY_BYTES", "Gone", "Keys", "Outcome", "check_key", "digest_of"]

KEY_BYTES = 16

Outcome = Literal["done", "skipped", "failed"]

_encode = msgspec.msgpack.Encoder(order="sorted").encode


def check_key(key: str, names: Sequence[str]) -> None:
    """Refuse a key that is none of the keywords of a source.

    Raises:
        ArgumentError: Names both.
    """
    if key not in names:
        raise ArgumentError(f"key is {key!r}: the source has {', '.join(names)}", parameters=names, unknown=[key])


def digest_of(key: Any) -> bytes:
    """Stand-in for a key: 16 bytes of BLAKE2b over its MessagePack form; ``1`` and ``"1"`` differ.

    Raises:
        TypeError: The key's type has no such form.
    """
    try:
        form = _encode(key)
    except (UnicodeEncodeError, OverflowError):
        # A file name with bytes that are no UTF-8, or an integer of more than 64 bits.
        form = repr(key).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(form, digest_size=KEY_BYTES).digest()


class Gone(NamedTuple):
    """Items of earlier attempts that the source does not list any more."""

    items: int
    failed: list[tuple[bytes, int]]
    """Those that had failed, with the index that they have now."""


class Keys:
    """The keys of a run. Takes some 150 bytes an item: duplicates could not be noticed otherwise."""

    def __init__(self, stored: Iterable[KeyChunk]) -> None:
        #: Settled in earlier attempts and not met in this one yet: how, and at which index.
        self._before: dict[bytes, tuple[Outcome, int]] = {}
        #: Met in this attempt: index by digest.
        self._met: dict[bytes, int] = {}
        self._new: list[tuple[bytes, int, Outcome]] = []
        for chunk in stored:
            skipped, failed = set(chunk.skipped), set(chunk.failed)
            for offset, index in enumerate(chunk.indexes):
                digest = chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES]
                outcome: Outcome = "skipped" if index in skipped else "failed" if index in failed else "done"
                self._before[digest] = outcome, index

    def known(self, digest: bytes) -> bool:
        """Return whether an earlier attempt settled the item, by success or failure."""
        return digest in self._before or digest in self._met

    def seen(self, digest: bytes, index: int) -> bool:
        """Meet an item in the source; say whether an earlier attempt has finished it.

        Raises:
            SourceError: An earlier item has the same key.
        """
        first = self._met.setdefault(digest, index)
        if first != index:
            raise SourceError(f"item {index} has the same key as item {first}: keys must be unique")
        outcome, _ = self._before.pop(digest, ("failed", 0))
        if outcome == "failed":
            return False
        # Stored again, as where it stands may have changed.
        self._new.append((digest, index, outcome))
        return True

    def add(self, digest: bytes, index: int, outcome: Outcome) -> None:
        """Note an item as settled."""
        self._new.append((digest, index, outcome))

    def take(self) -> list[KeyChunk]:
        """Return the chunks to store since the last call."""
        new, self._new = self._new, []
        return [
            KeyChunk(
                b"".join(digest for digest, _, _ in part),
                [index for _, index, _ in part],
                [index for _, index, outcome in part if outcome == "skipped"],
                [index for _, index, outcome in part if outcome == "failed"],
            )
            for part in (new[start : start + 1000] for start in range(0, len(new), 1000))
        ]

    def gone(self, first: int) -> Gone:
        """Number the items that a source, once it is read to its end, does not list: in their old order, from `first`.

        They stay settled as they were.
        """
        failed = []
        left = sorted(self._before.items(), key=lambda each: each[1][1])
        for index, (digest, (outcome, _)) in enumerate(left, first):
            self._new.append((digest, index, outcome))
            if outcome == "failed":
                failed.append((digest, index))
        self._before.clear()
        return Gone(len(left), failed)
