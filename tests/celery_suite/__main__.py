"""``python -m tests.celery_suite [--broker redis|rabbitmq]``: what passes on one side and not on another, test by test.

Exits with 1 where a difference is not explained. Arguments after ``--`` go to pytest: ``-- -k chord``.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.celery_suite.compare import compare
from tests.celery_suite.runner import BROKERS, SIDES, run_suite

COLOURS = {"passed": "green", "failed": "bold red", "skipped": "dim", "xfailed": "yellow", "missing": "bold red"}


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suite", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, default="redis", help="results are kept in Redis either way")
    parser.add_argument("--side", action="append", choices=[side.name for side in SIDES[1:]], help="beside prefork")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the logs there; it must not exist")
    parser.add_argument("--module", action="append", default=[], help="of the suite, such as test_canvas; else all")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    sides = [side for side in SIDES if side.name == "prefork" or not options.side or side.name in options.side]
    with tempfile.TemporaryDirectory(prefix="asyncworker-celery-suite-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(exist_ok=folder == Path(scratch), parents=True)
        outcomes = run_suite(folder, options.broker, sides, options.module, options.pytest)
    console = Console(width=None if sys.stdout.isatty() else 160)
    counts = Table("side", *COLOURS, title=f"Celery's integration suite, {options.broker}")
    for side, of_side in outcomes.items():
        count = collections.Counter(outcome.word for outcome in of_side.values())
        counts.add_row(side, *(str(count[word]) for word in COLOURS))
    console.print(counts)
    differences = compare(outcomes, options.broker)
    table = Table("test", "side", "prefork", "ours", "reason", title="What ends otherwise than under prefork")
    for each in differences:
        words = [f"[{COLOURS[word]}]{word}[/]" for word in (each.prefork.word, each.ours.word)]
        reason = each.explained.reason if each.explained else "[bold red]not explained[/]"
        table.add_row(each.test.removeprefix("t/integration/"), each.side, *words, reason)
    console.print(table)
    unexplained = [each for each in differences if each.explained is None]
    for each in unexplained:
        console.rule(f"{each.test} ({each.side})")
        console.print((each.ours.why or each.prefork.why)[-3000:], markup=False, highlight=False)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
