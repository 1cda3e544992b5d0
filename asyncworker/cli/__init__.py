"""The command line, ``asyncworker``: one module a command, imported when it is called."""

from __future__ import annotations

import importlib
import signal
from typing import Any

import click

from asyncworker.cli.processes import signals_as_exit
from asyncworker.cli.unread import stop_output
from asyncworker.errors import AsyncWorkerError
from asyncworker.exit_signals import ending_at_once

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT  # as a shell reports a program that Ctrl-C ended
NO_READER = 128 + signal.SIGPIPE  # and one whose output nobody reads any more, as in `| head`

#: What ``--help`` says of each command; the first line of its own text.
COMMANDS = {
    "dead": "List, show and replay tasks that were given up.",
    "demo": "Fetch thousands of files from an SFTP server through a Celery worker.",
    "dev": "Run a broker and a worker for the tasks of MODULE until Ctrl-C.",
    "doctor": "Check what a worker needs: settings, servers, store, versions.",
    "health": "Exit with 0 where the worker of ASYNCWORKER_HEALTH_FILE is alive and takes tasks, else with 1.",
    "limits": "List and change limits.",
    "runs": "List, show, watch, cancel and resume fan-outs.",
    "sftp": "Fetch, send, mirror, list, move and remove files over SFTP.",
    "top": "Show every task in flight: its age, and the line where it waits.",
}


class _Group(click.Group):
    """Turns what went wrong into one line and an exit code; a traceback is for our own mistakes only."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with ending_at_once():
            command: click.Command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with signals_as_exit():
                return super().invoke(ctx)
        except AsyncWorkerError as exc:
            raise click.ClickException(str(exc)) from exc
        except OSError as exc:
            if isinstance(exc, BrokenPipeError) and stop_output():
                ctx.exit(NO_READER)
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
