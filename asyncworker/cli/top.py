"""``asyncworker top``: what every worker runs, live."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from asyncworker.cli.apps import app_option, load_app, talking_to_broker

__all__ = ["top"]

#: Of each fan-out.
ITEMS_SHOWN = 5


@click.command()
@app_option
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds."
)
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Tasks shown of each worker.")
@click.option("--once", is_flag=True, help="Show it once and exit; so it is where the output is not a terminal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look.")
def top(app_name: str, interval_s: float, limit: int, once: bool, as_json: bool) -> None:
    """Show every task in flight: its age, and the line where it waits. Exits with 1 where no worker answers."""
    app = load_app(app_name)
    once = once or not sys.stdout.isatty()
    if as_json or once:
        while True:
            seen = _look(app, limit, interval_s)
            if as_json:
                click.echo(json.dumps(seen))
            else:
                Console().print(_table(seen))
            if once:
                break
            time.sleep(interval_s)
        if not seen:
            raise click.exceptions.Exit(1)
        return
    with Live(_table(_look(app, limit, interval_s)), screen=True) as live:
        while True:
            time.sleep(interval_s)
            live.update(_table(_look(app, limit, interval_s)))


def _look(app: Any, limit: int, timeout_s: float) -> dict[str, Any]:
    """Ask all workers; those that are not async do not know the command, and say so."""
    with talking_to_broker(app):
        replies = app.control.broadcast("coroutines", arguments={"limit": limit}, reply=True, timeout=timeout_s)
    return {node: answer for reply in replies or [] for node, answer in sorted(reply.items())}


def _table(seen: dict[str, Any]) -> Table:
    total = sum(answer.get("in-flight", 0) for answer in seen.values())
    title = f"workers: {len(seen)}, tasks in flight: {total:,}"
    table = Table(title=title, title_justify="left")
    table.add_column("worker")
    table.add_column("task", overflow="fold")
    table.add_column("id", overflow="fold")
    table.add_column("age s", justify="right")
    table.add_column("waits at", overflow="fold")
    for node, answer in seen.items():
        if "error" in answer:
            table.add_row(node, f"[dim]{answer['error']}[/dim]")
            continue
        lag_s = answer["loop-lag-s"] or 0
        if lag_s >= 1:
            table.add_row(node, f"[red]its event loop has been blocked for {lag_s:.1f} s[/red]")
        for job in answer["jobs"]:
            table.add_row(node, job["task"], job["id"], f"{job['age-s']:,.1f}", _last_line(job))
            _add_items(table, job)
        if not answer["jobs"]:
            table.add_row(node, "[dim]idle[/dim]")
    return table


def _add_items(table: Table, job: dict[str, Any]) -> None:
    """Add rows for a fan-out's first items in flight."""
    items = job.get("items", [])
    for item in items[:ITEMS_SHOWN]:
        key = "" if item["key"] is None else f" {item['key']}"
        table.add_row(
            "", f"[dim]  item {item['index']}{escape(key)}[/dim]", f"attempt {item['attempt']}", "", _last_line(item)
        )
    more = job.get("items-in-flight", 0) - len(items[:ITEMS_SHOWN])
    if more > 0:
        table.add_row("", f"[dim]  and {more:,} more items[/dim]")


def _last_line(job: dict[str, Any]) -> str:
    """The innermost line that is the user's own, or the innermost there is."""
    own = [line for line in job["stack"] if "/site-packages/" not in line and "/lib/python" not in line]
    return str((own or job["stack"] or [""])[-1])
