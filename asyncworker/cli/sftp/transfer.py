"""``asyncworker sftp get`` and ``put``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from asyncworker.cli.sftp.amounts import AGE, SIZE
from asyncworker.cli.sftp.connection import connection_options, parsed, pool_options
from asyncworker.cli.sftp.filtering import FilterCommand, filter_options, read_text
from asyncworker.cli.sftp.locations import is_remote
from asyncworker.cli.sftp.remote import by_server
from asyncworker.cli.sftp.running import run_transfer
from asyncworker.cli.sftp.streaming import get_to_stdout, put_from_stdin, refuse_others
from asyncworker.errors import SettingsError
from asyncworker.sftp.claimed_paths import ClaimedPaths
from asyncworker.sftp.download import run_download
from asyncworker.sftp.file_end import READ_TO
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.transfer_options import DownloadOptions, TransferOptions, UploadOptions
from asyncworker.sftp.upload import run_upload

__all__ = ["get", "put", "transfer_options", "wishes_of"]

C = TypeVar("C", bound=Callable[..., Any])
W = TypeVar("W", bound=TransferOptions)


def transfer_options(command: C) -> C:
    """Options of all commands that move files: what to move, and how."""
    options = (
        click.option("-j", "--jobs", "at_once", type=click.IntRange(min=1), help="Small files at once; default: all."),
        click.option("--files-from", type=click.File("rb"), metavar="FILE", help="Only these paths, one a line."),
        click.option("-0", "--from0", is_flag=True, help="Paths of --files-from end with a NUL."),
        click.option("--no-recursive", "recursive", flag_value=False, default=True, help="Stay in the first folder."),
        click.option("--max-depth", type=click.IntRange(min=0), help="How deep to go: 0 stays in the first folder."),
        click.option("--min-size", "min_size_bytes", type=SIZE, default=0, help="Leave smaller files out: 10K, 1.5M."),
        click.option("--max-size", "max_size_bytes", type=SIZE, help="Leave larger files out."),
        click.option("--newer-than", type=AGE, help="Leave older files out: 2d, 3h30m, 2026-11-30, 2026-11-30T12:00Z."),
        click.option("--older-than", type=AGE, help="Leave newer files out."),
        click.option(
            "--skip",
            type=click.Choice(["same", "size", "newer", "never"]),
            help="Leave out a file that is there: of the same size and time (default), the same size, as new, or none.",
        ),
        click.option(
            "-c",
            "--checksum",
            is_flag=True,
            help="Leave out a file of the same contents: by digests where the server makes some (check-file), else both"
            " are read.",
        ),
        click.option(
            "--links",
            type=click.Choice(["skip", "follow", "keep"]),
            default="skip",
            show_default=True,
            help="Leave links out, move the files that they lead to, or make links that stay within the folder.",
        ),
        click.option(
            "-O", "--omit-dir-times", "folder_times", flag_value=False, default=True, help="Leave folders' times alone."
        ),
        click.option("--fsync", is_flag=True, help="Flush each file to the disk."),
        click.option("--retries", type=click.IntRange(min=0), default=3, help="After a lost connection."),
        click.option("--max-errors", "max_failures", type=click.IntRange(min=0), help="Stop once more have failed."),
        click.option("--fail-fast", is_flag=True, help="Stop at the first failure: --max-errors 0."),
        click.option("--allow-empty", is_flag=True, help="A pattern that no file meets is no error."),
        click.option("--dry-run", "-n", is_flag=True, help="Move nothing; print what would be moved."),
        click.option("-v", "--verbose", is_flag=True, help="A line a file: moved, or why it was left out."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    )
    for option in reversed(options):
        command = option(command)
    return filter_options(command)


@click.command(cls=FilterCommand)
@click.argument("arguments", nargs=-1, required=True, metavar="URL... [DESTINATION]")
@click.option(
    "--read-to",
    type=click.Choice(list(READ_TO)),
    default="size",
    show_default=True,
    help="Where a file ends: at its announced size, at EOF for servers whose sizes are wrong, or where it did when it"
    " was opened, for logs that grow.",
)
@click.option("--read-once", is_flag=True, help="Open each file once only, for servers that hand it out once.")
@transfer_options
@connection_options
def get(arguments: tuple[str, ...], **given: Any) -> None:
    """Fetch a folder, a file, or what meets a pattern: get 'sftp://host/in/*.xml' ./in

    What is there already is left out, and a large file that was fetched in part goes on where it stopped. Of a
    folder the contents go into the destination. Of several URLs, and of what meets a pattern, each goes under its own
    name; of a folder that is written with a slash at its end, the contents do. Exits with
    23 if a file failed. With - as the destination, files go to standard output.
    """
    urls, destination = arguments, "."
    if not is_remote(arguments[-1]) and len(arguments) > 1:
        urls, destination = arguments[:-1], arguments[-1]
    if destination == "-":
        refuse_others("files on standard output", "quiet")
        get_to_stdout(urls, given)
        return
    servers = by_server(urls)
    if len(servers) > 1 and given["files_from"] is not None:
        raise click.UsageError("--files-from needs one URL")

    async def move(wishes: DownloadOptions, tracker: Tracker) -> None:
        claimed = ClaimedPaths() if len(servers) > 1 else None
        for host, login, paths in servers:
            options = pool_options(login, given)
            await run_download(host, paths, destination, wishes, options, tracker, claimed=claimed)

    run_transfer(move, wishes_of(DownloadOptions, given), given, download=True)


@click.command(cls=FilterCommand)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("url")
@click.option(
    "--no-space-check",
    "check_space",
    flag_value=False,
    default=True,
    help="Send, even if the disk there seems too small.",
)
@click.option(
    "--inplace",
    is_flag=True,
    help="Write files under their own names, where none may be renamed or a reader takes every name that appears;"
    " a part may be seen.",
)
@transfer_options
@connection_options
def put(sources: tuple[str, ...], url: str, **given: Any) -> None:
    """Send a folder or a file: put ./out sftp://host/out

    What is there already is left out, and a large file that was sent in part goes on where it stopped. Of a folder
    the contents go into the destination. Of several sources each goes under its own name; of a folder that is written
    with a slash at its end, the contents do. Exits with 23 if a file failed. With - as the source, standard input
    becomes the file of that URL, which is there once it has ended.
    """
    if "-" in sources:
        if len(sources) > 1:
            raise click.UsageError("standard input (-) is the only source, or none")
        refuse_others("standard input", "quiet", "fsync", "inplace", "as_json")
        put_from_stdin(url, given)
        return
    host, path, login = parsed(url)

    async def move(wishes: UploadOptions, tracker: Tracker) -> None:
        await run_upload(host, sources, path, wishes, pool_options(login, given), tracker)

    run_transfer(move, wishes_of(UploadOptions, given), given, download=False)


def wishes_of(kind: type[W], given: dict[str, Any]) -> W:
    """Return the library's options from those of the command line."""
    values = {name: given[name] for name in kind.__dataclass_fields__ if name in given}
    if given["skip"] is None:
        values["skip"] = "checksum" if given["checksum"] else "same"
    elif given["checksum"]:
        raise click.UsageError("--skip and --checksum exclude each other")
    if given["fail_fast"]:
        values["max_failures"] = 0
    if given["files_from"] is not None:
        values["paths"] = list(_names(given["files_from"], given["from0"]))
    elif given["from0"]:
        raise click.UsageError("--from0 needs --files-from")
    try:
        return kind(**values)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None


def _names(file: Any, from0: bool) -> Iterator[str]:
    for name in read_text(file).split("\0" if from0 else "\n"):
        line = name if from0 else name.removesuffix("\r")
        if line and (from0 or not line.startswith(("#", ";"))):
            yield line
