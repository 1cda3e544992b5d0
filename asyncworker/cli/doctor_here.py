"""The doctor's checks of this machine and of the app: packages, process, settings, folder, store, tasks."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from asyncworker.cli.findings import Finding, broken, fine, told, warning
from asyncworker.default_app import check_environment
from asyncworker.errors import AsyncWorkerError, SettingsError
from asyncworker.private_files import make_private_folder
from asyncworker.settings import ENV_PREFIX, Settings
from asyncworker.store.probe import probe_store
from asyncworker.tasks.names import OUR_TASKS
from asyncworker.worker.defaults import POOL
from asyncworker.worker.tracing import is_async

__all__ = [
    "check_folder",
    "check_packages",
    "check_pool",
    "check_process",
    "check_store",
    "check_tasks",
    "check_time",
    "late_tasks",
    "named",
    "time_limit_s",
]

#: Named in the finding, in this order.
_SHOWN = ("celery", "kombu", "redis", "uvloop")

_LEAST_FREE_BYTES = 256 << 20

#: kombu's own, where broker_transport_options say nothing.
_VISIBILITY_TIMEOUT_S = 3600.0

_NAMED_TASKS = 3


def check_packages() -> Iterator[Finding]:
    """Versions, against what asyncworker needs."""
    shown = [f"Python {platform.python_version()}", *filter(None, map(_shown, ("asyncworker", *_SHOWN)))]
    yield fine("versions", ", ".join(shown))
    try:
        needed = importlib.metadata.requires("asyncworker") or []
    except importlib.metadata.PackageNotFoundError:
        yield fine("versions", "asyncworker runs from a folder and is not installed: what it needs is not compared")
        return
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = "is missing" if version is None else f"{version} is installed"
            wanted = f"{requirement.name}{requirement.specifier}"
            yield broken("versions", f"{requirement.name} {found}", f"pip install '{wanted}'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(name: str) -> str:
    version = _version(name)
    return f"{name} {version}" if version else ""


def check_process() -> Iterator[Finding]:
    """Report libraries that patch the process and do not work beside a loop thread."""
    try:
        check_environment()
    except SettingsError as exc:
        yield broken("process", told(exc), "see the finding")
    else:
        yield fine("process", "no gevent, no eventlet, no USE_FAST_LOCALS")


def check_pool(app: Any) -> Iterator[Finding]:
    """Report whether the app's workers use the async pool, and the source of each setting."""
    given = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    yield fine("settings", f"set in the environment: {', '.join(given) or 'none'}")
    if app.conf.worker_pool != POOL:
        yield broken(
            "settings",
            f"worker_pool is {app.conf.worker_pool!r}: workers of this app run no async tasks",
            "call asyncworker.install(app), and take worker_pool out of its configuration",
        )


def check_folder(settings: Settings) -> Iterator[Finding]:
    """The state folder: can be made, written, and has room."""
    folder = Path(settings.state_dir).absolute()
    try:
        make_private_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        yield broken(
            "state folder",
            f"{folder}: {exc.strerror or told(exc)}",
            "let the worker's user write there, or set ASYNCWORKER_STATE_DIR",
        )
        return
    if free < _LEAST_FREE_BYTES:
        yield warning("state folder", f"{folder}: {free >> 20} MB free", "make room, or set ASYNCWORKER_STATE_DIR")
    else:
        yield fine("state folder", f"{folder} can be written, {free >> 30} GB free")


def check_store(settings: Settings) -> Iterator[Finding]:
    """The store of runs and checkpoints: opens, writes, version."""
    try:
        report = asyncio.run(probe_store(settings.store_url_or_default()))
    except AsyncWorkerError as exc:
        yield broken("store", told(exc), "make it reachable and writable, or set ASYNCWORKER_STORE_URL")
        return
    home = "; serves the processes of one machine" if report.database == "sqlite" else ""
    yield fine(
        "store",
        f"{report.url}: {report.database} {report.database_version}, tables of version {report.schema_version}, "
        f"written, {report.runs:,} runs{home}",
    )


def check_tasks(app: Any) -> Iterator[Finding]:
    """Import the task modules as a worker does."""
    try:
        app.loader.import_default_modules()
        app.finalize()
    except (Exception, SystemExit) as exc:
        yield broken("tasks", told(exc), "mend the module, or take it out of the include list")
        return
    own = _own_tasks(app)
    if not own:
        yield warning("tasks", "no task of your own", "set ASYNCWORKER_INCLUDE to the modules that declare them")
        return
    on_loop = sum(is_async(task) for task in own)
    yield fine("tasks", f"{on_loop} async, {len(own) - on_loop} on threads")


def _own_tasks(app: Any) -> list[Any]:
    return [task for name, task in app.tasks.items() if not name.startswith("celery.") and name not in OUR_TASKS]


def check_time(app: Any) -> Iterator[Finding]:
    """Report a visibility timeout after which the broker redelivers tasks that still run."""
    try:
        kind = app.connection_for_read().transport.driver_type
    except Exception:  # the broker's own check tells it
        return
    if kind not in ("redis", "sqs"):
        return
    given = (app.conf.broker_transport_options or {}).get("visibility_timeout")
    visible_s = float(given or _VISIBILITY_TIMEOUT_S)
    # A task that is acknowledged when it begins is not delivered again; a fan-out holds a lease.
    late = late_tasks(app)
    long = sorted(task.name for task in late if (time_limit_s(app, task) or 0) >= visible_s)
    whose = "" if given else ", kombu's default"
    if long:
        yield warning(
            "visibility timeout",
            f"{visible_s:g} s{whose}: late-acknowledged tasks may run longer and are then delivered again: "
            f"{named(long)}",
            "set broker_transport_options = {'visibility_timeout': ...} above their time limits",
        )
    else:
        unlimited = sum(time_limit_s(app, task) is None for task in late)
        rest = f"; {unlimited} late-acknowledged tasks have no time limit to compare it with" if unlimited else ""
        yield fine("visibility timeout", f"{visible_s:g} s{whose}{rest}")


def late_tasks(app: Any) -> list[Any]:
    """Return the app's own tasks that are acknowledged when they end."""
    return [task for task in _own_tasks(app) if task.acks_late]


def named(tasks: list[str]) -> str:
    """Return the first few names, for a finding."""
    return ", ".join(tasks[:_NAMED_TASKS]) + (", ..." if len(tasks) > _NAMED_TASKS else "")


def time_limit_s(app: Any, task: Any) -> float | None:
    """Return how long a task may run; ``None`` where nothing limits it."""
    limits = (task.time_limit, task.soft_time_limit, app.conf.task_time_limit, app.conf.task_soft_time_limit)
    return next((float(limit) for limit in limits if limit), None)
