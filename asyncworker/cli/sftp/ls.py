"""``asyncworker sftp ls``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options
from asyncworker.cli.sftp.entries import SORTS, as_object, long_line, sorted_entries
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.remote import by_server, entries_of, pool_of
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPNameError
from asyncworker.sftp import Entry, SFTPPool

__all__ = ["list_"]


@click.command("ls", context_settings={"help_option_names": ["--help"]})  # -h is another thing here
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-l", "--long", "long", is_flag=True, help="Permissions, owner, group, size and time (UTC), too.")
@click.option("-h", "--human", is_flag=True, help="With -l: sizes as 1.5K, 23M.")
@click.option("-a", "--all", "hidden", is_flag=True, help="Names that begin with a dot, too.")
@click.option("-d", "--directory", is_flag=True, help="Folders themselves, not what is in them.")
@click.option("-R", "--recursive", is_flag=True, help="Folders below, too; links to folders are not followed.")
@click.option("--sort", type=click.Choice(list(SORTS)), help="Default: the server's order, at once.")
@click.option("-S", "sort", flag_value="size", help="The largest first: --sort size.")
@click.option("-t", "sort", flag_value="time", help="The newest first: --sort time.")
@click.option("-r", "--reverse", is_flag=True, help="The other way round; --sort name where no order is given.")
@click.option("-0", "--null", is_flag=True, help="Paths, each with a NUL after it, for xargs -0.")
@connection_options
def list_(urls: tuple[str, ...], as_json: bool, null: bool, **given: Any) -> None:
    """List folders and files; patterns are expanded on the server: ls -l 'sftp://host/in/*.xml'

    A folder that cannot be listed is reported, the others are listed, and the command exits with 1. With --json, an
    object a line: path, name, type (file, directory, link, ...), size_bytes, mtime, mode, uid, gid.
    """
    output = Output(as_json, null)
    how = _How(
        long=given["long"],
        human=given["human"],
        hidden=given["hidden"],
        directory=given["directory"],
        recursive=given["recursive"],
        sort=given["sort"] or ("name" if given["reverse"] else None),
        reverse=given["reverse"],
    )

    async def run() -> None:
        for host, login, paths in by_server(urls):
            async with pool_of(host, login, given) as pool:
                await _Listing(pool, how, output).all(paths, headers=len(urls) > 1)

    run_async(run())
    output.finish()


@dataclass(frozen=True, kw_only=True)
class _How:
    """Options of one ``ls``."""

    long: bool
    human: bool
    hidden: bool
    directory: bool
    recursive: bool
    sort: str | None
    reverse: bool


class _Listing:
    """Listing of one server."""

    def __init__(self, pool: SFTPPool, how: _How, output: Output) -> None:
        self._pool = pool
        self._how = how
        self._output = output

    async def all(self, paths: list[str], *, headers: bool) -> None:
        """List what the arguments name: files first, then what is in the folders, as ls does."""
        folders: list[Entry] = []
        files: list[Entry] = []
        for path in paths:
            for entry in await entries_of(self._pool, path, self._output):
                is_folder = not self._how.directory and await self._leads_to_folder(entry)
                (folders if is_folder else files).append(entry)
        for entry in self._in_order(files):
            self._print(entry, entry.path)
        headers = (headers or bool(files) or len(folders) > 1) and not (self._output.as_json or self._output.null)
        for number, folder in enumerate(self._in_order(folders)):
            if headers:
                if number or files:
                    self._output.line("")
                self._output.line(f"{folder.path}:")
            await self._folder(folder.path)

    async def _leads_to_folder(self, entry: Entry) -> bool:
        told = None if entry.is_link else entry.attributes
        return bool(await self._pool._is_folder(entry.path, told))

    async def _folder(self, folder: str) -> None:
        start = len(folder.rstrip("/")) + 1
        try:
            async with aclosing(self._entries(folder)) as entries:
                if self._how.sort is None:
                    async for entry in entries:
                        self._print(entry, entry.path[start:])
                    return
                found = [entry async for entry in entries]
        except (SFTPConnectError, SFTPConnectionLost):
            raise
        except SFTPError as error:
            self._output.fail(folder, error)
            return
        for entry in self._in_order(found):
            self._print(entry, entry.path[start:])

    async def _entries(self, folder: str) -> AsyncGenerator[Entry, None]:
        def bad_name(error: SFTPNameError) -> None:
            self._output.fail(error.path or folder, error)

        if self._how.recursive:
            entries = self._pool.walk(
                folder, enter=self._is_shown, bad_names=bad_name, local_names=False, on_error=self._output.fail
            )
        else:
            entries = self._pool.list(folder, bad_names=bad_name, local_names=False)
        async with aclosing(entries):  # before the pool is closed under it
            async for entry in entries:
                if self._is_shown(entry):
                    yield entry

    def _is_shown(self, entry: Entry) -> bool:
        return self._how.hidden or not entry.name.startswith(".")

    def _in_order(self, entries: list[Entry]) -> list[Entry]:
        return sorted_entries(entries, self._how.sort, self._how.reverse) if self._how.sort else entries

    def _print(self, entry: Entry, shown: str) -> None:
        if self._output.as_json:
            self._output.record(**as_object(entry))
        elif self._output.null:
            self._output.path(entry.path)
        elif self._how.long:
            self._output.line(long_line(entry, shown, self._how.human))
        else:
            self._output.line(shown)
