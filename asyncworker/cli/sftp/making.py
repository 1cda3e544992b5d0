"""``asyncworker sftp mkdir``, ``ln`` and ``chmod``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options, parsed
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.remote import attempt, by_server, entries_of, pool_of
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError
from asyncworker.sftp import Entry, SFTPPool
from asyncworker.sftp.pulling import run_each

__all__ = ["chmod", "ln", "mkdir"]


class _Mode(click.ParamType):  # type: ignore[type-arg]
    """Permissions in octal, as 0644 or 755."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not 1 <= len(value) <= 5 or set(value) - set("01234567") or int(value, 8) > 0o7777:
            self.fail(f"{value!r} is not a mode in octal, such as 0644 or 755", param, ctx)
        return int(value, 8)


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-p", "--parents", is_flag=True, help="The folders above, too; no error if it exists.")
@click.option("-m", "--mode", type=_Mode(), metavar="MODE", help="Its permissions in octal, whatever the umask.")
@connection_options
def mkdir(urls: tuple[str, ...], parents: bool, mode: int | None, as_json: bool, **given: Any) -> None:
    """Make folders."""
    output = Output(as_json)

    async def run() -> None:
        for host, login, paths in by_server(urls):
            async with pool_of(host, login, given) as pool:
                for path in paths:
                    if await attempt(output, path, _make(pool, path, parents, mode)) and as_json:
                        output.done("made", path)

    run_async(run())
    output.finish()


async def _make(pool: SFTPPool, path: str, parents: bool, mode: int | None) -> None:
    try:
        await pool.mkdir(path, mode=mode, parents=parents)
    except (SFTPConnectError, SFTPConnectionLost):
        raise
    except SFTPError:
        if not parents:
            raise
        await pool.mkdir(path, parents=True, exist_ok=True)  # it may exist, and keeps its mode then
    else:
        if mode is not None:
            await pool.chmod(path, mode)


@click.command()
@click.argument("target")
@click.argument("url")
@click.option("-s", "--symbolic", is_flag=True, required=True, help="Make a symbolic link; there are no others.")
@connection_options
def ln(target: str, url: str, symbolic: bool, as_json: bool, **given: Any) -> None:
    """Make a symbolic link: ln -s ../current/a.xml sftp://host/in/a.xml

    TARGET is kept as it is: relative to the folder of the link, or absolute on the server.
    """
    if not symbolic:
        raise click.UsageError("only symbolic links can be made: ln -s TARGET URL")
    host, path, login = parsed(url)
    output = Output(as_json)

    async def run() -> None:
        async with pool_of(host, login, given) as pool:
            if await attempt(output, path, pool.symlink(target, path)) and as_json:
                output.done("made", path)

    run_async(run())
    output.finish()


@click.command()
@click.argument("mode", type=_Mode())
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-R", "--recursive", is_flag=True, help="What is in folders, too; links are left alone.")
@connection_options
def chmod(mode: int, urls: tuple[str, ...], recursive: bool, as_json: bool, **given: Any) -> None:
    """Set permissions, in octal: chmod 640 'sftp://host/in/*.xml'"""
    output = Output(as_json)

    async def run() -> None:
        for host, login, paths in by_server(urls):
            async with pool_of(host, login, given) as pool:

                async def one(entry: Entry) -> None:
                    if await attempt(output, entry.path, pool.chmod(entry.path, mode)) and as_json:
                        output.done("changed", entry.path)

                for path in paths:
                    for entry in await entries_of(pool, path, output):
                        if recursive and entry.is_dir:
                            await _below(pool, entry.path, output, one)
                        if not (recursive and entry.is_link):
                            await one(entry)

    run_async(run())
    output.finish()


async def _below(pool: SFTPPool, folder: str, output: Output, one: Callable[[Entry], Awaitable[None]]) -> None:
    """Call for all that is in a folder but links: folders last, the deepest first, as a new mode may keep us out."""
    by_depth: dict[int, list[Entry]] = {}

    async def files() -> AsyncGenerator[Entry, None]:
        async with aclosing(pool.walk(folder, local_names=False, on_error=output.fail)) as below:
            async for entry in below:
                if entry.is_dir:
                    by_depth.setdefault(entry.path.count("/"), []).append(entry)
                elif not entry.is_link:
                    yield entry

    await run_each(files(), one)
    for depth in sorted(by_depth, reverse=True):
        await run_each(by_depth[depth], one)
