"""Which server gets what: headers and log-in of a client are for its own server, those of a call for the one called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

__all__ = ["OwnHeaders", "called_with", "same_server"]

#: What any server may know.
_HARMLESS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-encoding",
        "content-language",
        "content-length",
        "content-type",
        "cookie",  # httpx keeps it by domain, and drops a caller's own at a redirect
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "te",
        "transfer-encoding",
        "user-agent",
    }
)
_CALL = "asyncworker.call"
_PORTS = {"http": 80, "https": 443}


def same_server(one: httpx.URL, other: httpx.URL) -> bool:
    """Tell whether two URLs lead to one server; the same one by TLS counts, on the usual ports."""
    if one.host != other.host:
        return False
    ports = [url.port or _PORTS.get(url.scheme) for url in (one, other)]
    if one.scheme == other.scheme:
        return ports[0] == ports[1]
    return (one.scheme, other.scheme, *ports) == ("http", "https", 80, 443)


def called_with(url: httpx.URL, headers: Any) -> dict[str, Any]:
    """Return the extension of a request that says what the caller asked for: it stays with it through redirects."""
    return {_CALL: (url, frozenset(httpx.Headers(headers).keys()))}


class OwnHeaders:
    """A hook of httpx, called before each request, those that follow a redirect as well.

    Args:
        base_url: The client's own server.
        names: The headers that the client sends by itself.
    """

    def __init__(self, base_url: str, names: Mapping[str, str]) -> None:
        self._own = httpx.URL(base_url)
        self._names = [*httpx.Headers(dict(names)).keys(), "authorization"]

    async def __call__(self, request: httpx.Request) -> None:
        """Take away what the server that it goes to is not meant to see."""
        called, given = request.extensions.get(_CALL, (self._own, frozenset()))
        as_called = same_server(called, request.url)
        if not as_called:
            for name in given - _HARMLESS:
                request.headers.pop(name, None)
        if same_server(self._own, request.url):
            return
        for name in self._names:
            own_log_in = name == "authorization" and as_called and request.url.userinfo
            if not (name in given and as_called) and name not in ("user-agent", "accept") and not own_log_in:
                request.headers.pop(name, None)
