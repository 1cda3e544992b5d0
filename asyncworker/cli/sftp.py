"""``asyncworker sftp get | put | ls``: bulk transfers in a shell, with a bar on a terminal and lines in a pipe."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from asyncworker.errors import SettingsError
from asyncworker.printable import printable
from asyncworker.sftp import BulkProgress, BulkReport, Entry, FileResult, SFTPPool, download, upload
from asyncworker.sftp.urls import parse_url

__all__ = ["sftp"]

C = TypeVar("C", bound=Callable[..., Any])

SOME_FAILED = 1
#: Lines of progress in a pipe.
_LINE_EVERY_S = 5.0


@click.group()
def sftp() -> None:
    """Fetch, send and list files over SFTP. URLs are sftp://user@host:port/path, with /~/path below the home folder."""


def _connection_options(command: C) -> C:
    """Options of every command: how to reach the server, and how to print."""
    options = (
        click.option("-i", "--identity", "client_keys", multiple=True, metavar="FILE", help="A private key."),
        click.option("--known-hosts", metavar="FILE", help="File of known host keys; default ~/.ssh/known_hosts."),
        click.option("--host-key", metavar="KEY", help="The only host key to take: a public key or SHA256:..."),
        click.option("--jump", metavar="HOSTS", help="Hosts on the way, user@host:port, separated by commas."),
        click.option("--ssh-config", metavar="FILE", help="An OpenSSH client configuration to read."),
        click.option("--openssh", is_flag=True, help="Through the program ssh: its agent, keys and configuration."),
        click.option("--compress", is_flag=True, help="For slow lines."),
        click.option("--connections", type=click.IntRange(min=1), default=4, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="JSON, one object a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _transfer_options(command: C) -> C:
    """Options of get and put: what to move, and how."""
    options = (
        click.option("-j", "--jobs", type=click.IntRange(min=1), help="Small files at once; default: all that fit."),
        click.option("--include", multiple=True, metavar="PATTERN", help="Only files that meet it; may be repeated."),
        click.option("--exclude", multiple=True, metavar="PATTERN", help="No file or folder that meets it."),
        click.option("--no-recursive", "recursive", flag_value=False, default=True, help="Stay in the first folder."),
        click.option("--max-depth", type=click.IntRange(min=0), help="How deep to go: 0 stays in the first folder."),
        click.option("--min-size", "min_size_bytes", type=click.IntRange(min=0), default=0, help="In bytes."),
        click.option("--max-size", "max_size_bytes", type=click.IntRange(min=0), help="In bytes."),
        click.option(
            "--skip",
            type=click.Choice(["same", "size", "newer", "never"]),
            default="same",
            show_default=True,
            help="Leave out a file that is there: of the same size and time, of the same size, as new, or none.",
        ),
        click.option("--follow-links", is_flag=True, help="Move the files that links lead to."),
        click.option("--fsync", is_flag=True, help="Flush each file to the disk."),
        click.option("--dry-run", is_flag=True, help="Move nothing; print what would be moved."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@sftp.command()
@click.argument("url")
@click.argument("destination", default=".")
@_transfer_options
@_connection_options
def get(url: str, destination: str, **given: Any) -> None:
    """Fetch a folder, a file, or what meets a pattern: get sftp://host/in/*.xml ./in

    What is there already is left out, and a large file that was fetched in part goes on where it stopped. Exits with 1
    if a file failed.
    """
    host, path, login = _parsed(url)
    _move(host, login, given, lambda pool, options: download(pool, path, destination, **options))


@sftp.command()
@click.argument("source")
@click.argument("url")
@click.option(
    "--no-space-check",
    "check_space",
    flag_value=False,
    default=True,
    help="Send, even if the disk there seems too small.",
)
@_transfer_options
@_connection_options
def put(source: str, url: str, check_space: bool, **given: Any) -> None:
    """Send a folder or a file: put ./out sftp://host/out

    What is there already is left out, and a large file that was sent in part goes on where it stopped. Exits with 1 if
    a file failed.
    """
    host, path, login = _parsed(url)
    _move(host, login, given, lambda pool, options: upload(pool, source, path, check_space=check_space, **options))


@sftp.command("ls")
@click.argument("url")
@click.option("-R", "--recursive", is_flag=True, help="What is below, too.")
@_connection_options
def list_(url: str, recursive: bool, as_json: bool, **given: Any) -> None:
    """List a folder: type and permissions, size, time of change, path."""
    host, path, login = _parsed(url)

    async def run() -> None:
        async with SFTPPool(host, **_pool_options(login, given)) as pool:
            attributes = await pool.stat(path)
            if not attributes.is_dir:
                _print_entry(Entry(PurePosixPath(path).name, path, attributes), as_json)
                return
            entries = pool.walk(path, bad_names="skip") if recursive else pool.list(path, bad_names="skip")
            async for entry in entries:
                _print_entry(entry, as_json)

    asyncio.run(run())


# -- inside ------------------------------------------------------------------------------------------------------------


def _parsed(url: str) -> tuple[str, str, dict[str, Any]]:
    """Host, path and login of a URL."""
    try:
        location = parse_url(url)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    return location.host, location.path or "/", location.login({})


def _pool_options(login: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    names = ("host_key", "jump", "ssh_config", "compress", "connections", "known_hosts")
    options = login | {name: given[name] for name in names if given[name] is not None}
    # From the environment alone: a command line is seen by everybody on the machine.
    for name in ("password", "passphrase"):
        variable = f"ASYNCWORKER_SFTP_{name.upper()}"
        if variable in os.environ:
            options[f"{name}_env"] = variable
    if given["client_keys"]:
        options["client_keys"] = given["client_keys"]
    if given["openssh"]:
        options["transport"] = "openssh"
    return options


def _move(
    host: str,
    login: dict[str, Any],
    given: dict[str, Any],
    run: Callable[[SFTPPool, dict[str, Any]], Awaitable[BulkReport]],
) -> None:
    as_json, quiet, dry_run = given["as_json"], given["quiet"], given["dry_run"]
    names = ("include", "exclude", "recursive", "max_depth", "min_size_bytes", "max_size_bytes", "skip", "fsync")
    options = {name: given[name] for name in names} | {
        "links": "follow" if given["follow_links"] else "skip",
        "at_once": given["jobs"],
        "dry_run": dry_run,
    }

    def on_file(result: FileResult) -> None:
        if result.error is not None or as_json or dry_run:
            _print_file(result, as_json, dry_run)

    async def main(on_progress: Callable[[BulkProgress], None] | None) -> BulkReport:
        async with SFTPPool(host, **_pool_options(login, given)) as pool:
            return await run(pool, options | {"on_file": on_file, "on_progress": on_progress})

    if quiet or dry_run or as_json:
        report = asyncio.run(main(None))
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("", total=None)
            report = asyncio.run(main(lambda now: _show(bar, task, now)))
    else:
        report = asyncio.run(main(_lines()))
    if as_json:
        click.echo(json.dumps(_summary(report, dry_run)))
    elif not quiet:
        click.echo(_sentence(report, dry_run), err=not dry_run)
    if not report.ok:
        raise click.exceptions.Exit(SOME_FAILED)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _show(bar: Progress, task: Any, now: BulkProgress) -> None:
    more = "" if now.listed else "+"
    text = f"{now.files_done:,} of {now.files_found:,}{more} files, {now.files_per_s:,.0f}/s"
    bar.update(task, description=text, completed=now.bytes_done, total=now.bytes_found or None)


def _lines() -> Callable[[BulkProgress], None]:
    next_at = time.monotonic() + _LINE_EVERY_S

    def show(now: BulkProgress) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + _LINE_EVERY_S
            click.echo(_sentence(now, False), err=True)

    return show


def _sentence(now: BulkProgress, dry_run: bool) -> str:
    if dry_run:
        return f"{now.files_found:,} files, {_size(now.bytes_found)} would be moved; {now.files_skipped:,} left out"
    rate = f"{now.files_per_s:,.0f} files/s, {_size(now.bytes_per_s)}/s"
    moved = (
        f"{now.files_done:,} of {now.files_found:,} files, {_size(now.bytes_done)} in {now.elapsed_s:.1f} s ({rate})"
    )
    return f"{moved}; {now.files_skipped:,} left out, {now.files_failed:,} failed"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _summary(report: BulkReport, dry_run: bool) -> dict[str, Any]:
    names = [name for name in BulkProgress.__dataclass_fields__ if name != "listed"]
    return {name: getattr(report, name) for name in names} | {"dry_run": dry_run, "ok": report.ok}


def _print_file(result: FileResult, as_json: bool, dry_run: bool) -> None:
    if as_json:
        size = result.transfer.size_bytes if result.transfer else None
        error = None if result.error is None else str(result.error)
        line = {"remote": result.remote, "local": result.local, "size_bytes": size, "error": error}
        click.echo(json.dumps(line))
    elif result.error is not None:
        click.echo(f"failed: {printable(str(result.error) or repr(result.error))}", err=True)
    elif dry_run:
        click.echo(f"{printable(result.remote)}  {printable(result.local)}")


def _print_entry(entry: Entry, as_json: bool) -> None:
    if as_json:
        values = {"path": entry.path, "size_bytes": entry.size_bytes, "mtime": entry.mtime, "mode": entry.mode}
        click.echo(json.dumps(values))
        return
    kind = "d" if entry.is_dir else "l" if entry.is_link else "-" if entry.is_file else "?"
    mode = "?" if entry.mode is None else f"{entry.mode & 0o7777:04o}"
    when = "?" if entry.mtime is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime))
    click.echo(f"{kind}{mode} {entry.size_bytes or 0:>14,} {when} {printable(entry.path)}")
