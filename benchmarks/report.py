"""What every benchmark has in common: medians of interleaved rounds, one table, the same rows as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Measured", "figure", "print_table", "write_json", "write_markdown"]


@dataclass
class Measured:
    """One competitor and what was measured of it.

    Attributes:
        name: Ours begin with ``asyncworker``.
        metric: As in ``files_per_s``.
        unit: As in ``files/s``.
        amount: How much it was given to do, for the table.
        values: One value a round.
        also: What else was measured, one value a round under the heading of its column.
        missing: Why it could not take part.
        less_is_better: As of seconds and bytes.
    """

    name: str
    metric: str
    unit: str
    amount: str = ""
    values: list[float] = field(default_factory=list)
    also: dict[str, list[float]] = field(default_factory=dict)
    missing: str = ""
    less_is_better: bool = False

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    @property
    def rank(self) -> float:
        """The best has the lowest."""
        return self.median if self.less_is_better else -self.median

    def ratio(self, other: Measured) -> float:
        """How many times ``other`` it is: the median of the ratios within the rounds, where each had every round."""
        if len(self.values) != len(other.values):
            return self.median / other.median
        return statistics.median(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))


def figure(value: float) -> str:
    """Write a number with the digits that mean something."""
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def print_table(title: str, rows: Sequence[Measured], reference: str, console: Console) -> None:
    """Print all rows, the best first; the last column is ``reference`` as times of that row."""
    took_part = sorted((row for row in rows if row.values), key=lambda row: row.rank)
    ours = next((row for row in took_part if row.name == reference), None)
    table = Table(title=title, title_justify="left", caption=f"ratio: {reference}, divided by that row")
    others = list(dict.fromkeys(heading for row in rows for heading in row.also))
    for heading in ("", "given", f"{rows[0].unit}, median", "lowest - highest", "ratio", *others):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in took_part:
        table.add_row(
            f"[bold]{row.name}[/bold]" if row.name.startswith("asyncworker") else row.name,
            row.amount,
            figure(row.median),
            f"{figure(min(row.values))} - {figure(max(row.values))}",
            "" if ours is None else f"{ours.ratio(row):,.2f}",
            *(f"{statistics.median(row.also[other]):,.0f}" if row.also.get(other) else "" for other in others),
        )
    for row in rows:
        if not row.values:
            table.add_row(row.name, "", "not measured", "", row.missing)
    console.print(table)


def write_json(path: Path, rows: Sequence[Measured]) -> None:
    """Write one object a row; ``ratio_to`` holds this row's value divided by that of each other row of its metric."""
    took_part = [row for row in rows if row.values]
    objects = [
        {
            "name": row.name,
            "metric": row.metric,
            "value": round(row.median, 2),
            "unit": row.unit,
            "ratio_to": {
                other.name: round(row.ratio(other), 3)
                for other in took_part
                if other is not row and other.metric == row.metric
            },
        }
        for row in took_part
    ]
    path.write_text(json.dumps(objects, indent=2) + "\n")


def write_markdown(path: Path, *tables: Mapping[str, Sequence[Measured]]) -> None:
    """Write tables of medians: a line a competitor, in the order of the first column, a column a list of rows."""
    path.write_text("\n".join(_markdown(columns) for columns in tables))


def _markdown(columns: Mapping[str, Sequence[Measured]]) -> str:
    medians = {
        heading: {row.name: figure(row.median) for row in sorted(rows, key=_rank) if row.values}
        for heading, rows in columns.items()
    }
    names = dict.fromkeys(name for rows in medians.values() for name in rows)
    lines = [f"| | {' | '.join(medians)} |", "|---" + "|---:" * len(medians) + "|"]
    lines += [f"| {name} | {' | '.join(rows.get(name, '') for rows in medians.values())} |" for name in names]
    return "\n".join(lines) + "\n"


def _rank(row: Measured) -> float:
    return row.rank if row.values else 0.0
