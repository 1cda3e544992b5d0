"""``python -m tests.chaos.history``: a chaos run, and what came of it as a table; exits with 1 on a violation."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.chaos.history.check import check
from tests.chaos.history.run import ChaosRun
from tests.chaos.history.setting import running_broker
from tests.chaos.history.show import show


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Of the plan of tasks and harm.")
@click.option("--tasks", type=click.IntRange(min=8), default=2000, show_default=True, help="How many.")
@click.option("--broker", type=click.Choice(["redis", "redis-fast", "rabbitmq"]), default="redis", show_default=True)
@click.option("--workers", type=click.IntRange(min=2), default=4, show_default=True)
@click.option("--rate", type=click.FloatRange(min=1), default=20.0, show_default=True, help="Tasks sent a second.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the history and the workers' logs.")
def main(seed: int, tasks: int, broker: str, workers: int, rate: float, keep: Path | None) -> None:
    """Run tasks on workers that are killed and frozen, over a broker that is restarted, and check the history."""
    began_at_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        place = stack.enter_context(running_broker(broker, folder))
        history = ChaosRun(place, folder / "run", seed=seed, tasks=tasks, rate=rate, workers=workers).run()
    report = check(history)
    title = (
        f"{broker}, seed {seed}: {tasks} tasks accepted in {time.monotonic() - began_at_s:.0f} s\n"
        f"harm: {', '.join(f'{number} {kind}' for kind, number in sorted(history.harms.items()))}"
    )
    show(report, title)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
