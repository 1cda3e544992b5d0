"""``asyncworker dead``: tasks that were given up because their worker died each time they began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import msgspec
from kombu.utils.json import loads
from rich.console import Console
from rich.table import Table

from asyncworker.cli.apps import app_option, load_app
from asyncworker.loop import get_loop_thread
from asyncworker.settings import load_settings
from asyncworker.store import Deliveries, shared_store

__all__ = ["dead"]

T = TypeVar("T")


@click.group()
@app_option
@click.pass_context
def dead(ctx: click.Context, app_name: str) -> None:
    """List, show and replay tasks that were given up. The settings are those of the workers."""
    ctx.obj = load_app(app_name)


@dead.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
@click.pass_obj
def list_(app: Any, limit: int, as_json: bool) -> None:
    """List them, the newest first."""
    letters = _ask(app, lambda deliveries: deliveries.dead(limit))
    if as_json:
        for letter in letters:
            click.echo(msgspec.json.encode({**msgspec.structs.asdict(letter), "arguments": loads(letter.arguments)}))
        return
    table = Table("id", "task", "queue", "starts", "given up")
    for letter in letters:
        when = letter.dead_at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(letter.task_id, letter.task, letter.queue, str(letter.starts), when)
    Console().print(table)


@dead.command()
@click.argument("task_id")
@click.pass_obj
def show(app: Any, task_id: str) -> None:
    """Show one: its arguments, and when and where it was begun."""
    letter = _ask(app, lambda deliveries: deliveries.dead_one(task_id))
    arguments = loads(letter.arguments)
    click.echo(
        f"{letter.task}[{letter.task_id}] from queue {letter.queue}, given up at {letter.dead_at:%Y-%m-%d %H:%M:%S}"
    )
    click.echo(f"args: {arguments['args']!r}, kwargs: {arguments['kwargs']!r}")
    for start in letter.history:
        click.echo(f"begun at {start.at:%Y-%m-%d %H:%M:%S} on {start.worker}, process {start.pid}")


@dead.command()
@click.argument("task_id")
@click.pass_obj
def replay(app: Any, task_id: str) -> None:
    """Send one again, under its id, and take it off the list."""
    letter = _ask(app, lambda deliveries: deliveries.dead_one(task_id))
    arguments = loads(letter.arguments)
    app.AsyncResult(task_id).forget()
    app.send_task(letter.task, arguments["args"], arguments["kwargs"], task_id=task_id, queue=letter.queue or None)
    _ask(app, lambda deliveries: deliveries.forget_dead(task_id))
    click.echo(f"{letter.task}[{task_id}]: sent again")


def _ask(app: Any, question: Callable[[Deliveries], Awaitable[T]]) -> T:
    async def ask() -> T:
        return await question(Deliveries(await shared_store(load_settings(conf=app.conf))))

    return get_loop_thread().run(ask())
