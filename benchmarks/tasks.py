"""Tasks a second of one worker, against other task queues: ``python benchmarks/tasks.py --help``.

Each competitor drains a queue that was filled before: tasks that do nothing but count themselves and return a number.
All use the same private server, which writes its append-only file; each has its best settings that were found. The time
runs from the first task to the last stored result. Rounds are interleaved; a ratio is the median of the ratios within
the rounds. Processor time is told beside it: on a busy machine it is the steadier figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.cli.embedded import EmbeddedServer
from benchmarks.queues.competitors import COMPETITORS, OURS, Competitor
from benchmarks.queues.drain import CouldNot, Drained, drain
from benchmarks.report import Measured, print_table, write_json

#: In a pipe too, a line of the table is a line.
console = Console() if sys.stdout.isatty() else Console(width=140)

#: With ``--quick``: the fastest peers and one stock pool.
QUICK = {OURS, "arq", "saq", "celery prefork -c 2"}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, metavar="N", help="tasks a turn (20000; quick: 4000); slow: a fifth")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (5; quick: 2)")
    parser.add_argument("--only", metavar="NAMES", help="competitors to measure; by name; separated by semicolons")
    parser.add_argument("--case", choices=CASES, action="append", help="what to measure (all; quick: results, 1)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    given.tasks = given.tasks or (4_000 if given.quick else 20_000)
    given.rounds = given.rounds or (2 if given.quick else 5)
    given.case = given.case or (["results, 1"] if given.quick else list(CASES))
    return given


@dataclass(frozen=True)
class Case:
    """What is measured: with results or without, and how many worker processes."""

    results: bool
    processes: int

    @property
    def title(self) -> str:
        """For the table."""
        kept = "results kept" if self.results else "no results"
        return f"{kept}, {self.processes} process{'es' if self.processes > 1 else ''}"


CASES = {
    "results, 1": Case(True, 1),
    "no results, 1": Case(False, 1),
    "results, 2": Case(True, 2),
}


@dataclass
class Row:
    """A competitor's turns in one case."""

    competitor: Competitor
    amount: int
    turns: list[Drained] = field(default_factory=list)
    missing: str = ""


def competitors(given: argparse.Namespace) -> list[Competitor]:
    """Return who takes part."""
    if given.only:
        words = [word.strip() for word in given.only.split(";")]
        return [each for each in COMPETITORS if each.name in words]
    return [each for each in COMPETITORS if not given.quick or each.name in QUICK]


def measure(case: Case, given: argparse.Namespace, server: EmbeddedServer) -> list[Row]:
    """Let each have its turn, round by round."""
    rows = [Row(each, given.tasks // 5 if each.slow else given.tasks) for each in competitors(given)]
    for row in rows:
        row.missing = row.competitor.missing
    for _ in range(given.rounds):
        for row in rows:
            if row.missing:
                continue
            try:
                turn = drain(row.competitor, server, row.amount, results=case.results, processes=case.processes)
            except CouldNot as exc:
                if row.competitor.name.startswith(OURS):
                    raise SystemExit(str(exc)) from None
                console.print(f"{exc}", style="red", markup=False)
                row.missing, row.turns = "failed, see above", []
            else:
                row.turns.append(turn)
                console.print(
                    f"{row.competitor.name}: {turn.tasks_per_s:,.0f} tasks/s, {turn.tasks_per_cpu_s:,.0f} a CPU second",
                    style="dim",
                    highlight=False,
                )
    return rows


def report(case: Case, rows: list[Row]) -> list[Measured]:
    """Print a case's tables and ratios; returns its rows."""
    everything = []
    for metric, unit in (("tasks_per_s", "tasks/s"), ("tasks_per_cpu_s", "tasks/CPU s")):
        measured = [
            Measured(
                row.competitor.name,
                metric,
                unit,
                f"{row.amount:,} tasks",
                [getattr(turn, metric) for turn in row.turns],
                row.missing,
            )
            for row in rows
        ]
        print_table(f"{case.title}: {unit}", measured, OURS, console)
        everything += [dataclasses.replace(each, name=f"{each.name}, {case.title}") for each in measured]
    ours = next((row for row in rows if row.competitor.name == OURS), None)
    for row in rows:
        if ours and row is not ours and row.turns:
            ratio = statistics.median(
                mine.tasks_per_s / theirs.tasks_per_s for mine, theirs in zip(ours.turns, row.turns, strict=True)
            )
            cpu = statistics.median(
                mine.tasks_per_cpu_s / theirs.tasks_per_cpu_s
                for mine, theirs in zip(ours.turns, row.turns, strict=True)
            )
            console.print(f"{ratio:6.2f} x {row.competitor.name} ({cpu:.2f} x by processor time)", highlight=False)
    return everything


def main() -> None:
    """Measure, print, and write."""
    given = arguments()
    everything: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="asyncworker-tasks-") as folder, EmbeddedServer(Path(folder)) as server:
        for name in given.case:
            everything += report(CASES[name], measure(CASES[name], given, server))
    if given.json:
        write_json(given.json, everything)


if __name__ == "__main__":
    main()
