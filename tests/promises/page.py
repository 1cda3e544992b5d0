"""The page of promises: what is promised, by which tests it is shown, how they ended last, and what is missing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.promises.marks import Mark
from tests.promises.recording import Result

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PROMISES = Path(__file__).with_name("promises.toml")

#: Every item of this section's list is a promise, and so has a name.
SECTION = "What is promised"


def read_promises(path: Path = PROMISES) -> dict[str, str]:
    """Return the promises by name: each a text that stands in the README word for word."""
    return tomllib.loads(path.read_text())


def table(promises: dict[str, str], marks: list[Mark], results: dict[str, Result]) -> str:
    """Return the page as text: a line a test, with its promise and its last result."""
    rows = [("promise", "test", "last result")]
    for name in promises:
        tests = [mark.test for mark in marks if mark.promise == name]
        rows += [
            ("" if count else name, test, str(results.get(test, "not run here")))
            for count, test in enumerate(tests or ["none"])
        ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows)


def faults(promises: dict[str, str], marks: list[Mark], readme: str) -> Iterator[str]:
    """Yield what is wrong with the page, one line each; nothing where every promise is kept by name."""
    marked = {mark.promise for mark in marks}
    text = _plain(readme)
    for name, promise in promises.items():
        if name not in marked:
            yield f"{name}: no test is marked with this promise"
        if _plain(promise) not in text:
            yield f"{name}: the README does not say {promise!r}"
    for mark in marks:
        if mark.promise not in promises:
            yield f"{mark.test}: {mark.promise!r} names no promise"
    for item in _items(readme):
        if not any(_plain(promise) in item for promise in promises.values()):
            yield f"the README promises without a name: {item[:100]!r}"


def _items(readme: str) -> list[str]:
    section = readme.partition(f"\n## {SECTION}\n")[2].partition("\n## ")[0]
    return [_plain(item) for item in re.findall(r"^- (.*(?:\n  .*)*)", section, re.MULTILINE)]


def _plain(text: str) -> str:
    return " ".join(text.split())
