"""Output of the demo: a live bar on a terminal, plain lines in a pipe, a table at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["DemoView", "Summary"]

#: In a pipe: a line a second at least.
_LINE_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The closing table's figures."""

    files: int
    size_bytes: int
    seconds: float
    fetched: int
    resumed: int
    failed: int

    @property
    def files_per_s(self) -> float:
        """Files that were fetched in this session, a second."""
        return self.fetched / self.seconds if self.seconds else 0.0


class DemoView:
    """Writes to one console."""

    def __init__(self, console: Console | None = None) -> None:
        # Highlighting would colour each number; markup would eat the brackets of an error's text.
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text)

    @contextlib.contextmanager
    def bar(self, label: str, total: int, *, lines: int = 10) -> Iterator[Callable[[int], None]]:
        """Show how far something is; call what this yields with the count, as often as you like.

        In a pipe that is a line each second, and ``lines`` of them where it is over sooner.
        """
        showing = self._live(label, total) if self._console.is_terminal else self._lines(label, total, lines)
        with showing as update:
            yield update

    @contextlib.contextmanager
    def _live(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            shown = progress.add_task(label, total=total, rate="")
            pace = _Pace()
            yield lambda done: progress.update(shown, completed=done, rate=f"{pace.at(done):,.0f}/s")

    @contextlib.contextmanager
    def _lines(self, label: str, total: int, lines: int) -> Iterator[Callable[[int], None]]:
        pace = _Pace()
        last_done, last_at = 0, time.monotonic()

        def update(done: int) -> None:
            nonlocal last_done, last_at
            rate = pace.at(done)
            if done == last_done:
                return
            far = done == total or done - last_done >= total / lines
            if far or time.monotonic() - last_at >= _LINE_EVERY_S:
                self.say(f"{label}: {done:,} of {total:,} ({rate:,.0f}/s)")
                last_done, last_at = done, time.monotonic()

        yield update

    def table(self, summary: Summary) -> None:
        """Print the closing table."""
        table = Table("files", "bytes", "seconds", "files/s", "resumed", "failed")
        for column in table.columns:
            column.justify = "right"
        table.add_row(
            f"{summary.files:,}",
            f"{summary.size_bytes:,}",
            f"{summary.seconds:.2f}",
            f"{summary.files_per_s:,.0f}",
            f"{summary.resumed:,}",
            f"{summary.failed:,}",
        )
        self._console.print(table)


class _Pace:
    """Things a second since the first count, which a continued run begins high up."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._before: int | None = None

    def at(self, done: int) -> float:
        if self._before is None:
            self._before = done
        elapsed_s = time.monotonic() - self._began_at
        return (done - self._before) / elapsed_s if elapsed_s else 0.0
