"""Celery workers that run ``async def`` tasks by the thousand on one event loop a process.

``asyncworker.app`` is the default Celery app; it is made when it is first asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import alone would take as long as all else here
if TYPE_CHECKING:
    from typing import Any

    from asyncworker.default_app import install
    from asyncworker.errors import AsyncWorkerError, ItemErrors
    from asyncworker.iterate import (
        Item,
        ItemFailure,
        IterateOptions,
        Progress,
        SkipItem,
        current_item,
        previous_result,
    )
    from asyncworker.limits import RateLimit, Semaphore, limit
    from asyncworker.resources import Resource, resource, use
    from asyncworker.tasks import state
    from asyncworker.tasks.publish import publish_many
    from asyncworker.tasks.result import IterateResult
    from asyncworker.tasks.task import AsyncTask
    from asyncworker.tasks.typed_app import TypedApp

    app: TypedApp

__all__ = [
    "app",
    "install",
    "publish_many",
    "AsyncTask",
    "IterateOptions",
    "IterateResult",
    "Progress",
    "ItemFailure",
    "Item",
    "current_item",
    "previous_result",
    "SkipItem",
    "state",
    "Resource",
    "resource",
    "use",
    "Semaphore",
    "RateLimit",
    "limit",
    "AsyncWorkerError",
    "ItemErrors",
]

#: Where each name is at home. Imported when it is first asked for: a command's --help needs none of them.
_HOMES = {
    name: f"{__name__}.{home}"
    for home, names in {
        "default_app": ("install",),
        "errors": ("AsyncWorkerError", "ItemErrors"),
        "iterate": (
            "Item",
            "ItemFailure",
            "IterateOptions",
            "Progress",
            "SkipItem",
            "current_item",
            "previous_result",
        ),
        "limits": ("RateLimit", "Semaphore", "limit"),
        "resources": ("Resource", "resource", "use"),
        "tasks": ("state",),
        "tasks.publish": ("publish_many",),
        "tasks.result": ("IterateResult",),
        "tasks.task": ("AsyncTask",),
    }.items()
    for name in names
}

#: Rooms that are there as attributes, too, without being imported by name.
_ROOMS = frozenset(
    ("errors", "iterate", "limits", "loop", "metrics", "resources", "settings", "store", "tasks", "worker")
)


def __getattr__(name: str) -> Any:
    import importlib

    if name == "app":
        return _app()
    if name in _HOMES:
        home = importlib.import_module(_HOMES[name])
        # A name of a package may be a module in it.
        value = getattr(home, name, None) or importlib.import_module(f"{home.__name__}.{name}")
        return globals().setdefault(name, value)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _app() -> Any:
    import click

    from asyncworker.default_app import get_app
    from asyncworker.errors import SettingsError

    try:
        return get_app()
    except SettingsError as exc:
        if click.get_current_context(silent=True) is None:
            raise
        # `celery -A asyncworker` would print a traceback around it.
        raise SystemExit(f"asyncworker: {exc}") from None
