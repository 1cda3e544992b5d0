"""Which Celery app a command talks to."""

from __future__ import annotations

from typing import Any

import click
from celery.app.utils import find_app

from asyncworker.errors import SettingsError

__all__ = ["app_option", "load_app"]

app_option = click.option(
    "-A", "--app", "app_name", default="asyncworker", show_default=True, help="The Celery app, as of `celery -A`."
)


def load_app(name: str) -> Any:
    """Import a Celery app by name.

    Raises:
        SettingsError: There is none of that name.
    """
    try:
        return find_app(name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"no Celery app {name!r}: {exc}") from exc
