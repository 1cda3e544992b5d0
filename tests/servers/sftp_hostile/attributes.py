"""Attributes on the wire (draft section 5), and functions that bend them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Claim", "Stat", "claim_size", "without_attributes", "without_type_bits"]


@dataclass(frozen=True)
class Stat:
    """Attributes of a file as a packet has them; ``None`` for those that are absent."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    atime: int | None = None
    mtime: int | None = None

    def packed(self) -> bytes:
        has = (self.size is not None, self.uid is not None, self.mode is not None, self.mtime is not None)
        body = struct.pack(">I", sum(flag << bit for bit, flag in enumerate(has)))
        if self.size is not None:
            body += struct.pack(">Q", self.size)
        if self.uid is not None:
            body += struct.pack(">II", self.uid, self.gid or 0)
        if self.mode is not None:
            body += struct.pack(">I", self.mode)
        if self.mtime is not None:
            body += struct.pack(">II", self.atime or 0, self.mtime)
        return body


#: Takes a kind of request, a path and the true attributes; returns those that the client is told.
Claim = Callable[[str, bytes, Stat], Stat]


def claim_size(size: Callable[[int], int | None], *kinds: str) -> Claim:
    """Claim another size of regular files: ``claim_size(lambda _: 0, "STAT", "FSTAT")``."""

    def claim(kind: str, path: bytes, stat: Stat) -> Stat:
        if kind not in kinds or stat.size is None or stat.mode is None or stat.mode >> 12 != 0o10:
            return stat
        return replace(stat, size=size(stat.size))

    return claim


def without_attributes(*kinds: str) -> Claim:
    """Send no attributes at all in answers to these kinds of requests."""
    return lambda kind, path, stat: Stat() if kind in kinds else stat


def without_type_bits(*kinds: str) -> Claim:
    """Send permissions without the bits that tell a file from a folder."""

    def claim(kind: str, path: bytes, stat: Stat) -> Stat:
        if kind not in kinds or stat.mode is None:
            return stat
        return replace(stat, mode=stat.mode & 0o7777)

    return claim
