"""``asyncworker sftp get`` and ``put``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from asyncworker.cli.sftp.connection import connection_options, parsed, pool_options
from asyncworker.cli.sftp.output import bar, lines, print_file, sentence, show, summary
from asyncworker.cli.sftp.streaming import get_to_stdout, put_from_stdin, refuse_others
from asyncworker.sftp import BulkProgress, BulkReport, FileResult, SFTPPool, download, upload

__all__ = ["get", "put"]

C = TypeVar("C", bound=Callable[..., Any])

SOME_FAILED = 1


def transfer_options(command: C) -> C:
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


@click.command()
@click.argument("url")
@click.argument("destination", default=".")
@transfer_options
@connection_options
def get(url: str, destination: str, **given: Any) -> None:
    """Fetch a folder, a file, or what meets a pattern: get sftp://host/in/*.xml ./in

    What is there already is left out, and a large file that was fetched in part goes on where it stopped. Exits with 1
    if a file failed. With - as the destination, files go to standard output.
    """
    if destination == "-":
        refuse_others("files on standard output", "quiet")
        get_to_stdout((url,), given)
        return
    host, path, login = parsed(url)
    _move(host, login, given, lambda pool, options: download(pool, path, destination, **options))


@click.command()
@click.argument("source")
@click.argument("url")
@click.option(
    "--no-space-check",
    "check_space",
    flag_value=False,
    default=True,
    help="Send, even if the disk there seems too small.",
)
@transfer_options
@connection_options
def put(source: str, url: str, check_space: bool, **given: Any) -> None:
    """Send a folder or a file: put ./out sftp://host/out

    What is there already is left out, and a large file that was sent in part goes on where it stopped. Exits with 1 if
    a file failed. With - as the source, standard input becomes the file of that URL, which is there once it has ended.
    """
    if source == "-":
        refuse_others("standard input", "quiet", "fsync", "as_json")
        put_from_stdin(url, given)
        return
    host, path, login = parsed(url)
    _move(host, login, given, lambda pool, options: upload(pool, source, path, check_space=check_space, **options))


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
            print_file(result, as_json, dry_run)

    async def main(on_progress: Callable[[BulkProgress], None] | None) -> BulkReport:
        async with SFTPPool(host, **pool_options(login, given)) as pool:
            return await run(pool, options | {"on_file": on_file, "on_progress": on_progress})

    if quiet or dry_run or as_json:
        report = asyncio.run(main(None))
    elif sys.stderr.isatty():
        with bar() as shown:
            task = shown.add_task("", total=None)
            report = asyncio.run(main(lambda now: show(shown, task, now)))
    else:
        report = asyncio.run(main(lines()))
    if as_json:
        click.echo(json.dumps(summary(report, dry_run)))
    elif not quiet:
        click.echo(sentence(report, dry_run), err=not dry_run)
    if not report.ok:
        raise click.exceptions.Exit(SOME_FAILED)
