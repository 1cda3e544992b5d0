"""Which Celery app a command talks to, and how it speaks of that app's broker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
from amqp.exceptions import AMQPError
from celery.app.utils import find_app
from celery.exceptions import BackendError, ImproperlyConfigured
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from asyncworker.default_app import check_broker_url
from asyncworker.errors import AsyncWorkerError, SettingsError
from asyncworker.exit_signals import ending_at_once
from asyncworker.redaction import redacted

__all__ = ["app_command", "app_option", "check_result_url", "load_app", "talking_to_broker"]

C = TypeVar("C", bound=Callable[..., Any])

_HELP = "The Celery app, as of `celery -A`."


def app_option(command: C) -> C:
    """Give a command the option ``-A``: the Celery app, as of ``celery -A``; passed as ``app_name``."""
    return click.option("-A", "--app", "app_name", default="asyncworker", show_default=True, help=_HELP)(command)


def app_command(command: C) -> C:
    """Give a command of a group with ``-A`` the same option; the app is its first argument."""

    @functools.wraps(command)
    def with_app(*arguments: Any, app_name: str | None, **options: Any) -> Any:
        return command(load_app(app_name or click.get_current_context().obj), *arguments, **options)

    return click.option("-A", "--app", "app_name", help=_HELP)(with_app)  # type: ignore[return-value]


def load_app(name: str) -> Any:
    """Import a Celery app by name.

    Raises:
        SettingsError: There is none of that name.
    """
    try:
        with ending_at_once():
            return find_app(name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"no Celery app {name!r}: {exc}") from exc


def check_result_url(app: Any) -> None:
    """Make the app's result backend, which connects to nothing.

    Raises:
        SettingsError: Its URL cannot be one.
    """
    try:
        app.backend  # noqa: B018
    except (ValueError, KeyError, ImportError, ImproperlyConfigured) as exc:
        # A ValueError quotes what is taken for the port, and may be of the password.
        reason = "" if isinstance(exc, ValueError | KeyError) else f": {exc}"
        raise SettingsError(
            f"result_backend is {redacted(str(app.conf.result_backend))!r}: not one that Celery knows{reason}"
        ) from None


@contextlib.contextmanager
def talking_to_broker(app: Any) -> Iterator[None]:
    """Say in one line what is wrong with the broker, or with the result backend that a sender asks, and where it is.

    Raises:
        SettingsError: The URL cannot be a broker.
        AsyncWorkerError: It does not answer.
    """
    shown = check_broker_url(app)
    check_result_url(app)
    try:
        yield
    except (OperationalError, AMQPError, RedisError, BackendError, ConnectionError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        said = " ".join(str(exc).split()) or type(exc).__name__
        raise AsyncWorkerError(f"the broker at {shown}, or the result backend, does not answer: {said}") from exc
    except ValueError as exc:
        if "master_name" not in str(exc):  # kombu's, of a Sentinel
            raise
        raise SettingsError(f"broker_url is {shown!r}: {exc}") from exc
    except RuntimeError as exc:
        if "result store backend" not in str(exc):  # Celery's, which has given up
            raise
        raise AsyncWorkerError(f"the result backend of {app.main} does not answer: {str(exc).strip()}") from exc
