"""What mypy says of the code of users: nothing of what is right, and each wrong call by name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def expected(file: Path) -> dict[int, set[str]]:
    """Return the kinds of errors by line, as the comments of a file say them."""
    found = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if comment := re.search(r"# red: (.*)$", line):
            found[number] = set(comment[1].split(", "))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.promise("wrong-keyword-is-red")
def test_mypy_refuses_wrong_calls_and_no_right_one() -> None:
    files = [HERE / "right.py", HERE / "wrong.py"]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in ran.stdout.splitlines():
        if error := re.match(r"(.*?):(\d+): error: .*\[([a-z-]+)\]$", line):
            found[Path(error[1]).name][int(error[2])].add(error[3])
        else:
            assert ": note: " in line, ran.stdout
    assert ran.stderr == ""
    assert {name: dict(lines) for name, lines in found.items()} == {"wrong.py": expected(HERE / "wrong.py")}
