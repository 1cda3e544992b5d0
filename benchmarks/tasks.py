"""How one worker of this and of other task queues does: ``python benchmarks/tasks.py --help``.

Tasks that do nothing but count themselves and return a number, drained from a queue that was filled before, with and
without results, by one process and by two, over Redis and over RabbitMQ; the time runs from the first task to the
last stored result. Then tasks that fail, are retried, stand in chords or have a countdown, beside as many that
succeed, with the most memory that each worker had; tasks that sleep, all at once; the way from ``delay`` to the
result at light load; and sending. All use the same private server, which writes its append-only file, and each has
the best settings that were found for it; what is slow is given fewer tasks. The competitors take turns; a ratio is
the median of those within the rounds. Processor time is told beside the time: on a busy machine it is the steadier
figure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.cli.embedded import EmbeddedServer
from benchmarks.plot import plot
from benchmarks.queues.competitors import OURS, Competitor
from benchmarks.queues.scenarios import Scenario, scenarios
from benchmarks.queues.turns import CouldNot, Servers
from benchmarks.report import Measured, figure, print_table, write_json, write_markdown
from tests.servers import MissingServer
from tests.servers.rabbitmq import running_rabbitmq

#: In a pipe too, a line of the table is a line.
console = Console() if sys.stdout.isatty() else Console(width=140)

#: A list of rows for each of a scenario's figures.
Results = dict[Scenario, list[list[Measured]]]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, metavar="N", help="tasks a turn (20000; quick: 4000); slow: a fifth")
    parser.add_argument("--sleepers", type=int, metavar="N", help="sleeping tasks (10000; quick: 2000)")
    parser.add_argument("--nap-s", type=float, metavar="S", help="how long they sleep (10; quick: 3)")
    parser.add_argument("--calls", type=int, metavar="N", help="calls at light load (200; quick: 100)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="a minute: fewer tasks, competitors and scenarios")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only competitors with that in their name")
    parser.add_argument("--scenario", metavar="TEXT", action="append", help="only what has that in its title")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the medians as tables for a document")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .svg or .png (wants matplotlib)")
    parser.add_argument(
        "--arq-python",
        default=sys.executable,
        metavar="PYTHON",
        help="of an environment that has the newest arq, and uvloop: beside the others pip finds an old one",
    )
    given = parser.parse_args()
    for name, full, quick in (("tasks", 20_000, 4_000), ("sleepers", 10_000, 2_000), ("nap_s", 10.0, 3.0)):
        setattr(given, name, getattr(given, name) or (quick if given.quick else full))
    given.calls = given.calls or (100 if given.quick else 200)
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def chosen(given: argparse.Namespace) -> list[Scenario]:
    """Return what is to be measured."""
    everything = scenarios(given.tasks, given.sleepers, given.nap_s, given.calls)
    if given.scenario:
        return [each for each in everything if any(text in each.title for text in given.scenario)]
    return [each for each in everything if each.quick or not given.quick]


def competitors(scenario: Scenario, given: argparse.Namespace) -> list[tuple[Competitor, str]]:
    """Return who takes part in it, and why not."""
    field = []
    for each in scenario.competitors:
        if given.only and not any(text in each.name for text in given.only):
            continue
        if each.needs == "arq":
            each = dataclasses.replace(each, python=given.arq_python)
        left_out = "left out by --quick" if given.quick and not each.quick and not given.only else ""
        field.append((each, left_out or each.missing))
    return field


def measure(scenario: Scenario, given: argparse.Namespace, servers: Servers) -> list[list[Measured]]:
    """Let each have its turn, round by round."""
    field = [(each, _rows(scenario, each, missing)) for each, missing in competitors(scenario, given)]
    for _ in range(given.rounds):
        for each, rows in field:
            if rows[0].missing:
                continue
            try:
                values = scenario.turn(each, servers, each.share(scenario.amount))
            except CouldNot as exc:
                if each.ours:
                    raise SystemExit(str(exc)) from None
                console.print(f"{scenario.title}, {exc}", style="red", markup=False)
                for row in rows:
                    row.missing, row.values = "failed, see above", []
                continue
            for row, value in zip(rows, values, strict=True):
                row.values.append(value)
            told = ", ".join(f"{figure(row.values[-1])} {row.unit}" for row in rows)
            console.print(f"{scenario.title}, {each.name}: {told}", style="dim", highlight=False)
    return [list(rows) for rows in zip(*(rows for _, rows in field), strict=True)]


def _rows(scenario: Scenario, competitor: Competitor, missing: str) -> list[Measured]:
    amount = f"{competitor.share(scenario.amount):,} tasks"
    return [
        Measured(competitor.name, each.metric, each.unit, amount, missing=missing, less_is_better=each.less_is_better)
        for each in scenario.figures
    ]


@contextlib.contextmanager
def running_servers(folder: Path, wanted: list[Scenario]) -> Iterator[Servers]:
    """Start what the scenarios need; those of a server that is missing are dropped, and it is said why."""
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer(folder / "valkey"))
        rabbitmq = None
        if any(each.rabbitmq for each in wanted):
            try:
                rabbitmq = stack.enter_context(running_rabbitmq(folder / "rabbitmq"))
            except MissingServer as missing:
                console.print(f"nothing over RabbitMQ: {missing}")
                wanted[:] = [each for each in wanted if not each.rabbitmq]
        yield Servers(valkey, rabbitmq)


def race(given: argparse.Namespace) -> Results:
    """Measure all, print it, and write the files that were asked for."""
    wanted = chosen(given)
    results: Results = {}
    with (
        tempfile.TemporaryDirectory(prefix="tasks-benchmark-") as folder,
        running_servers(Path(folder), wanted) as servers,
    ):
        for scenario in wanted:
            tables = results[scenario] = measure(scenario, given, servers)
            for rows in tables:
                print_table(f"{scenario.title}: {rows[0].unit}", rows, OURS, console)
            console.print(f"load of the machine over the last 5 minutes: {os.getloadavg()[1]:.1f}", highlight=False)
            write(given, results)  # each time: all of it takes long
    return results


def print_scaling(results: Results) -> None:
    """Tell how much more two processes do than one."""
    by_metric = {rows[0].metric: rows for tables in results.values() for rows in tables}
    for metric in ("tasks_per_s", "tasks_per_cpu_s"):
        ones = {row.name: row for row in by_metric.get(metric, []) if row.values}
        for two in by_metric.get(f"{metric}_2_processes", []):
            if two.name.startswith(OURS) and two.values and two.name in ones:
                ratio = two.ratio(ones[two.name])
                console.print(
                    f"{two.name}: two processes have {ratio:.2f} times the {two.unit} of one", highlight=False
                )


def print_memory(results: Results) -> None:
    """Compare the memory that tasks of each outcome need with that of as many that succeed."""
    rows = {(row.metric, row.name): row for tables in results.values() for rows in tables for row in rows if row.values}
    for (metric, name), row in rows.items():
        success = rows.get(("peak_mb_succeeding", name))
        if (
            success is not None
            and metric.startswith("peak_mb_")
            and row is not success
            and row.amount == success.amount
        ):
            outcome = metric.removeprefix("peak_mb_")
            if outcome in ("failing", "retried", "chords", "etas"):
                console.print(
                    f"{name}: {row.amount} ({outcome}) need {row.ratio(success):.2f} times the memory of those that "
                    "succeed",
                    highlight=False,
                )


def print_versions(given: argparse.Namespace) -> None:
    """Tell what was measured."""
    names = ("celery", "kombu", "redis", "celery-aio-pool", "gevent", "saq", "taskiq", "taskiq-redis", "streaq")
    versions = {}
    for name in (*names, "taskiq-aio-pika", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    code = "from importlib.metadata import version; print('arq', version('arq'), 'with redis', version('redis'))"
    arq = subprocess.run([given.arq_python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    told = ", ".join([*(f"{name} {version}" for name, version in versions.items()), arq or "no arq"])
    console.print(f"Python {sys.version.split()[0]}, {told}", highlight=False)


def write(given: argparse.Namespace, results: Results) -> None:
    """Write what there is so far."""
    if given.json:
        write_json(given.json, [row for tables in results.values() for rows in tables for row in rows])
    if given.markdown:
        drained, others = (
            {
                f"{scenario.title}, {rows[0].unit}": rows
                for scenario, tables in results.items()
                for rows in tables
                if scenario.drains == drains
            }
            for drains in (True, False)
        )
        write_markdown(given.markdown, *filter(None, (drained, others)))
    if given.plot:
        plot(given.plot, {scenario.title: tables[0] for scenario, tables in results.items()})


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    print_versions(given)
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", highlight=False)
    results = race(given)
    print_scaling(results)
    print_memory(results)


if __name__ == "__main__":
    main()
