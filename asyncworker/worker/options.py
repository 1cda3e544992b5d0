"""Options of ``celery worker`` beyond Celery's own, and the switch of the command to the supervisor."""

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
from asyncworker.private_files import make_private
from asyncworker.settings import Settings
from asyncworker.worker.environment_file import WorkerEnvironment
from asyncworker.worker.health import BEAT_S, health_files
from asyncworker.worker.option_values import CheckingOption
from asyncworker.worker.place import Place
from asyncworker.worker.shutdown_signals import ShutdownSignals
from asyncworker.worker.supervised import Supervised
from asyncworker.worker.supervisor import Supervisor
from asyncworker.worker.supervisor_signs import SupervisorSigns

__all__ = ["add_options", "supervise"]

_GROUP = "Processes"
#: A worker that has cancelled what it ran has so long to flush, and to close its connections.
KILL_AFTER_S = 10.0
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
    # A worker's link to its supervisor, and its own streams where they are held back until it is ready.
    # Eager: what it refuses is refused before Celery detaches, or opens a file.
    options.add(CheckingOption(["--supervised"], type=int, hidden=True, is_eager=True))
    options.add(CeleryOption(["--supervised-output"], hidden=True))
    app.steps["worker"].update((Supervised, ShutdownSignals))


def supervise(worker: Any, options: Mapping[str, Any], settings: Settings) -> int | None:
    """Be the supervisor of the worker command's processes, where it was given ``--processes``; else do nothing.

    Called before the worker is set up. It takes the whole time until all workers have ended.

    Args:
        worker: The worker that the command was about to run.
        options: Its options.
        settings: Those of the app.

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
    environment = WorkerEnvironment(settings.env_file)
    # Celery's log format shows this name.
    multiprocessing.current_process().name = worker.hostname
    worker.app.log.setup(options.get("loglevel"), options.get("logfile"), hostname=worker.hostname)
    lock = create_pidlock(options["pidfile"]) if options.get("pidfile") else None
    if lock is not None:
        make_private(Path(lock.path))
    signs = SupervisorSigns(Path(settings.health_file) if settings.health_file else None)
    try:
        places = _places(worker.hostname, count, settings.health_file)
        return Supervisor(
            places,
            environment=environment,
            drain_timeout_s=settings.drain_timeout_s,
            kill_after_s=settings.cancel_grace_s + KILL_AFTER_S,
            watch=signs.watch,
            watch_s=BEAT_S if settings.health_file else None,
        ).run()
    finally:
        signs.remove()
        if lock is not None:
            lock.release()


def _places(hostname: str, count: int, health_file: str) -> list[Place]:
    name, _, host = hostname.partition("@")
    if health_file:
        for left in health_files(Path(health_file)):  # by one that was killed: each would be taken for one that hangs
            left.unlink(missing_ok=True)
    places = []
    for number in range(1, count + 1):
        node = f"{name}-{number}@{host}"
        file = Path(f"{health_file}.{number}") if health_file else None
        places.append(Place(node, functools.partial(worker_command, node), file))
    return places


def _check(options: Mapping[str, Any]) -> None:
    if options.get("beat"):
        raise SettingsError(
            "--beat does not go with --processes: each of them would run it; start celery beat by itself"
        )
    if options.get("statedb"):
        raise SettingsError("--statedb does not go with --processes: they would all write the same file")
    if click.get_current_context(silent=True) is None or "worker" not in sys.argv[1:]:
        raise SettingsError("--processes is for the celery command: celery -A APP worker --processes N")


def worker_command(node: str, link: int, output: str = "") -> list[str]:
    """Return the command line of one worker: this process's own, Python's options included, with what comes last."""
    words = [sys.executable, *sys.orig_argv[1:]]
    # Celery has gone to that folder already, and a relative name would be looked for below it. An absolute one stays:
    # it may be a link, which leads to other code by then.
    for index, word in enumerate(words):
        name, equals, folder = word.partition("=")
        if name != "--workdir":
            continue
        if equals and not Path(folder).is_absolute():
            words[index] = f"--workdir={Path.cwd()}"
        elif not equals and not Path(words[index + 1]).is_absolute():
            words[index + 1] = str(Path.cwd())
    # Celery reads what follows a -- as configuration.
    end = words.index("--") if "--" in words else len(words)
    held = ["--supervised-output", output] if output else []
    return [*words[:end], "--hostname", node, "--supervised", str(link), *held, *words[end:]]
