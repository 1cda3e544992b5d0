"""A real Celery worker as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from asyncworker.cli.processes import Child
from asyncworker.loop.debug import VIOLATION

ROOT = Path(__file__).parents[2]

#: What a whole run of the tests may be told, see ``tests/conftest.py``.
FAST_SETTINGS = ("ASYNCWORKER_FAST_BROKER", "ASYNCWORKER_FAST_RESULTS")


class Worker:
    """What a test may do to a worker, and see of it."""

    def __init__(self, child: Child, name: str) -> None:
        self.child = child
        self.name = name

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def returncode(self) -> int | None:
        return self.child.returncode

    def log(self) -> str:
        """Everything it has logged so far."""
        return self.child.log()

    def wait_for_log(self, text: str, timeout_s: float = 120.0) -> None:
        """Wait until the log holds that text, or fail with the whole log."""
        assert self.child.wait_for_log(text, timeout_s), f"{text!r} is not in the worker's log:\n{self.log()}"

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    def pause(self) -> None:
        """SIGSTOP: alive, and deaf."""
        self.child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.child.signal(signal.SIGCONT)

    def stop(self, grace_s: float = 120.0) -> int:
        """SIGTERM, a warm shutdown; the exit code."""
        self.resume()
        return self.child.stop(grace_s)

    def signal(self, number: signal.Signals) -> None:
        self.child.signal(number)

    def wait(self, timeout_s: float = 120.0) -> int:
        """Wait for its own end; the exit code."""
        code = self.child.wait(timeout_s)
        assert code is not None, f"the worker is still running; its log:\n{self.log()}"
        return code


def pause_outside_transactions(node: Worker, state_dir: Path) -> None:
    """Freeze a worker while it cannot hold SQLite's write lock, which it would keep from all others."""
    for file in state_dir.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            node.pause()
            connection.execute("ROLLBACK")
            return
    node.pause()


@contextlib.contextmanager
def running_worker(
    folder: Path,
    *arguments: str,
    app: str = "asyncworker",
    env: Mapping[str, str] | None = None,
    name: str = "worker@test",
    cwd: Path = ROOT,
    ready: bool = True,
    program: Sequence[str] = (sys.executable, "-m", "celery"),
) -> Iterator[Worker]:
    """Run ``celery -A APP worker ARGUMENTS`` until the block ends.

    Args:
        folder: Where its log goes.
        arguments: Added to the command line.
        app: What ``-A`` names.
        env: Added to the environment.
        name: The node's name.
        cwd: Where it runs, which is where ``-A`` looks first.
        ready: Whether to wait until it takes tasks.
        program: How ``celery`` is run.
    """
    command = [*program, "-A", app, "worker", "--loglevel", "INFO", "-n", name, *arguments]
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ASYNCWORKER_", "CELERY_")) or key in FAST_SETTINGS
    }
    inherited["ASYNCWORKER_DEBUG"] = "1"
    # The checkout comes first on the path: a test module can name itself in ASYNCWORKER_INCLUDE.
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    log = folder / f"{name.partition('@')[0]}.log"
    with Child(command, env=inherited | dict(env or {}), log=log, cwd=cwd) as child:
        worker = Worker(child, name)
        try:
            if ready:
                worker.wait_for_log(" ready.")
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.resume()
    assert VIOLATION not in child.log(), child.log()
