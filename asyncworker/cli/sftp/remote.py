"""URLs of commands that work on the server alone: several arguments, patterns in them, a pool a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from asyncworker.cli.sftp.connection import parsed, pool_options
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp import Entry, SFTPPool
from asyncworker.sftp.globbing import expand

__all__ = ["attempt", "attempt_each", "by_server", "entries_of", "pool_of"]

#: Host and login of a server, and the paths on it.
Server = tuple[str, dict[str, Any], list[str]]


def by_server(urls: Iterable[str]) -> list[Server]:
    """Return servers and the paths on each, in the order of the arguments."""
    servers: list[Server] = []
    for url in urls:
        host, path, login = parsed(url)
        for known_host, known_login, paths in servers:
            if (known_host, known_login) == (host, login):
                paths.append(path)
                break
        else:
            servers.append((host, login, [path]))
    return servers


@asynccontextmanager
async def pool_of(host: str, login: dict[str, Any], given: dict[str, Any]) -> AsyncIterator[SFTPPool]:
    """A pool as the URL and the options of the command want it."""
    async with SFTPPool(host, **pool_options(login, given)) as pool:
        yield pool


async def entries_of(pool: SFTPPool, path: str, output: Output, *, missing_ok: bool = False) -> list[Entry]:
    """Return what a path or a pattern names; a failure is printed, and its result is empty.

    Raises:
        SFTPConnectError: The server cannot be reached; no other path will do better.
        SFTPConnectionLost: The connection is lost, likewise.
    """
    try:
        return await expand(pool, path, output.fail)
    except (SFTPConnectError, SFTPConnectionLost):
        raise
    except SFTPError as error:
        if not (missing_ok and isinstance(error, SFTPFileNotFound)):
            output.fail(path, error)
        return []


async def attempt(output: Output, path: str, call: Awaitable[object]) -> bool:
    """Await a call; a failure is printed. Returns whether it succeeded.

    Raises:
        SFTPConnectError: The server cannot be reached; no other path will do better.
        SFTPConnectionLost: The connection is lost, likewise.
    """
    try:
        await call
    except (SFTPConnectError, SFTPConnectionLost):
        raise
    except SFTPError as error:
        output.fail(path, error)
        return False
    return True


async def attempt_each(
    urls: Iterable[str], given: dict[str, Any], output: Output, call: Callable[[SFTPPool, Entry], Awaitable[object]]
) -> None:
    """Make a call for each entry that the arguments name, one after the other; failures are printed.

    Raises:
        SFTPConnectError: A server cannot be reached.
        SFTPConnectionLost: The connection is lost.
    """
    for host, login, paths in by_server(urls):
        async with pool_of(host, login, given) as pool:
            for path in paths:
                for entry in await entries_of(pool, path, output):
                    await attempt(output, entry.path, call(pool, entry))
