"""Real servers for the tests, each a plain context manager on a free port of 127.0.0.1."""

from __future__ import annotations

__all__ = ["MissingServer"]


class MissingServer(Exception):
    """A server program is not installed here; names what to install."""
