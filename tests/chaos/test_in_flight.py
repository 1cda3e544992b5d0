"""Very many tasks in flight: none has a connection of its own. ``python -m tests.chaos.in_flight`` has the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.in_flight import measure


@pytest.mark.timeout(300)
def test_ten_thousand_tasks_take_no_more_connections_than_a_thousand(tmp_path: Path) -> None:
    # With fewer I/O threads than there are by default, so that all of them are used in both cases.
    env = {"ASYNCWORKER_IO_THREADS": "3"}
    thousand = measure(tmp_path / "thousand", 1_000, env)
    assert thousand.connections > 0
    assert measure(tmp_path / "ten-thousand", 10_000, env).connections == thousand.connections
