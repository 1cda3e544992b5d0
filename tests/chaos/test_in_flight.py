"""Very many tasks in flight: none has a connection of its own. ``python -m tests.chaos.in_flight`` has the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.in_flight import measure


@pytest.mark.timeout(600)
def test_ten_thousand_tasks_take_no_more_connections_than_a_thousand(tmp_path: Path) -> None:
    # Each I/O thread has one once it was needed, which may be in one case and not in the other.
    threads = 3
    env = {"ASYNCWORKER_IO_THREADS": str(threads)}
    thousand = measure(tmp_path / "thousand", 1_000, env)
    assert thousand.connections > 0
    assert measure(tmp_path / "ten-thousand", 10_000, env).connections <= thousand.connections + threads
