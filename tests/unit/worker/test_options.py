"""The command line with which a supervisor starts its workers."""

import sys
from pathlib import Path

import pytest

from asyncworker.worker.options import worker_command

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
