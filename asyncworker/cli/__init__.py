"""The command line, ``asyncworker``: one module a command."""

from __future__ import annotations

from typing import Any

import click

from asyncworker.cli.dead import dead
from asyncworker.cli.demo import demo
from asyncworker.cli.dev import dev
from asyncworker.cli.doctor import doctor
from asyncworker.cli.health import health
from asyncworker.cli.limits import limits
from asyncworker.cli.processes import signals_as_exit
from asyncworker.cli.runs import runs
from asyncworker.cli.sftp import sftp
from asyncworker.cli.top import top
from asyncworker.errors import AsyncWorkerError

__all__ = ["main"]

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


class _Group(click.Group):
    """Turns what went wrong into one line and an exit code; a traceback is for our own mistakes only."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with signals_as_exit():
                return super().invoke(ctx)
        except AsyncWorkerError as exc:
            raise click.ClickException(str(exc)) from exc
        except OSError as exc:
            if exc.strerror is None:
                raise
            where = f"{exc.filename}: " if exc.filename is not None else ""
            raise click.ClickException(f"{where}{exc.strerror}") from exc
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asyncworker", prog_name="asyncworker")
def main() -> None:
    """Run async Celery tasks by the thousand, and fan one task out over tens of thousands of items."""


main.add_command(demo)
main.add_command(dev)
main.add_command(doctor)
main.add_command(runs)
main.add_command(top)
main.add_command(health)
main.add_command(dead)
main.add_command(limits)
main.add_command(sftp)
