"""A worker never stalls with messages in its queue; ``python -m tests.chaos.endurance`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import endurance
from tests.chaos.endurance import Stall, running_endurance


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fast", [False, True])
def test_no_stall_over_preloaded_tasks_nor_over_bursts(tmp_path: Path, fast: bool) -> None:
    with running_endurance(tmp_path, fast=fast) as running:
        for _ in range(2):
            running.preloaded(4000)
        running.bursts(500, seed=1)


def test_a_stall_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endurance, "STALL_S", 2.0)
    with running_endurance(tmp_path) as running:
        running.worker.wait_for_log("light.release")
        running.worker.pause()
        with pytest.raises(Stall, match="0 of 100 done, and nothing for 2 s"):
            running.preloaded(100)
