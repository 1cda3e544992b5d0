"""``asyncworker dead``: tasks whose worker died each time they began, and messages that cannot be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec
from kombu.utils.json import loads

from asyncworker.cli.apps import app_command, app_option, talking_to_broker
from asyncworker.cli.json_lines import echo_json
from asyncworker.cli.listing import show_listing
from asyncworker.loop import get_loop_thread
from asyncworker.printable import printable
from asyncworker.settings import load_settings
from asyncworker.store import DeadLetter, Deliveries, shared_store

__all__ = ["dead"]

T = TypeVar("T")

#: Of a reason, in the list.
REASON_CHARS = 80

_HEADINGS = ("id", "task", "queue", "starts", "given up", "reason")


@click.group()
@app_option
@click.pass_context
def dead(ctx: click.Context, app_name: str) -> None:
    """List, show and replay tasks that were given up. The settings are those of the workers."""
    ctx.obj = app_name


@dead.command("list")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
@app_command
def list_(app: Any, limit: int, as_json: bool) -> None:
    """List them, the newest first."""
    letters = _ask(app, lambda deliveries: deliveries.dead(limit))
    if as_json:
        for letter in letters:
            echo_json({**msgspec.structs.asdict(letter), "arguments": _arguments(letter)})
        return
    if not letters:
        click.echo("no dead letters in the store", err=True)
        return
    show_listing(_HEADINGS, [_row(letter) for letter in letters], numbers=("starts",), stacked=_stacked)


@dead.command()
@click.argument("task_id")
@app_command
def show(app: Any, task_id: str) -> None:
    """Show one: its arguments, and when and where it was begun."""
    letter = _ask(app, lambda deliveries: deliveries.dead_one(task_id))
    arguments = _arguments(letter)
    what = f"{letter.task}[{letter.task_id}]" if letter.task else letter.task_id
    where = f" from queue {letter.queue}" if letter.queue else ""
    click.echo(f"{printable(what + where)}, given up at {letter.dead_at:%Y-%m-%d %H:%M:%S}")
    for key, value in arguments.items():
        click.echo(f"{key}: {value!r}")
    if letter.reason:
        click.echo(f"reason: {printable(letter.reason)}")
        click.echo(f"message: {letter.message!r}")
    for start in letter.history:
        click.echo(f"begun at {start.at:%Y-%m-%d %H:%M:%S} on {start.worker}, process {start.pid}")


@dead.command()
@click.argument("task_id")
@app_command
def replay(app: Any, task_id: str) -> None:
    """Send one again, under its id, and take it off the list."""
    letter = _ask(app, lambda deliveries: deliveries.dead_one(task_id))
    arguments = _arguments(letter)
    if not letter.task or "args" not in arguments:
        raise click.ClickException(f"{task_id} cannot be sent again: its arguments could not be read ({letter.reason})")
    with talking_to_broker(app):
        app.AsyncResult(task_id).forget()
        app.send_task(letter.task, arguments["args"], arguments["kwargs"], task_id=task_id, queue=letter.queue or None)
    _ask(app, lambda deliveries: deliveries.forget_dead(task_id))
    click.echo(f"{letter.task}[{task_id}]: sent again")


def _row(letter: DeadLetter) -> tuple[str, ...]:
    when = f"{letter.dead_at:%Y-%m-%d %H:%M:%S}"
    cells = (letter.task_id, letter.task, letter.queue, str(letter.starts), when, letter.reason[:REASON_CHARS])
    return tuple(printable(cell) for cell in cells)


def _stacked(row: Sequence[str]) -> Sequence[str]:
    task_id, task, queue, starts, when, reason = row
    where = f" from queue {queue}" if queue else ""
    return task_id, f"{task or 'no task'}{where}, {starts} starts, {when}", *([reason] if reason else [])


def _arguments(letter: DeadLetter) -> dict[str, Any]:
    return dict(loads(letter.arguments)) if letter.arguments else {}


def _ask(app: Any, question: Callable[[Deliveries], Awaitable[T]]) -> T:
    async def ask() -> T:
        return await question(Deliveries(await shared_store(load_settings(conf=app.conf))))

    return get_loop_thread().run(ask())
