"""The short form of ``python -m tests.chaos.kill_rounds``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kill_rounds import Plan, rounds


@pytest.mark.parametrize(("store", "count"), [("postgres", 2), ("sqlite", 1)])
def test_runs_that_are_killed_equal_an_undisturbed_one(store: str, count: int, tmp_path: Path) -> None:
    done = list(rounds(Plan(rounds=count, items=2000, concurrency=20, store=store, most_kills=2, seed=7), tmp_path))
    assert len(done) == count
    assert sum(each.kills for each in done) >= count
