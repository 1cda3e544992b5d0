"""``asyncworker sftp sync``."""

from __future__ import annotations

from typing import Any

import click

from asyncworker.cli.sftp.connection import connection_options, pool_options
from asyncworker.cli.sftp.filtering import FilterCommand
from asyncworker.cli.sftp.locations import is_remote, remote_of
from asyncworker.cli.sftp.running import run_transfer
from asyncworker.cli.sftp.transfer import transfer_options, wishes_of
from asyncworker.errors import SettingsError
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.sync import Place, SyncOptions, run_sync
from asyncworker.sftp.transfer_options import DownloadOptions, UploadOptions

__all__ = ["sync"]


@click.command(cls=FilterCommand)
@click.argument("source")
@click.argument("destination")
@click.option("--delete", is_flag=True, help="Delete what only the destination has, once all is moved.")
@click.option("--delete-excluded", is_flag=True, help="With --delete: what the filters leave out, too.")
@click.option("--max-delete", type=click.IntRange(min=0), metavar="N", help="Delete nothing if it were more.")
@click.option("--force", is_flag=True, help="Even if the source has no files; replace folders by files.")
@transfer_options
@connection_options
def sync(source: str, destination: str, **given: Any) -> None:
    """Make a folder like another one, one of them on a server: sync --delete ./out sftp://host/out

    What differs is moved. With --delete, what only the destination has is deleted afterwards: never through a link,
    nothing that a filter leaves out, nothing at all if anything could not be listed or moved, and if the source has no
    files only with --force. --dry-run shows it. Exits with 25 if deletions were refused.
    """
    down = is_remote(source)
    if down == is_remote(destination):
        raise click.UsageError(
            "one of the two is a URL, sftp://user@host:port/path, or host:path; the other a local folder"
        )
    there = remote_of(source if down else destination)
    if not there.names_path:  # other commands take the root or the home, which nobody mirrors by saying nothing
        raise click.UsageError(f"the URL of {there.host} names no folder: a mirror of all that it has ends in a slash")
    wishes: DownloadOptions | UploadOptions
    wishes = wishes_of(DownloadOptions, given) if down else wishes_of(UploadOptions, given)
    try:
        mirror = SyncOptions(**{name: given[name] for name in SyncOptions.__dataclass_fields__})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    remote: Place = (there.host, there.path)
    ends: tuple[Place, Place] = (remote, destination) if down else (source, remote)

    async def move(wishes: DownloadOptions | UploadOptions, tracker: Tracker) -> None:
        await run_sync(*ends, mirror, wishes, pool_options(there.login, given), tracker)

    run_transfer(move, wishes, given, download=down)
