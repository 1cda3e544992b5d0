"""``asyncworker sftp stat`` and ``df``."""

from __future__ import annotations

import stat as modes
from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options
from asyncworker.cli.sftp.entries import as_object, kind_of, moment
from asyncworker.cli.sftp.interrupts import run_async
from asyncworker.cli.sftp.remote import attempt, attempt_each, by_server, pool_of
from asyncworker.cli.sftp.sizes import human
from asyncworker.cli.sftp.stdout import Output
from asyncworker.sftp import Entry, FileSystem, SFTPPool

__all__ = ["df", "stat"]


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@connection_options
def stat(urls: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Show what the server says of files and folders; of a link, and where it leads to.

    With --json, an object a line with the keys of ls, atime and target. What the server does not say is null.
    """
    output = Output(as_json)

    run_async(attempt_each(urls, given, output, lambda pool, entry: _describe(pool, entry, output)))
    output.finish()


async def _describe(pool: SFTPPool, entry: Entry, output: Output) -> None:
    about = entry.attributes
    target = await pool.readlink(entry.path) if entry.is_link else None
    if output.as_json:
        output.record(**as_object(entry), atime=about.atime, target=target)
        return
    size = "?" if about.size_bytes is None else f"{about.size_bytes:,}"
    mode = "?" if about.mode is None else f"{modes.S_IMODE(about.mode):04o} {modes.filemode(about.mode)}"
    output.line(f"path:     {entry.path}")
    if target is not None:
        output.line(f"target:   {target}")
    output.line(f"type:     {kind_of(about) or '?'}")
    output.line(f"size:     {size} bytes")
    output.line(f"mode:     {mode}")
    output.line(f"owner:    {'?' if about.uid is None else about.uid}:{'?' if about.gid is None else about.gid}")
    output.line(f"changed:  {moment(about.mtime)} UTC")
    output.line(f"accessed: {moment(about.atime)} UTC")


@click.command(context_settings={"help_option_names": ["--help"]})  # -h is another thing here
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-h", "--human", "in_units", is_flag=True, help="Sizes as 1.5K, 23M; default: in 1024 bytes.")
@connection_options
def df(urls: tuple[str, ...], in_units: bool, as_json: bool, **given: Any) -> None:
    """Show how much room there is on the file systems of paths, where the server offers statvfs@openssh.com.

    With --json, an object a line: path, size_bytes, used_bytes, available_bytes, free_bytes, files, files_free,
    read_only.
    """
    output = Output(as_json)
    if not as_json:
        output.line(f"{'Size' if in_units else '1K-blocks':>14} {'Used':>14} {'Available':>14} {'Use%':>4} Path")

    async def run() -> None:
        for host, login, paths in by_server(urls):
            async with pool_of(host, login, given) as pool:
                for path in paths:
                    await attempt(output, path, _room(pool, path, output, in_units))

    run_async(run())
    output.finish()


async def _room(pool: SFTPPool, path: str, output: Output, in_units: bool) -> None:
    found: FileSystem = await pool.statvfs(path)
    used = found.size_bytes - found.free_bytes
    if output.as_json:
        output.record(
            path=path,
            size_bytes=found.size_bytes,
            used_bytes=used,
            available_bytes=found.available_bytes,
            free_bytes=found.free_bytes,
            files=found.files,
            files_free=found.files_free,
            read_only=found.read_only,
        )
        return

    def shown(count: int) -> str:
        return human(count) if in_units else str(-(-count // 1024))

    # As df has it: of what its users may have, rounded up.
    usable = used + found.available_bytes
    percent = f"{-(-100 * used // usable)}%" if usable else "-"
    sizes = " ".join(f"{shown(count):>14}" for count in (found.size_bytes, used, found.available_bytes))
    output.line(f"{sizes} {percent:>4} {path}")
