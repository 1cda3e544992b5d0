"""How a service is reached: everything that tells one client from another."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from asyncworker.errors import SettingsError
from asyncworker.http.connections import Connections
from asyncworker.http.own_headers import OwnHeaders
from asyncworker.redaction import redacted

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the service is, how to log in, how much at once. Compares by value; secrets are not in its ``repr``.

    Attributes:
        base_url: What relative URLs are added to.
        headers: Sent with every request to the base URL's own server, and to no other: not where a redirect or a whole
            URL leads elsewhere.
        token: Sent as ``Authorization: Bearer``, to that server only.
        auth: User and password for HTTP's basic log-in, to that server only.
        verify: Whether certificates are checked; a path: against the authorities in that file.
        proxy: The URL of a proxy; ``None``: none, whatever the environment says.
        follow_redirects: Whether a redirect is followed.
        connections: Connections at most, to all hosts together, idle ones included.
        per_host: Requests at once to one host at most, those whose answer is being read included.
        connect_timeout_s: Seconds to make a connection, and to wait for one of the others to come free.
        timeout_s: Seconds for one attempt, from sending to the end of the answer; of a streamed answer: to its head,
            and then between two pieces.
        max_bytes: Bytes of one answer, decompressed, that are read into memory; a larger one is an error. It does not
            bound a streamed answer.
        attempts: How often a request is sent at most.
        backoff_s: Before a second attempt; doubled for each further one, with jitter.
        most_wait_s: Between two attempts at most. A server that asks for more is not asked again.
    """

    base_url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)
    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)
    follow_redirects: bool = True
    connections: int = 100
    per_host: int = 20
    connect_timeout_s: float = 10.0
    timeout_s: float = 30.0
    max_bytes: int = 100_000_000
    attempts: int = 4
    backoff_s: float = 0.5
    most_wait_s: float = 60.0

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as exc:
            raise SettingsError(f"HTTP base_url is {redacted(self.base_url)!r}: {exc}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise SettingsError(f"HTTP base_url is {redacted(self.base_url)!r}: expected http://HOST or https://HOST")
        if self.token is not None and self.auth is not None:
            raise SettingsError("HTTP token and auth are both given: a request can carry one of them")
        for name in ("connections", "per_host", "max_bytes", "attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"HTTP {name} is {value!r}: a whole number of 1 or more is needed")
        for name in ("connect_timeout_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"HTTP {name} is {getattr(self, name)!r}: more than 0 is needed")
        for name in ("backoff_s", "most_wait_s"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"HTTP {name} is {getattr(self, name)!r}: 0 or more is needed")

    @classmethod
    def of(
        cls,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | os.PathLike[str] = True,
        **others: object,
    ) -> Options:
        """Make options from what a caller writes.

        Raises:
            SettingsError: An option that does not exist, or a value that is not allowed.
        """
        for name in others:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(sorted(cls.__dataclass_fields__))
                raise SettingsError(f"HTTP option {name!r} does not exist; known: {known}")
        return cls(
            base_url=base_url,
            headers=tuple((headers or {}).items()),
            verify=verify if isinstance(verify, bool) else os.fspath(verify),
            **others,  # type: ignore[arg-type]  # names checked above, values in __post_init__
        )

    def make(self) -> httpx.AsyncClient:
        """Make httpx's client. Not on the loop: it reads certificates from disk."""
        headers = dict(self.headers)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        verify: ssl.SSLContext | bool = False
        if self.verify:
            file = self.verify if isinstance(self.verify, str) else None
            verify = ssl.create_default_context(cafile=file) if file else httpx.create_ssl_context()
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            auth=self.auth,
            follow_redirects=self.follow_redirects,
            event_hooks={"request": [OwnHeaders(self.base_url, headers)]},
            transport=Connections(self.connections, verify, self.proxy),
            timeout=httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s, pool=self.connect_timeout_s),
        )
