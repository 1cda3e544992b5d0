"""A URL as it may stand in a log."""

from __future__ import annotations

import httpx

__all__ = ["shown"]


def shown(url: httpx.URL) -> str:
    """Return the URL as it may stand in a log: no password, and no query, which may hold a key."""
    query = "?..." if url.query else ""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None)) + query
