"""Text as every database takes it, and back: in one place, the column types, for whatever goes into a row.

A lone surrogate (of a file name that is not UTF-8) cannot be encoded, and PostgreSQL takes no NUL. Both are escaped, so
that what differs stays different, and what is read is what was written.
"""

from __future__ import annotations

import hashlib
import re

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

__all__ = ["LONGEST_ID_BYTES", "IdText", "StorableText", "fitted_id", "from_storable", "to_storable"]

#: Before what is escaped: a control character that no text has a use for.
_ESCAPE = "\x1a"
_UNSTORABLE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a(.{4})")
_CUT = re.compile("\x1a.{0,3}$")

#: An index of PostgreSQL takes 2,704 bytes.
LONGEST_ID_BYTES = 2000


def to_storable(text: str) -> str:
    """Return text that every database takes; most is what it was."""
    return _UNSTORABLE.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", text)


def from_storable(text: str) -> str:
    """Return what :func:`to_storable` was given."""
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def fitted_id(text: str) -> str:
    """Return an id as it is read back: one that no index could hold ends in a digest of all of it."""
    storable = to_storable(text).encode()
    if len(storable) <= LONGEST_ID_BYTES:
        return text
    digest = hashlib.sha256(storable).hexdigest()
    kept = storable[: LONGEST_ID_BYTES - len(digest) - 3].decode(errors="ignore")
    return f"{from_storable(_CUT.sub('', kept))}...{digest}"


class StorableText(TypeDecorator[str]):
    """Text of any length and any characters."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape it."""
        return None if value is None else to_storable(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Give back what was escaped."""
        return None if value is None else from_storable(value)


class IdText(StorableText):
    """Text that an index holds, see :func:`fitted_id`."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape it, and shorten it."""
        return super().process_bind_param(None if value is None else fitted_id(value), dialect)
