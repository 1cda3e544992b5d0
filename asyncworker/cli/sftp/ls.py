"""``asyncworker sftp ls``."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import PurePosixPath
from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options, parsed, pool_options
from asyncworker.printable import printable
from asyncworker.sftp import Entry, SFTPPool

__all__ = ["list_"]


@click.command("ls")
@click.argument("url")
@click.option("-R", "--recursive", is_flag=True, help="What is below, too.")
@connection_options
def list_(url: str, recursive: bool, as_json: bool, **given: Any) -> None:
    """List a folder: type and permissions, size, time of change, path."""
    host, path, login = parsed(url)

    async def run() -> None:
        async with SFTPPool(host, **pool_options(login, given)) as pool:
            attributes = await pool.stat(path)
            if not attributes.is_dir:
                _print_entry(Entry(PurePosixPath(path).name, path, attributes), as_json)
                return
            entries = pool.walk(path, bad_names="skip") if recursive else pool.list(path, bad_names="skip")
            async for entry in entries:
                _print_entry(entry, as_json)

    asyncio.run(run())


def _print_entry(entry: Entry, as_json: bool) -> None:
    if as_json:
        values = {"path": entry.path, "size_bytes": entry.size_bytes, "mtime": entry.mtime, "mode": entry.mode}
        click.echo(json.dumps(values))
        return
    kind = "d" if entry.is_dir else "l" if entry.is_link else "-" if entry.is_file else "?"
    mode = "?" if entry.mode is None else f"{entry.mode & 0o7777:04o}"
    when = "?" if entry.mtime is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime))
    click.echo(f"{kind}{mode} {entry.size_bytes or 0:>14,} {when} {printable(entry.path)}")
