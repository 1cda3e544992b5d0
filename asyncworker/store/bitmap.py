"""A growing set of small integers, one bit each: the finished indexes of a run."""

from __future__ import annotations

__all__ = ["Bitmap"]


class Bitmap:
    """A set of indexes from 0 up, as many bytes as the highest one needs."""

    __slots__ = ("_bytes",)

    def __init__(self, stored: bytes = b"") -> None:
        self._bytes = bytearray(stored)

    def add(self, index: int) -> None:
        """Put an index in."""
        place = index >> 3
        try:
            self._bytes[place] |= 1 << (index & 7)
        except IndexError:
            # Grown by an eighth at a time, so that a run of a million items does not copy itself a thousand times.
            self._bytes.extend(bytes(place + 1 - len(self._bytes) + max(64, len(self._bytes) >> 3)))
            self._bytes[place] |= 1 << (index & 7)

    def __contains__(self, index: int) -> bool:
        place = index >> 3
        return place < len(self._bytes) and bool(self._bytes[place] >> (index & 7) & 1)

    def __len__(self) -> int:
        return int.from_bytes(self._bytes, "little").bit_count()

    def __bytes__(self) -> bytes:
        return bytes(self._bytes).rstrip(b"\0")
