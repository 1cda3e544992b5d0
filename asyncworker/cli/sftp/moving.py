"""``asyncworker sftp mv``."""

from __future__ import annotations

from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.remote import attempt, by_server, entries_of, pool_of
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp import Attributes, Entry, SFTPPool
from asyncworker.sftp.pulling import run_each

__all__ = ["mv"]


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="URL...")
@click.argument("destination", metavar="URL")
@click.option("-n", "--no-clobber", is_flag=True, help="Leave alone what has that name already.")
@click.option("--dry-run", is_flag=True, help="Move nothing; print what would be moved.")
@click.option("-v", "--verbose", is_flag=True, help="Print what is moved.")
@connection_options
def mv(
    sources: tuple[str, ...],
    destination: str,
    no_clobber: bool,
    dry_run: bool,
    verbose: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Give a file or a folder another name on its server, or move several into a folder: mv sftp://h/a sftp://h/done/

    A file of the new name is replaced: in one step where the server offers that, else with the old one kept until the
    new one is in place.
    """
    servers = by_server((*sources, destination))
    if len(servers) != 1:
        raise click.UsageError("mv moves within one server: all URLs must have the same host, port and user")
    host, login, (*paths, goal) = servers[0]
    output = Output(as_json)
    move = _Move(output, goal, no_clobber, dry_run, verbose or dry_run or as_json)

    async def run() -> None:
        async with pool_of(host, login, given) as pool:
            entries = [entry for path in paths for entry in await entries_of(pool, path, output)]
            into = await move.is_folder(pool, len(entries) > 1 or len(paths) > 1)
            await run_each(entries, lambda entry: attempt(output, entry.path, move.one(pool, entry, into)), at_once=8)

    run_async(run())
    output.finish()


class _Move:
    """Move of one entry by ``mv``."""

    def __init__(self, output: Output, goal: str, no_clobber: bool, dry_run: bool, verbose: bool) -> None:
        self._output = output
        self._goal = goal
        self._no_clobber = no_clobber
        self._dry_run = dry_run
        self._verbose = verbose
        self._taken: set[str] = set()

    async def is_folder(self, pool: SFTPPool, must: bool) -> bool:
        """Return whether the destination is a folder to move entries into.

        Raises:
            SFTPError: It has to be one, and is not.
        """
        if await pool._is_folder(self._goal.rstrip("/") or "/"):
            return True
        if must or self._goal.endswith("/"):
            where = pool.options.address
            raise SFTPError(f"{where}: {self._goal} is not a folder", host=where, path=self._goal)
        return False

    async def one(self, pool: SFTPPool, entry: Entry, into: bool) -> None:
        goal = f"{self._goal.rstrip('/')}/{entry.name}" if into else self._goal
        source = entry.path.rstrip("/")
        where = pool.options.address
        if goal == source:
            raise SFTPError(f"{where}: {source} would be moved onto itself", host=where, path=source)
        if goal in self._taken:
            raise SFTPError(f"{where}: {source} would replace what was just moved to {goal}", host=where, path=source)
        self._taken.add(goal)
        there = await _there(pool, goal)
        if there is not None and self._no_clobber:
            self._print("skipped", source, goal)
            return
        if there is not None and there.is_dir != entry.is_dir:
            what = "a folder" if there.is_dir else "not a folder"
            raise SFTPError(f"{where}: cannot move {source} to {goal}, which is {what}", host=where, path=goal)
        if not self._dry_run:
            await pool.rename(source, goal, replace=there is not None)
        self._print("would move" if self._dry_run else "moved", source, goal)

    def _print(self, action: str, source: str, goal: str) -> None:
        if self._output.as_json:
            self._output.record(action=action, path=source, to=goal)
        elif self._verbose:
            self._output.line(f"{action} {source} -> {goal}")


async def _there(pool: SFTPPool, path: str) -> Attributes | None:
    try:
        return await pool.stat(path, follow_links=False)
    except SFTPFileNotFound:
        return None
