"""``asyncworker health``: what a probe asks."""

from __future__ import annotations

import time
from pathlib import Path

import click

from asyncworker.settings import load_settings
from asyncworker.worker.health import health_files, read_health, read_supervision

__all__ = ["health"]


@click.command()
@click.option("--max-age", "max_age_s", type=click.FloatRange(min=1.5), default=10.0, show_default=True, help="In s.")
def health(max_age_s: float) -> None:
    """Exit with 0 where the worker of ASYNCWORKER_HEALTH_FILE is alive and takes tasks, else with 1.

    With --processes it is 1, too, where one of them does not answer, or has had no process, or one that ended after
    another, for longer than --max-age.
    """
    path = load_settings().health_file
    if not path:
        raise click.UsageError("ASYNCWORKER_HEALTH_FILE is not set: set it to the file that the worker writes")
    check_supervisor(Path(path), max_age_s)
    found = [each for each in map(read_health, health_files(Path(path))) if each is not None]
    if not found:
        raise click.ClickException(f"no worker takes tasks: {path} is not there")
    for each in found:
        age_s = time.time() - each.at_s
        if age_s > max_age_s:
            raise click.ClickException(
                f"process {each.pid} gave its last sign of life {age_s:.1f} s ago: its loop is blocked, or it has lost "
                f"its broker, or it is gone"
            )
    for each in found:
        click.echo(f"process {each.pid} is alive, {each.in_flight:,} tasks in flight")


def check_supervisor(path: Path, max_age_s: float) -> None:
    """Look at what the supervisor of --processes says of its workers, where there is one.

    Raises:
        ClickException: It does not answer, or one of its workers is missing or in a crash loop.
    """
    supervision = read_supervision(path)
    if supervision is None:
        return
    if (age_s := time.time() - supervision.at_s) > max_age_s:
        raise click.ClickException(
            f"the supervisor, process {supervision.pid}, gave its last sign of life {age_s:.1f} s ago"
        )
    for place in supervision.places:
        if place.bad_since_at_s is not None and (bad_s := time.time() - place.bad_since_at_s) > max_age_s:
            raise click.ClickException(
                f"{place.node} has not been steady for {bad_s:.0f} s: {place.restarts} of its processes have ended "
                f"badly; the supervisor's log says why"
            )
