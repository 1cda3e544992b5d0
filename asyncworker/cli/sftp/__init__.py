"""``asyncworker sftp``: bulk transfers and listings in a shell; one module a command."""

from __future__ import annotations

import click

from asyncworker.cli.sftp import ls, transfer

__all__ = ["sftp"]


@click.group()
def sftp() -> None:
    """Fetch, send and list files over SFTP. URLs are sftp://user@host:port/path, with /~/path below the home folder."""


for _command in (transfer.get, transfer.put, ls.list_):
    sftp.add_command(_command)
