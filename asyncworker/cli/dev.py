"""``asyncworker dev``: a broker and a worker for a user's module, and nothing to install."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.environment import celery_command, client_variables
from asyncworker.cli.processes import Child
from asyncworker.settings import load_settings

__all__ = ["dev"]

#: Imports the module as the worker will, and says in one line why it cannot.
_IMPORT = """
import importlib, sys, traceback
try:
    importlib.import_module(sys.argv[1])
except BaseException as exc:
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    reason = traceback.format_exception_only(exc)[-1].strip()
    sys.__stderr__.write("\\n" + reason + where)
    sys.exit(1)
"""

_WATCH_S = 0.2
_GRACE_S = 30.0


@click.command()
@click.argument("module")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="Tasks in flight.")
@click.option("-l", "--loglevel", default="INFO", show_default=True, help="The worker's log level.")
@click.pass_context
def dev(ctx: click.Context, module: str, concurrency: int | None, loglevel: str) -> None:
    """Run a broker and a worker for the tasks of MODULE until Ctrl-C.

    The broker is a private Valkey; MODULE is a name that can be imported from this folder, such as shop.tasks.
    """
    settings = load_settings()
    _check_import(module)
    state_dir = Path(settings.state_dir).absolute()
    with EmbeddedServer(state_dir / "dev") as server:
        variables = client_variables(server, state_dir)
        click.echo("In another shell, for a client:\n")
        for name, value in variables.items():
            click.echo(f"  export {name}={shlex.quote(value)}")
        click.echo("")
        # Unique, so that two of them can share one broker.
        command = celery_command(
            sys.executable, name=f"dev-{os.getpid()}@%h", loglevel=loglevel, concurrency=concurrency, banner=False
        )
        # Celery's own broker variable would win over ours.
        inherited = {name: value for name, value in os.environ.items() if name != "CELERY_BROKER_URL"}
        with Child(command, env=inherited | variables | {"ASYNCWORKER_INCLUDE": module}) as worker:
            try:
                code = _watch(worker, server)
            except KeyboardInterrupt:
                click.echo("stopping: what runs may finish; Ctrl-C again stops at once", err=True)
                worker.stop(_GRACE_S)
                raise
    ctx.exit(code)


def _watch(worker: Child, server: EmbeddedServer) -> int:
    while (code := worker.wait(_WATCH_S)) is None:
        if not server.ping() and not server.ping():
            raise click.ClickException(f"the embedded server in {server.folder} has ended, so the worker was stopped")
    if code < 0:
        click.echo(f"Error: the worker was killed by {signal.Signals(-code).name}", err=True)
        return 128 - code
    if code > 0:
        click.echo(f"Error: the worker has ended with exit code {code}", err=True)
    return code


def _check_import(module: str) -> None:
    check = subprocess.run(
        # Not -I: the current folder and PYTHONPATH count, as they do for the worker.
        [sys.executable, "-c", _IMPORT, module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if check.returncode:
        reason = check.stderr.strip().splitlines()[-1] if check.stderr.strip() else f"exit code {check.returncode}"
        if module.endswith(".py"):
            reason += f"; give the name of the module, not of its file: {module.removesuffix('.py').replace('/', '.')}"
        raise click.ClickException(f"cannot import {module}: {reason}")
