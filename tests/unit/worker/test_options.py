"""When the worker command becomes a supervisor, and the command line with which that starts its workers."""

import sys
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SettingsError
from asyncworker.settings import Settings
from asyncworker.worker.options import supervise, worker_command

OURS = ["--hostname", "w-1@h", "--supervised", "9"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("-X dev -m celery -A shop worker -c 5", "-X dev -m celery -A shop worker -c 5 OURS"),
        ("/bin/celery -A shop worker -n w@h -- broker.x=1", "/bin/celery -A shop worker -n w@h OURS -- broker.x=1"),
        ("-m celery --workdir sub -A shop worker", "-m celery --workdir HERE -A shop worker OURS"),
        ("-m celery --workdir=sub -A shop worker", "-m celery --workdir=HERE -A shop worker OURS"),
    ],
)
def test_it_is_the_own_one_with_another_name(monkeypatch: pytest.MonkeyPatch, given: str, made: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *given.split()])
    wanted = made.replace("OURS", " ".join(OURS)).replace("HERE", str(Path.cwd())).split()
    assert worker_command("w-1@h", 9) == [sys.executable, *wanted]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"processes": 2, "beat": True}, "--beat does not go with --processes"),
        ({"processes": 2, "statedb": "state"}, "--statedb does not go with --processes"),
        ({"processes": 2}, "--processes is for the celery command"),
        ({"max_tasks": 2}, "--max-tasks needs --processes"),
        ({"max_memory_mb": 2}, "--max-memory-mb needs --processes"),
    ],
)
def test_what_does_not_go_together_is_told(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        supervise(None, options, Settings())


@pytest.mark.parametrize("options", [{}, {"processes": 2, "supervised": 9}])
def test_other_workers_are_workers(options: dict[str, Any]) -> None:
    assert supervise(None, options, Settings()) is None
