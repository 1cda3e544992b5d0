"""Which Celery app a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from celery.app.utils import find_app

from asyncworker.errors import SettingsError

__all__ = ["app_option", "load_app"]

C = TypeVar("C", bound=Callable[..., Any])


def app_option(command: C) -> C:
    """Give a command the option ``-A``: the Celery app, as of ``celery -A``; passed as ``app_name``."""
    help_text = "The Celery app, as of `celery -A`."
    return click.option("-A", "--app", "app_name", default="asyncworker", show_default=True, help=help_text)(command)


def load_app(name: str) -> Any:
    """Import a Celery app by name.

    Raises:
        SettingsError: There is none of that name.
    """
    try:
        return find_app(name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"no Celery app {name!r}: {exc}") from exc
