"""``get URL -``, ``put - URL`` and ``cat``: bytes of files on standard output and input."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.sftp.connection import connection_options, parsed
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.pipes import StandardOutput, standard_input
from asyncworker.cli.sftp.remote import attempt_each, pool_of
from asyncworker.cli.sftp.stdout import Output
from asyncworker.errors import SFTPError
from asyncworker.sftp import Entry, SFTPPool

__all__ = ["cat", "get_to_stdout", "put_from_stdin", "refuse_others"]


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@connection_options
def cat(urls: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Write files to standard output, one after the other: cat 'sftp://host/in/*.log' | less

    A file that fails is reported, the others follow, and the command exits with 1.
    """
    if as_json:
        raise click.UsageError("--json has no meaning here: standard output is for the files")
    get_to_stdout(urls, given)


def get_to_stdout(urls: tuple[str, ...], given: dict[str, Any]) -> None:
    """Write files to standard output.

    Raises:
        BrokenPipeError: Nobody reads any more.
        click.exceptions.Exit: A file failed.
    """
    output = Output()

    async def run() -> None:
        stdout = StandardOutput()
        await attempt_each(urls, given, output, lambda pool, entry: _copy(pool, entry, stdout))

    run_async(run())
    output.finish()


async def _copy(pool: SFTPPool, entry: Entry, stdout: StandardOutput) -> None:
    if entry.is_dir:
        where = pool.options.address
        raise SFTPError(f"{where}: {entry.path} is a folder", host=where, path=entry.path)
    async with pool.open(entry.path) as file:
        async for block in file:
            await stdout.write(block)


def put_from_stdin(url: str, given: dict[str, Any]) -> None:
    """Send standard input as one file.

    Raises:
        SFTPError: It was not sent; nothing of it is there.
    """
    host, path, login = parsed(url)
    if path.endswith("/"):
        raise click.UsageError(f"put - needs the path of a file, not of a folder: {url}")

    async def run() -> int:
        async with pool_of(host, login, given) as pool:
            if await pool._is_folder(path):
                where = pool.options.address
                raise SFTPError(f"{where}: {path} is a folder: put - needs the path of a file", host=where, path=path)
            sent = await pool.put_stream(standard_input(), path, fsync=given["fsync"], inplace=given["inplace"])
            return sent.size_bytes

    size = run_async(run())
    if given["as_json"]:
        echo_json({"type": "file", "outcome": "moved", "remote": path, "local": "-", "size_bytes": size, "error": None})


def refuse_others(what: str, *allowed: str) -> None:
    """Refuse options of the command that have no meaning for one stream; those of the connection always have.

    Raises:
        click.UsageError: One was given.
    """
    context = click.get_current_context()
    mine = {*allowed, *(name for parameter in cat.params if (name := parameter.name) and name != "as_json")}
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        if given and isinstance(parameter, click.Option) and parameter.name not in mine:
            raise click.UsageError(f"{parameter.opts[0]} has no meaning for {what}")
