"""``asyncworker runs``: the fan-outs that the store knows, and what may be done to them."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from asyncworker import IterateResult
from asyncworker import Progress as RunProgress
from asyncworker.cli.apps import app_option, load_app
from asyncworker.errors import RunNotFound
from asyncworker.loop import get_loop_thread
from asyncworker.settings import load_settings
from asyncworker.store import shared_store

__all__ = ["runs"]

json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")


@click.group()
@app_option
@click.pass_context
def runs(ctx: click.Context, app_name: str) -> None:
    """List, show, watch, cancel and resume fan-outs. The settings are those of the workers."""
    ctx.obj = load_app(app_name)


@runs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@click.pass_obj
def list_(app: Any, limit: int, as_json: bool) -> None:
    """List the runs that were started last."""

    async def read() -> list[RunProgress]:
        return await (await shared_store(load_settings(conf=app.conf))).runs(limit)

    found = get_loop_thread().run(read())
    if as_json:
        _echo_json(*found)
        return
    table = Table()
    for name in ("run", "task", "state", "done", "failed", "total", "started"):
        table.add_column(name, justify="right" if name in ("done", "failed", "total") else "left", overflow="fold")
    for run in found:
        total = "?" if run.total is None else f"{run.total:,}"
        started = run.started_at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(run.run_id, run.task, run.state, f"{run.done:,}", f"{run.failed:,}", total, started)
    Console().print(table)


@runs.command()
@click.argument("run_id")
@click.option("--errors", type=click.IntRange(min=0), default=20, show_default=True, help="Failed items shown.")
@json_option
@click.pass_obj
def show(app: Any, run_id: str, errors: int, as_json: bool) -> None:
    """Show one run, and the items that failed."""
    result, progress = _known(app, run_id)
    failures = result.errors(limit=errors) if errors else []
    if as_json:
        _echo_json(progress, *failures)
        return
    for name, value in msgspec.to_builtins(progress).items():
        click.echo(f"{name:12} {'' if value is None else value}")
    for failure in failures:
        click.echo(str(failure))


@runs.command()
@click.argument("run_id")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.1), default=0.5, show_default=True, help="Seconds."
)
@json_option
@click.pass_obj
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
@click.pass_obj
def cancel(app: Any, run_id: str) -> None:
    """Ask a run to stop; what is done stays done."""
    result, _ = _known(app, run_id)
    result.cancel()
    click.echo(f"run {run_id}: asked to stop")


@runs.command()
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Take it from a process that runs it; its items in flight run twice.")
@click.pass_obj
def resume(app: Any, run_id: str, force: bool) -> None:
    """Send a run again, from its checkpoint: only what is not done runs, failed items among it."""
    result, progress = _known(app, run_id)
    result.resume(force=force)
    click.echo(f"run {run_id}: sent again, {progress.done:,} items are done")


@runs.command("retry-failed")
@click.argument("run_id")
@click.pass_obj
def retry_failed(app: Any, run_id: str) -> None:
    """Run the failed items of a complete run once more, and no others."""
    result, progress = _known(app, run_id)
    result.retry_failed()
    told = f"sent again, {progress.failed:,} items had failed" if progress.failed else "nothing failed, nothing is sent"
    click.echo(f"run {run_id}: {told}")


def _known(app: Any, run_id: str) -> tuple[IterateResult, RunProgress]:
    async def read() -> RunProgress:
        return await (await shared_store(load_settings(conf=app.conf))).progress(run_id)

    try:
        return IterateResult(run_id, app=app), get_loop_thread().run(read())
    except RunNotFound as exc:
        raise click.ClickException(f"{exc}; `asyncworker runs list` shows those that are there") from exc


def _watch_bar(result: IterateResult, progress: RunProgress, interval_s: float) -> RunProgress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns) as bar:
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
        click.echo(msgspec.json.encode(told).decode())
