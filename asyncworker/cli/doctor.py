"""``asyncworker doctor``: what stands in a worker's way here, one line each, with what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import click
from rich.console import Console
from rich.table import Table

from asyncworker.cli import doctor_here, doctor_servers
from asyncworker.cli.apps import app_option, load_app
from asyncworker.cli.doctor_rabbitmq import check_rabbitmq
from asyncworker.cli.findings import Finding, State, broken, told
from asyncworker.cli.json_lines import echo_json
from asyncworker.settings import load_settings

__all__ = ["doctor"]

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.BROKEN: "bold red"}


@click.command()
@app_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option("--timeout", "timeout_s", type=float, default=10, show_default=True, help="Seconds for each server.")
@click.option("--management-url", default="", help="RabbitMQ's management API; default: the broker's host, port 15672.")
@click.pass_context
def doctor(ctx: click.Context, app_name: str, as_json: bool, timeout_s: float, management_url: str) -> None:
    """Check what a worker needs: settings, servers, store, versions.

    Exits with 1 when something is broken; a warning is none.
    """
    findings = list(_findings(app_name, timeout_s, management_url))
    if as_json:
        echo_json({"ok": not _count(findings, State.BROKEN), "findings": findings})
    else:
        _show(findings)
    ctx.exit(1 if _count(findings, State.BROKEN) else 0)


def _findings(app_name: str, timeout_s: float, management_url: str) -> Iterator[Finding]:
    yield from doctor_here.check_packages()
    process = list(doctor_here.check_process())
    yield from process
    if _count(process, State.BROKEN):  # no app can be made
        return
    try:
        app = load_app(app_name)
        settings = load_settings(conf=app.conf)
    except (Exception, SystemExit) as exc:
        yield broken("settings", told(exc), "mend that, then ask again")
        return
    yield from doctor_here.check_pool(app)
    yield from _within(timeout_s, "broker", lambda: doctor_servers.check_broker(app))
    yield from _within(timeout_s, "results", lambda: doctor_servers.check_results(app))
    yield from doctor_here.check_folder(settings)
    yield from _within(timeout_s, "store", lambda: doctor_here.check_store(settings))
    yield from doctor_here.check_tasks(app)
    yield from doctor_here.check_time(app)
    yield from _within(timeout_s, "broker limits", lambda: check_rabbitmq(app, settings, management_url))


def _within(timeout_s: float, name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check on a thread of its own: a server that is silent must not silence the doctor."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except Exception as exc:
            found.append(broken(name, f"{type(exc).__name__}: {told(exc)}", "report this: the check itself failed"))

    thread = threading.Thread(target=run, name=f"asyncworker-doctor-{name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        advice = "is it the right address? a firewall drops packets in silence"
        return [broken(name, f"no answer within {timeout_s:g} s", advice)]
    return found


def _count(findings: Iterable[Finding], state: State) -> int:
    return sum(finding.state is state for finding in findings)


def _show(findings: list[Finding]) -> None:
    # Highlighting would colour each number; markup would eat the brackets of an error's text.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if console.is_terminal:
        table = Table(show_lines=False)
        for title in ("", "check", "found", "what to do"):
            table.add_column(title, overflow="fold")
        for finding in findings:
            table.add_row(finding.state, finding.check, finding.text, finding.advice, style=_STYLES[finding.state])
        console.print(table, soft_wrap=False)
    else:
        for finding in findings:
            advice = f" -> {finding.advice}" if finding.advice else ""
            console.print(f"{finding.state:<8} {finding.check}: {finding.text}{advice}")
    bad, warnings = _count(findings, State.BROKEN), _count(findings, State.WARNING)
    console.print(f"{bad or 'nothing'} broken, {warnings or 'no'} warning{'s' * (warnings != 1)}")
