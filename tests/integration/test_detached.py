"""``celery worker --detach --processes N``: the supervisor in the background, found by its pid file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
from celery import Celery

from tests.integration import tasks
from tests.integration.test_shutdown import wait_until
from tests.servers.processes import has_ended
from tests.servers.worker import ROOT


def test_a_detached_supervisor_has_a_pid_file(worker_env: dict[str, str], client: Celery, tmp_path: Path) -> None:
    pidfile, logfile = tmp_path / "pid", tmp_path / "log"
    command = [sys.executable, "-m", "celery", "-A", "asyncworker", "worker", "--detach", "--processes", "1"]
    command += ["--pidfile", str(pidfile), "--logfile", str(logfile), "-n", "w@test", "--loglevel", "INFO"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **worker_env, "ASYNCWORKER_INCLUDE": tasks.__name__}
    subprocess.run(command, env=env, check=True, cwd=tmp_path, timeout=180)
    wait_until(lambda: pidfile.exists() and pidfile.read_text().strip() != "")
    supervisor = psutil.Process(int(pidfile.read_text()))
    try:
        assert client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
        (child,) = supervisor.children()
        assert child.pid != supervisor.pid
    finally:
        supervisor.terminate()
    wait_until(lambda: has_ended(supervisor))
    assert has_ended(child)
    assert not pidfile.exists()
