"""``python -m tests.parity``: every scenario under stock prefork and under asyncworker, as a table.

Exits with 1 where something differs that is not meant to. Names of scenarios as arguments: those only.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.parity.app import SIDES
from tests.parity.compare import Verdict, verdicts
from tests.parity.runner import run_all_sides

COLOURS = {"same": "green", "differs as meant": "yellow", "differs": "bold red", "": "dim"}


def main(scenarios: list[str]) -> int:
    """Run, print, and return the exit code."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="asyncworker-parity-") as folder:
        found = verdicts(run_all_sides(Path(folder), scenarios))
    table = Table("scenario", "prefork", "ours, async def", "ours, def", title="Parity with prefork")
    by_scenario: dict[str, dict[str, Verdict]] = {}
    for verdict in found:
        by_scenario.setdefault(verdict.scenario, {})[verdict.side] = verdict
    for name, sides in by_scenario.items():
        words = [sides[side].word if side in sides else "" for side in SIDES[1:]]
        lines = next(iter(sides.values())).lines
        table.add_row(name, f"{lines} lines", *(f"[{COLOURS[word]}]{word or 'not compared'}" for word in words))
    console.print(table)
    for rule in dict.fromkeys(rule for verdict in found for rule in verdict.meant):
        console.print(f"[yellow]as meant[/] {rule.what}: prefork: {rule.prefork}; ours: {rule.ours}", highlight=False)
    for verdict in found:
        for line in verdict.unexplained:
            console.print(f"{verdict.scenario}: {line}", style="red", markup=False, highlight=False)
    return 1 if any(verdict.unexplained for verdict in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
