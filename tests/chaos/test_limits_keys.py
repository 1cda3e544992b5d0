"""Thousands of keys of one cluster-wide limit in several processes: never more than N, no permit lost. Short form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.limits_keys import run

KEYS, PROCESSES, PERMITS = 2000, 3, 2


@pytest.mark.timeout(400)
@pytest.mark.promise("limit-is-never-exceeded")
def test_thousands_of_keys_in_several_processes_have_never_more_than_n_holders(tmp_path: Path) -> None:
    outcome = run(tmp_path, keys=KEYS, processes=PROCESSES, permits=PERMITS, lease_s=15.0, give_up_s=300.0)
    assert not outcome.excess
    assert outcome.most == PERMITS
    assert outcome.left == 0
    assert not outcome.errors
    assert [report.entered for report in outcome.reports] == [KEYS] * PROCESSES
    # One for the steps and one that listens, whatever the number of keys.
    assert outcome.connections == 2 * PROCESSES
