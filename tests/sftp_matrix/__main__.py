"""Print the table; exits with 1 where a cell is not green."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.servers import MissingServer
from tests.sftp_matrix.operations import OPERATIONS
from tests.sftp_matrix.run import Cell, run_column
from tests.sftp_matrix.servers import SERVERS, TRANSPORTS, running


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sftp_matrix", description=__doc__)
    parser.add_argument("--short", action="store_true", help="smaller files, and no resumed transfers")
    parser.add_argument("--server", choices=SERVERS, action="append", help="only that server (repeatable)")
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="only that transport (repeatable)")
    parser.add_argument("--row", choices=tuple(OPERATIONS), action="append", help="only that operation (repeatable)")
    options = parser.parse_args()
    table: dict[str, dict[str, Cell]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for kind in options.server or SERVERS:
            for transport in options.transport or TRANSPORTS:
                column = f"{kind}/{transport}"
                folder = Path(name) / column.replace("/", "-")
                try:
                    with running(kind, folder / "server") as server:
                        cells = run_column(
                            kind, transport, server, folder, short=options.short, rows=tuple(options.row or ())
                        )
                        table[column] = {cell.row: cell for cell in asyncio.run(cells)}
                except MissingServer as missing:
                    table[column] = {"": Cell("", False, str(missing))}
                shutil.rmtree(folder, ignore_errors=True)
                print(f"{column}: {summary(table[column])}", file=sys.stderr, flush=True)
    print_table(table)
    return any(not cell.ok for cells in table.values() for cell in cells.values())


def summary(cells: dict[str, Cell]) -> str:
    marks = [cell.mark for cell in cells.values()]
    return ", ".join(f"{marks.count(mark)} {mark}" for mark in ("ok", "cannot", "FAILED"))


def print_table(table: dict[str, dict[str, Cell]]) -> None:
    columns = list(table)
    rows = list(dict.fromkeys(row for cells in table.values() for row in cells))
    print("| operation | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in rows:
        marks = [table[column][row].mark if row in table[column] else "" for column in columns]
        print(f"| {row} | " + " | ".join(marks) + " |")
    for mark in ("cannot", "FAILED"):
        for column, cells in table.items():
            for cell in cells.values():
                if cell.mark == mark:
                    print(f"{mark}: {column}: {cell.row}: {cell.why}")


if __name__ == "__main__":
    sys.exit(main())
