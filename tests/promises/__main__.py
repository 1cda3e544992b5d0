"""``python -m tests.promises``: print each promise of the README, its tests, and their last results on this machine."""

from __future__ import annotations

import sys

from tests.promises.marks import StrayMark, marks_below
from tests.promises.page import README, ROOT, faults, read_promises, table
from tests.promises.recording import read_results


def main() -> int:
    """Print the page; return 1 if a promise has no test, a marker names no promise, or the README says otherwise."""
    promises = read_promises()
    try:
        marks = marks_below(ROOT / "tests", ROOT)
    except StrayMark as exc:
        print(exc, file=sys.stderr)
        return 1
    print(table(promises, marks, read_results(ROOT / ".pytest_cache")))
    wrong = list(faults(promises, marks, README.read_text()))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
