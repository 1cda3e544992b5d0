"""``asyncworker limits``: who holds what, and changing a number while all of it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from asyncworker.cli.apps import app_command, app_option, talking_to_broker
from asyncworker.cli.json_lines import echo_json
from asyncworker.errors import LimitError, SettingsError
from asyncworker.limits import number_text, use_limits_url
from asyncworker.limits.control import ClusterLimit, change_cluster_limit, cluster_limits
from asyncworker.settings import load_settings

__all__ = ["limits"]

#: How long workers have to answer.
ANSWER_S = 1.0


@click.group()
@app_option
@click.pass_context
def limits(ctx: click.Context, app_name: str) -> None:
    """List and change limits. The settings are those of the workers."""
    ctx.obj = app_name


@limits.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
@app_command
def list_(app: Any, as_json: bool) -> None:
    """List the limits of the cluster, and those of each worker, with who holds permits and who waits."""
    _use_limits_of(app)
    rows = [_cluster_row(each) for each in _cluster_limits()]
    rows += [row for node, answer in _ask(app, "limits").items() for row in _worker_rows(node, answer)]
    if as_json:
        for row in rows:
            echo_json(row)
        return
    table = Table("limit", "where", "kind", "key")
    for name in ("number", "held", "wait"):
        table.add_column(name, justify="right")
    table.add_column("holders, the first ten", overflow="fold")
    for row in rows:
        number = number_text(row["amount"])
        held, waiting = str(row["held"]), str(row["waiting"])
        table.add_row(
            row["limit"], row["where"], row["kind"], row["key"], number, held, waiting, "\n".join(row["holders"])
        )
    Console().print(table)


@limits.command("set")
@click.argument("name")
@click.argument("amount", type=float)
@app_command
def set_(app: Any, name: str, amount: float) -> None:
    """Change the number of a limit: permits, or uses in its time. What is held stays held.

    A limit of the cluster keeps it until it is changed again; one of a process, until that ends.
    """
    _use_limits_of(app)
    try:
        changed = ["the cluster"] if change_cluster_limit(name, amount) else []
    except LimitError as exc:
        click.echo(f"{exc}; asking the workers", err=True)
        changed = []
    answers = _ask(app, "change_limit", name=name, amount=amount)
    changed += [node for node, answer in answers.items() if "ok" in answer]
    refused = [answer["error"] for answer in answers.values() if "error" in answer]
    if not changed:
        known = "; ".join(dict.fromkeys(refused)) or "no worker answers, and the cluster does not know it"
        raise SettingsError(f"limit {name!r} was not changed: {known}")
    click.echo(f"{name}: {number_text(amount)}, in {', '.join(changed)}")


def _use_limits_of(app: Any) -> None:
    use_limits_url(load_settings(conf=app.conf).limits_url or str(app.conf.broker_read_url or ""))


def _cluster_limits() -> list[ClusterLimit]:
    try:
        return cluster_limits()
    except LimitError as exc:
        click.echo(f"{exc}", err=True)
        return []


def _ask(app: Any, command: str, **arguments: Any) -> dict[str, Any]:
    with talking_to_broker(app):
        replies = app.control.broadcast(command, arguments=arguments, reply=True, timeout=ANSWER_S)
    return {node: answer for reply in replies or [] for node, answer in sorted(reply.items())}


def _cluster_row(found: ClusterLimit) -> dict[str, Any]:
    holders = [each for each in found.holders if not each.waits]
    return {
        "limit": found.name,
        "where": "cluster",
        "kind": found.kind,
        "key": found.key,
        "amount": found.amount,
        "declared": found.declared,
        "held": len(holders),
        "waiting": len(found.holders) - len(holders),
        "holders": [f"{each.holder} in {each.process} since {_time(each.since_s)}" for each in holders[:10]],
    }


def _worker_rows(node: str, answer: Any) -> list[dict[str, Any]]:
    return [{**row, "where": node} for row in answer if isinstance(row, dict)] if isinstance(answer, list) else []


def _time(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S}"
