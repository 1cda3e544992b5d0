"""``asyncworker runs``: the fan-outs that the store knows, and what may be done to them."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from kombu.utils.json import loads
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from asyncworker import IterateResult
from asyncworker import Progress as RunProgress
from asyncworker.cli.apps import app_command, app_option, check_result_url, talking_to_broker
from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.run_table import ListedRun, show_runs
from asyncworker.errors import RunExpired, RunNotFound
from asyncworker.loop import get_loop_thread
from asyncworker.printable import printable
from asyncworker.settings import load_settings
from asyncworker.store import Store, shared_store

__all__ = ["runs"]

#: Width of a terminal from which a bar is drawn beside the numbers.
BAR_FROM_COLUMNS = 80

json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")


@click.group()
@app_option
@click.pass_context
def runs(ctx: click.Context, app_name: str) -> None:
    """List, show, watch, cancel and resume fan-outs. The settings are those of the workers."""
    ctx.obj = app_name


@runs.command("list")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=20, show_default=True)
@click.option("--all", "of_all", is_flag=True, help="Also those of tasks that the app does not have.")
@json_option
@app_command
def list_(app: Any, limit: int, of_all: bool, as_json: bool) -> None:
    """List the runs that were started last; with -A those of the app's tasks."""
    tasks = None if of_all or not _app_was_named() else _tasks_of(app)

    async def read() -> list[ListedRun]:
        store = await shared_store(load_settings(conf=app.conf))
        return [await _listed(store, run) for run in await store.runs(limit, tasks=tasks)]

    found = get_loop_thread().run(read())
    if as_json:
        _echo_json(*(run.progress for run in found))
    elif not found:
        click.echo("no runs in the store" + ("" if tasks is None else "; --all shows those of other apps"), err=True)
    else:
        show_runs(found)


@runs.command()
@click.argument("run_id")
@click.option("--errors", type=click.IntRange(min=0), default=20, show_default=True, help="Failed items shown.")
@json_option
@app_command
def show(app: Any, run_id: str, errors: int, as_json: bool) -> None:
    """Show one run, and the items that failed."""
    result, progress = _known(app, run_id)
    failures = result.errors(limit=errors) if errors else []
    if as_json:
        _echo_json(progress, *failures)
        return
    for name, value in msgspec.to_builtins(progress).items():
        click.echo(f"{name:12} {printable('' if value is None else str(value))}")
    for failure in failures:
        click.echo(str(failure))


@runs.command()
@click.argument("run_id")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.1), default=0.5, show_default=True, help="Seconds."
)
@json_option
@app_command
def watch(app: Any, run_id: str, interval_s: float, as_json: bool) -> None:
    """Follow a run until it ends; exits with 1 where it did not end well."""
    result, progress = _known(app, run_id)
    if sys.stdout.isatty() and not as_json:
        progress = _watch_bar(result, progress, interval_s)
    else:
        while True:
            if as_json:
                _echo_json(progress)
            else:
                total = "?" if progress.total is None else f"{progress.total:,}"
                click.echo(f"{progress.state}: {progress.settled:,} of {total} ({_speed(progress)})")
            if progress.ended:
                break
            time.sleep(interval_s)
            progress = result.progress()
    if progress.state != "done":
        raise click.exceptions.Exit(1)


@runs.command()
@click.argument("run_id")
@app_command
def cancel(app: Any, run_id: str) -> None:
    """Ask a run to stop; what is done stays done."""
    result, progress = _known(app, run_id, unbegun=True)
    if progress.ended:
        click.echo(f"run {run_id}: has ended, {progress.state}; there is nothing to stop")
        return
    result.cancel()
    if not _is_begun(progress):
        # Sent and not begun, or never sent: nothing but a message shows the difference.
        raise click.ClickException(
            f"run {run_id}: no worker has begun it, or there is no such run; nothing was stopped. "
            "If its message is still in a queue, the worker that takes it ends it before its first item"
        )
    click.echo(f"run {run_id}: asked to stop")


