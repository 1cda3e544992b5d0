"""``asyncworker sftp rm`` and ``rmdir``."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.remote import attempt, attempt_each, by_server, entries_of, pool_of
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPError
from asyncworker.sftp import Entry, SFTPPool
from asyncworker.sftp.pulling import run_each

__all__ = ["rm", "rmdir"]


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-r", "-R", "--recursive", is_flag=True, help="Folders, with all that is in them; never through a link.")
@click.option("-f", "--ignore-missing", is_flag=True, help="No error if there is nothing of that name.")
@click.option("--force", is_flag=True, help="Even the root, the home folder, or a folder above it.")
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing; print what would be removed.")
@click.option("-v", "--verbose", is_flag=True, help="Print what is removed.")
@connection_options
def rm(
    urls: tuple[str, ...],
    recursive: bool,
    ignore_missing: bool,
    force: bool,
    dry_run: bool,
    verbose: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Remove files, and with -r folders; patterns are expanded on the server: rm 'sftp://host/in/*.tmp'

    What cannot be removed is reported, the rest goes, and the command exits with 1.
    """
    output = Output(as_json)
    removal = _Removal(output, recursive, force, dry_run, verbose or dry_run or as_json)

    async def run() -> None:
        for host, login, paths in by_server(urls):
            async with pool_of(host, login, given) as pool:
                for path in paths:
                    entries = await entries_of(pool, path, output, missing_ok=ignore_missing)
                    await run_each(entries, lambda entry: removal.one(pool, entry))

    run_async(run())
    output.finish()


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@connection_options
def rmdir(urls: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Remove empty folders."""
    output = Output(as_json)

    async def one(pool: SFTPPool, entry: Entry) -> None:
        await pool.rmdir(entry.path)
        if as_json:
            output.done("removed", entry.path)

    run_async(attempt_each(urls, given, output, one))
    output.finish()


class _Removal:
    """Removal of one entry by ``rm``."""

    def __init__(self, output: Output, recursive: bool, force: bool, dry_run: bool, verbose: bool) -> None:
        self._output = output
        self._recursive = recursive
        self._force = force
        self._dry_run = dry_run
        self._verbose = verbose

    async def one(self, pool: SFTPPool, entry: Entry) -> None:
        await attempt(self._output, entry.path, self._one(pool, entry))

    async def _one(self, pool: SFTPPool, entry: Entry) -> None:
        path = entry.path.rstrip("/") or "/"
        if path != entry.path:  # with a slash at its end, a link was taken for the folder that it leads to
            entry = Entry(entry.name, path, await pool.stat(path, follow_links=False))
        if entry.is_dir:
            await self._folder(pool, path)
            return
        if not self._dry_run:
            await pool.remove(path)
        self._print(path)

    async def _folder(self, pool: SFTPPool, path: str) -> None:
        where = pool.options.address
        if not self._recursive:
            raise SFTPError(f"{where}: {path} is a folder: -r removes it with all that is in it", host=where, path=path)
        home, real = await pool.realpath(), await pool.realpath(path)
        dots = path.rpartition("/")[2] in (".", "..")
        if self._force:
            path = real if dots else path
        else:
            if f"{home.rstrip('/')}/".startswith(f"{real.rstrip('/')}/"):
                raise SFTPError(
                    f"{where}: refused to remove {path}: it is the root, the home folder {home}, or a folder above it"
                    " (--force removes it)",
                    host=where,
                    path=path,
                )
            if dots:
                raise SFTPError(f"{where}: refused to remove {path}: it means {real}", host=where, path=path)
        if self._dry_run:
            await self._would_remove(pool, path)
        else:
            await pool.remove_tree(path, on_removed=self._print, on_error=self._output.fail)

    async def _would_remove(self, pool: SFTPPool, folder: str) -> None:
        if not await pool._is_link_after_all(folder):
            async with aclosing(pool.walk(folder, local_names=False, on_error=self._output.fail)) as entries:
                async for entry in entries:
                    self._print(entry.path)
        self._print(folder)

    def _print(self, path: str) -> None:
        if self._verbose:
            self._output.done("would remove" if self._dry_run else "removed", path)
