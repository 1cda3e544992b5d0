"""Lists for the terminal, in whatever room there is: a value, such as an id, is never broken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["show_listing"]

#: Where lines have no end, as in a pipe.
_ENDLESS = 10_000

_GAP = 2


def show_listing(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    stacked: Callable[[Sequence[str]], Sequence[str]],
) -> None:
    """Print rows, one a line; where that is too wide, several lines for each. A column without values is left out.

    Args:
        headings: Names of the columns.
        rows: At least one.
        numbers: Columns that are aligned to the right.
        stacked: Returns the lines for a row: the first begins at the margin, the others are indented.
    """
    # Names are anybody's text: no line feeds, no escapes of the terminal.
    rows = [["".join(each if each.isprintable() else "?" for each in cell) for cell in row] for row in rows]
    width = Console().width if sys.stdout.isatty() else _ENDLESS
    used = [number for number in range(len(headings)) if any(row[number] for row in rows)]
    widths = {number: max(len(headings[number]), *(len(row[number]) for row in rows)) for number in used}
    if sum(widths.values()) + _GAP * (len(used) - 1) <= width:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for number in used:
            heading = headings[number]
            table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(row[number]) for number in used))
        Console(width=width).print(table)
        return
    for row in rows:
        first, *others = stacked(row)
        click.echo(first)
        for line in others:
            click.echo(f"  {line}")
