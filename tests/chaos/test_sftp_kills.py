"""The short form of ``python -m tests.chaos.sftp_kills``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos.sftp_kills import SIGNALS, Plan, rounds


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("sftp-leftovers-are-removed")
def test_transfers_that_are_ended_leave_nothing_and_the_next_run_puts_all_right(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = list(rounds(Plan(rounds=1, files=600, large=1, kills=1, seed=3, signals=(number,)), tmp_path))
    assert len(done) == 4
    assert [name for ended in done for name in ended.signals]
