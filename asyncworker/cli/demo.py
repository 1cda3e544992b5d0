"""``asyncworker demo``: thousands of files from an SFTP server through a Celery worker, in one fan-out."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from asyncworker.cli.demo_folder import DemoFolder
from asyncworker.cli.demo_run import DemoRun
from asyncworker.cli.demo_view import DemoView
from asyncworker.settings import load_settings

__all__ = ["demo"]

DEFAULT_FILES = 2000

#: With fewer there is no half-way to hit.
CRASH_LEAST_FILES = 100


@click.command()
@click.option("--files", type=click.IntRange(min=1), help=f"How many files; {DEFAULT_FILES:,} where not given.")
@click.option("--keep", is_flag=True, help="Keep the work folder when all is done.")
@click.option(
    "--dir", "root", type=click.Path(file_okay=False, path_type=Path), help="The work folder; made when missing."
)
@click.option("--crash", is_flag=True, help="Kill the worker half-way with SIGKILL, and resume with another.")
@click.pass_context
def demo(ctx: click.Context, files: int | None, keep: bool, root: Path | None, crash: bool) -> None:
    """Fetch thousands of files from an SFTP server through a Celery worker.

    Everything is started for it and ends with it: a private Valkey as the broker, an SFTP server, a worker. A demo that
    was stopped half-way is continued by the next one.
    """
    if crash and files is not None and files < CRASH_LEAST_FILES:
        raise click.UsageError(f"--crash needs --files {CRASH_LEAST_FILES} or more")
    folder = DemoFolder(root or Path(load_settings().state_dir) / "demo")
    view = DemoView()
    with folder.held():
        former = folder.record()
        if former is not None and files not in (None, former.files):
            view.say(f"an unfinished demo of {former.files:,} files is dropped: this one is of {files:,}")
            former = None
        if former is None:
            folder.empty()
        count = files or (former.files if former else DEFAULT_FILES)
        with contextlib.ExitStack() as stack:
            run = DemoRun(folder, view, count, stack)
            run.start(slowed=crash)
            complete = run.run(former, crash=crash)
        if not complete:
            view.say(f"the work folder stays, and the next demo tries the rest: {folder.root}")
            ctx.exit(1)
        if keep:
            folder.record_file.unlink()
            view.say(f"the files are in {folder.received}")
        else:
            folder.remove()
