"""What ``celery worker`` takes beyond Celery's own options, and how the command becomes the supervisor."""

from __future__ import annotations

import functools
import multiprocessing
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryOption
from celery.platforms import create_pidlock

from asyncworker.errors import SettingsError
from asyncworker.worker.supervised import Supervised
from asyncworker.worker.supervisor import Supervisor

__all__ = ["add_options", "supervise"]

_GROUP = "Processes"
_COUNT = click.IntRange(min=1)


def add_options(app: Any) -> None:
    """Give the app's ``worker`` command our options; once, however often it is called."""
    options = app.user_options["worker"]
    if any(option.name == "processes" for option in options):
        return
    for name, told in (
        ("--processes", "Run so many complete workers, and replace those that die; -c is for each of them."),
        ("--max-tasks", "With --processes: replace a worker after so many tasks."),
        ("--max-memory-mb", "With --processes: replace a worker that has more resident memory."),
    ):
        options.add(CeleryOption([name], type=_COUNT, help=told, help_group=_GROUP))
    # The pipe from a worker to its supervisor.
    options.add(CeleryOption(["--supervised"], type=int, hidden=True))
    app.steps["worker"].add(Supervised)


def supervise(worker: Any, options: Mapping[str, Any], *, drain_timeout_s: float) -> int | None:
    """Be the supervisor of the worker command's processes, where it was given ``--processes``; else do nothing.

    Called before the worker is set up. It takes the whole time until all workers have ended.

    Args:
        worker: The worker that the command was about to run.
        options: Its options.
        drain_timeout_s: How long a worker that was told to end may take.

    Returns:
        The exit code; ``None``: this process is to be a worker itself.

    Raises:
        SettingsError: An option that does not go with ``--processes``.
    """
    count = options.get("processes")
    if options.get("supervised") is not None:
        return None
    if count is None:
        for name in ("max_tasks", "max_memory_mb"):
            if options.get(name) is not None:
                raise SettingsError(
                    f"--{name.replace('_', '-')} needs --processes: somebody must start the next worker"
                )
        return None
    _check(options)
    name, _, host = worker.hostname.partition("@")
    nodes = [f"{name}-{number}@{host}" for number in range(1, count + 1)]
    # Celery's log format shows this name.
    multiprocessing.current_process().name = worker.hostname
    worker.app.log.setup(options.get("loglevel"), options.get("logfile"), hostname=worker.hostname)
    supervisor = Supervisor(
        [(node, functools.partial(worker_command, node)) for node in nodes], drain_timeout_s=drain_timeout_s
    )
    lock = create_pidlock(options["pidfile"]) if options.get("pidfile") else None
    try:
        return supervisor.run()
    finally:
        if lock is not None:
            lock.release()


def _check(options: Mapping[str, Any]) -> None:
    context = click.get_current_context(silent=True)
    if context is None or "worker" not in sys.argv[1:]:
        raise SettingsError("--processes is for the celery command: celery -A APP worker --processes N")
    if options.get("beat"):
        raise SettingsError(
            "--beat does not go with --processes: each of them would run it; start celery beat by itself"
        )
    if options.get("statedb"):
        raise SettingsError("--statedb does not go with --processes: they would all write the same file")
    workdir = getattr(context.obj, "workdir", None)
    if workdir and not Path(workdir).is_absolute():
        raise SettingsError(f"--workdir is {str(workdir)!r}: with --processes it must be an absolute path")


def worker_command(node: str, pipe: int) -> list[str]:
    """Return the command line of one worker: this process's own, Python's options included, with what comes last."""
    words = [sys.executable, *sys.orig_argv[1:]]
    # Celery reads what follows a -- as configuration.
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], "--hostname", node, "--supervised", str(pipe), *words[end:]]
