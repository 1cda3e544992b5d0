"""``asyncworker sftp``: bulk transfers and listings in a shell; commands that belong together share a module."""

from __future__ import annotations

import click

from asyncworker.cli.sftp import describing, ls, making, moving, removing, streaming, sync, transfer
from asyncworker.cli.sftp.exit_codes import CodedGroup

__all__ = ["sftp"]


@click.group(cls=CodedGroup)
def sftp() -> None:
    """Fetch, send, mirror, list, move and remove files over SFTP.

    A URL is sftp://user@host:port/path, with /~/path below the home folder; or user@host:path as scp writes it, where
    a path without a slash at its beginning is one below the home folder. A local path with a colon in its first name is
    written ./a:b.
    """


for _command in (
    transfer.get,
    transfer.put,
    sync.sync,
    streaming.cat,
    ls.list_,
    describing.stat,
    describing.df,
    making.mkdir,
    making.ln,
    making.chmod,
    moving.mv,
    removing.rm,
    removing.rmdir,
):
    sftp.add_command(_command)
