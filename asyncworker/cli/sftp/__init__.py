"""``asyncworker sftp``: bulk transfers and listings in a shell; commands that belong together share a module."""

from __future__ import annotations

import click

from asyncworker.cli.sftp import describing, ls, making, moving, removing, streaming, sync, transfer
from asyncworker.cli.sftp.exit_codes import CodedGroup

__all__ = ["sftp"]


@click.group(cls=CodedGroup)
def sftp() -> None:
    """Fetch, send, mirror, list, move and remove files over SFTP.

    URLs are sftp://user@host:port/path, with /~/path below the home folder.
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
