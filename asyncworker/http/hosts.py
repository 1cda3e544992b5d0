"""How many requests are under way to one host, and when it may be asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

__all__ = ["Hosts"]


class _Host:
    def __init__(self, most: int) -> None:
        self.permits = asyncio.Semaphore(most)
        self.users = 0
        self.closed_until = 0.0  # by the loop's clock


class Hosts:
    """The hosts that requests are under way to. Used on one loop.

    Args:
        most: Requests at once to one host.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, url: httpx.URL) -> AsyncIterator[None]:
        """Hold one of the host's permits; wait for it in the order of arrival. Safe to cancel at any await."""
        name = _name(url)
        host = self._hosts.setdefault(name, _Host(self._most))
        host.users += 1
        try:
            async with host.permits:
                await _until(host)
                yield
        finally:
            host.users -= 1
            if not host.users and host.closed_until <= _now():
                self._hosts.pop(name, None)  # a client may see more hosts than it should remember

    def close_for(self, url: httpx.URL, seconds: float) -> None:
        """Begin no request to that host for so long."""
        host = self._hosts.get(_name(url))
        if host is not None:
            host.closed_until = max(host.closed_until, _now() + seconds)


def _name(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until(host: _Host) -> None:
    # Whoever holds a permit waits with it: the host takes nothing from anybody else either.
    while (wait_s := host.closed_until - _now()) > 0:  # noqa: ASYNC110  (a time is waited for, no event)
        await asyncio.sleep(wait_s)
