"""A report as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.chaos.history.check import Report

__all__ = ["show"]

MOST_SHOWN = 20


def show(report: Report, title: str) -> None:
    """Print a report."""
    kinds = [kind for kind in ("early", "late", "late_sync", "long", "fan_out") if kind in report.rows]
    table = Table("", *kinds, title=title, title_justify="left")
    for what in dict.fromkeys(what for kind in kinds for what in report.rows[kind]):
        table.add_row(what, *(f"{report.rows[kind][what]:,}" if report.rows[kind][what] else "" for kind in kinds))
    console = Console(width=110)
    console.print(table)
    for violation in report.violations[:MOST_SHOWN]:
        console.print(violation, style="red", markup=False, highlight=False)
    console.print(f"{len(report.violations)} violations")