@runs.command()
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Take it from a process that runs it; its items in flight run twice.")
@app_command
def resume(app: Any, run_id: str, force: bool) -> None:
    """Send a run again, from its checkpoint: only what is not done runs, failed items among it."""
    result, progress = _known(app, run_id, unbegun=True)
    try:
        with talking_to_broker(app):
            result.resume(force=force)
    except RunNotFound as exc:
        raise _unknown(exc) from exc
    if not _is_begun(progress):
        click.echo(f"run {run_id}: no longer cancelled; its message waits for a worker")
        return
    click.echo(f"run {run_id}: sent again, {progress.done:,} items are done")


@runs.command("retry-failed")
@click.argument("run_id")
@app_command
def retry_failed(app: Any, run_id: str) -> None:
    """Run the failed items of a complete run once more, and no others."""
    result, progress = _known(app, run_id)
    with talking_to_broker(app):
        result.retry_failed()
    told = f"sent again, {progress.failed:,} items had failed" if progress.failed else "nothing failed, nothing is sent"
    click.echo(f"run {run_id}: {told}")


def _app_was_named() -> bool:
    context: click.Context | None = click.get_current_context()
    while context is not None:
        if context.params.get("app_name") and context.get_parameter_source("app_name") is ParameterSource.COMMANDLINE:
            return True
        context = context.parent
    return False


def _tasks_of(app: Any) -> list[str]:
    app.loader.import_default_modules()
    app.finalize()
    return sorted(app.tasks)


async def _listed(store: Store, run: RunProgress) -> ListedRun:
    """Find the name that its sender gave a run."""
    try:
        request = loads(await store.request_of(run.run_id))
        name = request["options"].get("name")
    except (RunNotFound, LookupError, TypeError, ValueError, AttributeError):
        # Deleted a moment ago, or not what a sender has written: it has no name here, and the others have theirs.
        name = None
    return ListedRun(run, str(name or ""))


def _known(app: Any, run_id: str, *, unbegun: bool = False) -> tuple[IterateResult, RunProgress]:
    """Return a run and where it stands; one that no worker has begun, where that is said."""

    async def read() -> RunProgress:
        return await (await shared_store(load_settings(conf=app.conf))).progress(run_id)

    if not run_id:
        raise click.BadParameter("empty", param_hint="RUN_ID")
    check_result_url(app)
    try:
        progress = get_loop_thread().run(read())
    except RunNotFound as exc:
        if not unbegun or isinstance(exc, RunExpired):
            raise _unknown(exc) from exc
        progress = RunProgress.pending(run_id)
    return IterateResult(run_id, app=app), progress


def _unknown(exc: RunNotFound) -> click.ClickException:
    return click.ClickException(f"{exc}; `asyncworker runs list` shows those that are there")


def _is_begun(progress: RunProgress) -> bool:
    return progress.attempt > 0


def _watch_bar(result: IterateResult, progress: RunProgress, interval_s: float) -> RunProgress:
    console = Console()
    # Where there is little room, what is counted comes before what is drawn.
    bar_column = () if console.width < BAR_FROM_COLUMNS else (BarColumn(),)
    columns = (TextColumn("{task.description}"), *bar_column, MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(progress.task, total=progress.total, speed="")
        while True:
            bar.update(
                task,
                completed=progress.settled,
                total=progress.total,
                description=progress.state,
                speed=_speed(progress),
            )
            if progress.ended:
                return progress
            time.sleep(interval_s)
            progress = result.progress()


def _speed(progress: RunProgress) -> str:
    """Rate, what failed, and the estimate of the time left: those of the run, not of who watches it."""
    told = [f"{progress.rate:,.0f}/s"]
    told += [f"{count:,} {name}" for name in ("failed", "skipped", "retried") if (count := getattr(progress, name))]
    if not progress.ended and progress.remaining_s is not None:
        told.append(f"{timedelta(seconds=round(progress.remaining_s))} left")
    return ", ".join(told)


def _echo_json(*things: Any) -> None:
    for thing in things:
        told = msgspec.to_builtins(thing)
        if isinstance(thing, RunProgress):
            told |= {"rate": thing.rate, "remaining_s": thing.remaining_s}
        echo_json(told)
