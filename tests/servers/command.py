"""The ``asyncworker`` command, as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["asyncworker"]

ROOT = Path(__file__).parents[2]


def asyncworker(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; its output is wide enough that no table folds."""
    return subprocess.run(
        [sys.executable, "-c", "from asyncworker.cli import main; main()", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(env or {})},
        capture_output=True,
        text=True,
        timeout=180,
    )
