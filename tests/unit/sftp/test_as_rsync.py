"""Filters decide as rsync's do, which is asked itself."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncworker.sftp.filters import Filters, rule

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="there is no rsync on PATH to compare with")

NAMES = ("a", "b", "ab", "a.xml", "b.xml", "c.tmp", "dir", "sub", "x1", "x2", ".h")
PARTS = ("*", "a", "b", "*.xml", "?", "a*", "[ab]", "[!a]", "dir", "sub", "*b", "x[12]", "a**b", "**.xml", ".*", "??")


def fill(folder: Path, dice: random.Random, depth: int = 0) -> None:
    """Make a few files and folders; the same names at every depth."""
    folder.mkdir()
    for name in dice.sample(NAMES, 5):
        if depth < 3 and dice.random() < 0.45:
            fill(folder / name, dice, depth + 1)
        else:
            (folder / name).touch()


def some_pattern(dice: random.Random) -> str:
    parts = [dice.choice(PARTS) for _ in range(dice.choice((1, 1, 1, 2, 2, 3)))]
    # A `**` of its own in the middle is the one difference: `a/**/b` is met by `a/b` here, as in git.
    first = dice.choice(("", "", "", "/", "**/"))
    last = dice.choice(("", "", "", "/", "/**", "/***"))
    return first + "/".join(parts) + last


def left(filters: Filters, folder: Path, base: str = "") -> set[str]:
    found = set()
    for entry in os.scandir(folder):
        path = base + entry.name
        if entry.is_dir():
            if filters.enters(path):
                found |= left(filters, Path(entry.path), f"{path}/")
        elif filters.wants(path):
            found.add(path)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_the_same_files_are_left(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    source = tmp_path / "source"
    fill(source, dice)
    for _ in range(30):
        rules = [f"{dice.choice('+-')} {some_pattern(dice)}" for _ in range(dice.randint(1, 5))]
        rules += ["- *"] * (dice.random() < 0.3)
        options = [f"--filter={one}" for one in rules]
        command = ["rsync", "-rn", "--out-format=%n", *options, f"{source}/", str(tmp_path / "to")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wanted = {line for line in done.stdout.splitlines() if line and not line.endswith("/")}
        assert left(Filters(map(rule, rules)), source) == {path for path in wanted if (source / path).exists()}, rules
