"""The short form of ``python -m tests.chaos.kill_rounds``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kill_rounds import Plan, rounds


@pytest.mark.promise("killed-run-resumes")
def test_runs_that_are_killed_equal_an_undisturbed_one(tmp_path: Path) -> None:
    done = list(rounds(Plan(rounds=2, items=2000, concurrency=50, most_kills=1, seed=7), tmp_path))
    assert len(done) == 2
    assert sum(len(each.ages_s) for each in done) >= 1
