"""The short form of ``python -m tests.chaos.inbox``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.inbox import Plan, handle_inbox


@pytest.mark.timeout(600)
@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without a key"])
def test_every_file_of_an_inbox_is_handled_whenever_its_worker_is_killed(tmp_path: Path, keyed: bool) -> None:
    done = handle_inbox(Plan(kills=3, keyed=keyed, seed=3), tmp_path)
    assert done.executions >= done.files
    assert done.reported <= done.files
    # A listing that has changed is another source, but where items are known by a key.
    assert done.refused <= (0 if keyed else 3)
